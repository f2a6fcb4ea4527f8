"""helm as a test calls it: either version, one cluster, and a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kube_harness.programs import PROJECT, binary

CHART = PROJECT / "charts" / "vaco"
CALL_SECONDS = 120
RENDERED_FOR = "1.36"
Values = Mapping[str, Any]


class Refused(AssertionError):  # noqa: N818 - what helm did, and some tests want
    """helm ended with a failure; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """One version of helm.

    Attributes:
        program: `helm` (4) or `helm3`.
        home: a folder for its cache and settings, and for files of values.
        kubeconfig: of the cluster; None: it needs none.

    """

    program: str
    home: Path
    kubeconfig: Path | None = None

    def run(self, *arguments: str, values: Values | None = None) -> str:
        """Run a command; returns what it printed.

        Raises:
            Refused: it failed.
        """
        given: tuple[str, ...] = ()
        if values is not None:
            path = self.home / "values.json"
            path.write_text(json.dumps(values))
            given = ("--values", str(path))
        folders = {
            f"HELM_{kind}_HOME": str(self.home / kind) for kind in ("CACHE", "CONFIG", "DATA")
        }
        where = {} if self.kubeconfig is None else {"KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [binary(self.program), *arguments, *given],
            env={"PATH": os.defpath, "HOME": str(self.home), **folders, **where},
            capture_output=True, text=True, timeout=CALL_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Refused(f"{self.program} {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def template(
        self, release: str, namespace: str, values: Values | None = None, chart: Path = CHART
    ) -> list[dict[str, Any]]:
        """Render the chart; returns the documents."""
        # Without a cluster helm takes a version for granted, which its release builds set.
        where = ("--namespace", namespace, "--kube-version", RENDERED_FOR)
        text = self.run("template", release, str(chart), *where, values=values or {})
        return [document for document in yaml.safe_load_all(text) if document]

    def install(
        self, release: str, namespace: str, values: Values, chart: Path = CHART
    ) -> str:  # fmt: skip
        """Install the chart or upgrade to it; returns helm's notes."""
        return self.run(
            "upgrade", "--install", release, str(chart), "--namespace", namespace, values=values
        )
