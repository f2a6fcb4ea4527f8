"""`helm test` on the real node: it trains a job when all is well, and fails when it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.helm import Refused
from training_harness import installed
from training_harness.installed import NAMESPACE, RELEASE, Installed, make_field
from vaco.job import API_VERSION

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

# The first run of all builds the image and its bases.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TRAINS_IN = "smoke"


@pytest.fixture(scope="module")
def vaco(node: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    with installed.installed(node, tmp_path_factory.mktemp("helm"), say) as vaco:
        make_field(vaco.api, TRAINS_IN)
        yield vaco
        # Other modules install it themselves.
        vaco.helm.run("uninstall", RELEASE, "--namespace", NAMESPACE)
        for name in (TRAINS_IN, NAMESPACE):
            vaco.api.delete("v1", "Namespace", name)
        vaco.api.wait_for(
            "the namespaces are gone",
            lambda: not any(vaco.api.find("v1", "Namespace", n) for n in (TRAINS_IN, NAMESPACE)),
        )


def _test(vaco: Installed, spec: dict[str, Any]) -> str:
    """Run `helm test` with a job of that spec; returns what it printed."""
    test = {"namespace": TRAINS_IN, "timeoutSeconds": 200, "spec": spec}
    values = {**installed.values(vaco.cluster), "test": test}
    vaco.helm.install(RELEASE, NAMESPACE, values)
    return vaco.helm.run("test", RELEASE, "--namespace", NAMESPACE, "--logs", "--timeout", "5m")


def test_it_trains_a_job_of_ten_seconds_and_leaves_nothing_behind(vaco: Installed) -> None:
    told = _test(vaco, {})

    assert "Phase:          Succeeded" in told
    assert "Running: " in told
    assert '"phase": "Complete"' in told
    assert vaco.api.list(API_VERSION, "VACOJob", TRAINS_IN) == []
    for kind in ("Role", "RoleBinding"):
        found = vaco.api.find("rbac.authorization.k8s.io/v1", kind, "vaco-test", TRAINS_IN)
        assert found is None, "the account's rights are gone with the test"


def test_it_fails_with_the_jobs_own_words(vaco: Installed) -> None:
    broken = {"task": {"environment": "NoSuchEnvironment-v0"}}
    with pytest.raises(Refused):
        _test(vaco, broken)
    # helm 4 prints no log of a test that failed; its pod stays for that.
    told = vaco.api.logs("vaco-test", NAMESPACE)
    assert '"reason": "PermanentFailure"' in told
    assert "NoSuchEnvironment" in told
    assert vaco.api.list(API_VERSION, "VACOJob", TRAINS_IN) == []
