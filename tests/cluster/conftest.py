"""Fixtures that lend tests a real cluster: `control_plane` and `node`, one each a session.

`VACO_TEST_CLUSTER=1` asks for them (a tier's name asks for that one only); without it, all tests
here skip at once. `VACO_TEST_KUBECONFIG` names an existing cluster to use instead of both. Where a
cluster cannot be had, tests skip and say why; with `CI=true` they fail instead.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# These tests start processes beside gRPC servers. gRPC would begin its threads anew in the child of
# every fork, where they meet files that are closed for the program to come, and can end it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

if TYPE_CHECKING:
    from kube_harness.api import Api
    from kube_harness.cluster import Cluster
    from operator_harness.stage import Field, Stage

EXISTING = "VACO_TEST_KUBECONFIG"
TIER_OF_FIXTURE = {"control_plane": "control-plane", "node": "node"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs a Kubernetes cluster (VACO_TEST_CLUSTER=1)")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the tests' time limits begin: a first build takes a quarter of an hour."""
    tiers = {
        tier
        for item in session.items
        for fixture, tier in TIER_OF_FIXTURE.items()
        if isinstance(item, pytest.Function) and fixture in item.fixturenames and _wanted(tier)
    }
    if session.config.option.collectonly or not os.environ.get("VACO_TEST_CLUSTER"):
        return
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if any("chart_programs" in getattr(item, "fixturenames", ()) for item in session.items):
        _build_for_the_chart(reporter.write_line)
    if not tiers or os.environ.get(EXISTING):
        return
    from kube_harness import cluster
    from kube_harness.errors import Unavailable

    for tier in sorted(tiers):
        try:
            cluster.prepare(tier, reporter.write_line)
        except Unavailable as error:
            reporter.write_line(f"no {tier} cluster: {error}")


def _build_for_the_chart(say: Callable[[str], None]) -> None:
    from kube_harness import build, programs
    from kube_harness.errors import Unavailable

    try:
        build.ensure(programs.CHART, say)
    except Unavailable as error:
        say(f"no programs for the chart: {error}")


def _wanted(tier: str) -> bool:
    return os.environ.get("VACO_TEST_CLUSTER", "") in ("1", tier)


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An API server with controllers, scheduler and simulated nodes (`kube_harness.simulated`)."""
    with _cluster("control-plane", request) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with one real node, which runs containers."""
    with _cluster("node", request) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def chart_programs() -> None:
    """helm 4 and 3, helm-unittest and promtool; they need no cluster."""
    if not os.environ.get("VACO_TEST_CLUSTER"):
        pytest.skip("the chart is tested with VACO_TEST_CLUSTER=1 (make test-cluster)")
    from kube_harness import build, programs

    if missing := build.missing(programs.CHART):
        names = ", ".join(program.name for program in missing)
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {names}", pytrace=False)
        pytest.skip(f"not built: {names}")


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace of the test's own, on the cluster of the module's `api` fixture."""
    with _namespace(api) as name:
        yield name


@pytest.fixture(scope="module")
def stage(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An operator that looks after the jobs of all namespaces, for all tests of a module."""
    from operator_harness.stage import staged

    with staged(control_plane, tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def field(stage: Stage) -> Iterator[Field]:
    """A namespace of the test's own, where the module's operator looks after jobs."""
    from operator_harness.stage import Field

    with _namespace(stage.api) as name:
        yield Field(stage, name)


@contextmanager
def _namespace(api: Api) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def account() -> object:
        return api.find("v1", "ServiceAccount", "default", name)

    api.wait_for("the namespace has its service account", account)
    yield name
    api.delete("v1", "Namespace", name)


@contextmanager
def _cluster(tier: str, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if not _wanted(tier):
        pytest.skip("cluster tests run with VACO_TEST_CLUSTER=1 (make test-cluster)")
    from kube_harness import launch
    from kube_harness.cluster import Cluster
    from kube_harness.errors import Unavailable

    if existing := os.environ.get(EXISTING):
        image = os.environ.get("VACO_TEST_IMAGE", "busybox:1.37")
        yield Cluster("existing", Path(existing), image)
        return
    failed = request.session.testsfailed
    try:
        with launch.launched(tier) as held:
            yield held.cluster
            held.keep_logs = request.session.testsfailed > failed
            if held.keep_logs:
                reporter = request.config.pluginmanager.getplugin("terminalreporter")
                reporter.write_line(f"\nlogs of the {tier} cluster: {held.cluster.logs}")
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have a {tier} cluster: {error}", pytrace=False)
        pytest.skip(f"no {tier} cluster: {error}")
