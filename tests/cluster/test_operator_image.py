"""The operator's image is built from its Dockerfile and holds what it should, and no more."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_harness import images
from kube_harness.errors import ClusterError, Unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

MAX_MEGABYTES = 60
"""Of the archive with its layers compressed; 46 were measured, a third of it the base."""
MAX_UNPACKED_MEGABYTES = 170


@pytest.fixture(scope="module")
def archive() -> Path:
    if not os.environ.get("VACO_TEST_CLUSTER"):
        pytest.skip("images are built with VACO_TEST_CLUSTER=1 (make test-cluster)")
    try:
        return images.operator(lambda text: sys.stderr.write(f"{text}\n"))
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def container(archive: Path) -> Iterator[str]:  # noqa: ARG001 - built before
    name = images.buildah("from", images.NAME)
    yield name
    images.buildah("rm", name)


def _configuration() -> dict[str, Any]:
    found = json.loads(images.buildah("inspect", "--type", "image", images.NAME))
    configuration: dict[str, Any] = found["OCIv1"]["config"]
    return configuration


def test_the_operator_starts_in_it(container: str) -> None:
    told = images.python(container, "-m", "vaco_operator.cluster", "--help")
    assert "--watch-namespaces" in told


def test_outside_of_a_cluster_it_says_what_it_lacks(container: str) -> None:
    flags = ("--namespace=a", "--learner-image=b", "--actor-image=c", "--kubeconfig=/d")
    with pytest.raises(ClusterError, match=r"needs the package kubernetes. Install vaco\[operator"):
        images.python(container, "-m", "vaco_operator.cluster", *flags)


def test_what_it_has_no_use_for_is_not_in_it(container: str) -> None:
    unwanted = ["torch", "numpy", "gymnasium", "kubernetes", "plotly", "typer", "pip", "uv"]
    script = f"import importlib.util as u; print([n for n in {unwanted} if u.find_spec(n)])"
    assert images.python(container, "-c", script).splitlines()[-1] == "[]"


def test_its_bytecode_is_compiled_and_believed(container: str) -> None:
    # Unchecked: a registry that rewrites the times of files does not make it worthless.
    script = (
        "import importlib.util as u, pathlib\n"
        "cached = pathlib.Path(u.cache_from_source(u.find_spec('vaco.job').origin))\n"
        "print(int.from_bytes(cached.read_bytes()[4:8], 'little'))"
    )
    assert images.python(container, "-c", script).splitlines()[-1] == "1"


def test_it_runs_as_nobody_in_particular_and_says_what_it_is(archive: Path) -> None:
    configuration = _configuration()
    assert configuration["User"] == "65532:65532"
    assert configuration["Entrypoint"] == ["python", "-m", "vaco_operator.cluster"]
    labels = configuration["Labels"]
    assert labels["org.opencontainers.image.title"] == "vaco-operator"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    with tarfile.open(archive) as packed:
        index = packed.extractfile("index.json")
        assert index is not None
        entry = json.load(index)["manifests"][0]
    assert entry["annotations"] == {"io.containerd.image.name": images.NAME}


def test_it_is_small(archive: Path, container: str) -> None:
    mounted = Path(images.buildah("mount", container))
    files = [path for path in mounted.rglob("*") if path.is_file() and not path.is_symlink()]
    unpacked = sum(path.stat().st_size for path in files) / 1e6
    packed = archive.stat().st_size / 1e6
    sys.stderr.write(f"{packed:.1f} MB compressed, {unpacked:.1f} MB unpacked\n")
    assert packed < MAX_MEGABYTES
    assert unpacked < MAX_UNPACKED_MEGABYTES
