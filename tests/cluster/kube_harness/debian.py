"""The few programs of a node that come from the distribution: runc, nft and a static busybox.

Where they are not installed they are fetched with apt and unpacked into `.tools/debian/`: nothing
is installed, and no file of the machine changes.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kube_harness.build import Say
from kube_harness.errors import Unavailable
from kube_harness.programs import CACHE

FOLDER = CACHE / "debian"
PACKAGES = {"runc": "runc", "nft": "nftables", "busybox": "busybox-static"}
SEARCHED = ("usr/sbin", "usr/bin", "sbin", "bin")
APT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Found:
    """Paths of the programs, and the environment in which unpacked ones find their libraries."""

    runc: Path
    nft: Path
    busybox: Path

    def environment(self) -> dict[str, str]:
        """PATH and library path for a program that calls runc or nft by name."""
        folders = [str(self.nft.parent), str(self.runc.parent), os.environ.get("PATH", os.defpath)]
        libraries = FOLDER / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
        known = {"PATH": os.pathsep.join(folders)}
        return known | ({"LD_LIBRARY_PATH": str(libraries)} if libraries.exists() else {})


def ensure(say: Say) -> Found:
    """Find the three, fetching those that are not here.

    Raises:
        Unavailable: one is missing and cannot be fetched; the message says what to install.
    """
    missing = [package for name, package in PACKAGES.items() if _find(name) is None]
    if missing:
        _fetch(missing, say)
    found = {name: _find(name) for name in PACKAGES}
    absent = [PACKAGES[name] for name, path in found.items() if path is None]
    if absent:
        raise Unavailable(f"missing on this machine: install the packages {' '.join(absent)}")
    return Found(**{name: path for name, path in found.items() if path is not None})


def _find(name: str) -> Path | None:
    candidates = [FOLDER / folder / name for folder in SEARCHED]
    installed = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if installed:
        candidates.insert(0, Path(installed))
    for path in candidates:
        if path.exists() and (name != "busybox" or _is_static(path)):
            return path
    return None


def _is_static(path: Path) -> bool:
    """A dynamic ELF program names its interpreter in its first pages."""
    with path.open("rb") as stream:
        return b"/ld-" not in stream.read(4096)


def _fetch(packages: list[str], say: Say) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable(f"missing on this machine: install the packages {' '.join(packages)}")
    say(f"fetching {', '.join(packages)} with apt (nothing is installed)")
    try:
        wanted = _closure(packages)
    except subprocess.CalledProcessError:
        _apt("update", "-qq")
        wanted = _closure(packages)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".debian-") as folder:
        _apt("download", "-qq", *wanted, folder=folder)
        for archive in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", archive, FOLDER], check=True, timeout=APT_SECONDS)


def _closure(packages: list[str]) -> list[str]:
    """The packages and those of their dependencies that are not installed here."""
    answer = _apt("install", "--simulate", "--no-install-recommends", *packages)
    return re.findall(r"^Inst (\S+)", answer, re.M)


def _apt(*arguments: str, folder: str | None = None) -> str:
    done = subprocess.run(
        ["apt-get", "-o", "APT::Sandbox::User=root", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=APT_SECONDS, check=True,
    )  # fmt: skip
    return done.stdout
