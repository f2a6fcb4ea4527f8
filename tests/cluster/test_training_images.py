"""The learner's and the actor's images are built from their Dockerfiles, and start.

With torch for CUDA they take gigabytes and minutes, so they are built only where
`VACO_TEST_IMAGES=1` asks for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from kube_harness import images
from kube_harness.errors import Unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]


HELP = {"learner": ("--help",), "actor": ("run", "--help")}


@pytest.fixture(scope="module", params=list(HELP))
def image(request: pytest.FixtureRequest) -> Iterator[str]:
    if os.environ.get("VACO_TEST_IMAGES") != "1":
        pytest.skip("the training images are built with VACO_TEST_IMAGES=1 (12 GB, 20 minutes)")
    try:
        name = images.trainer(request.param, lambda text: sys.stderr.write(f"{text}\n"))
    except Unavailable as error:
        pytest.skip(str(error))
    yield name
    images.buildah("rmi", "--force", name)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    name = images.buildah("from", image)
    yield name
    images.buildah("rm", name)


def test_its_program_starts_in_it(image: str, container: str) -> None:
    program = image.partition("/")[2].partition(":")[0]
    assert "--job" in images.python(container, "-m", f"vaco_{program}", *HELP[program])
    found = json.loads(images.buildah("inspect", "--type", "image", image))
    configuration: dict[str, Any] = found["OCIv1"]["config"]
    assert configuration["Entrypoint"] == ["python", "-m", f"vaco_{program}"]
    assert configuration["User"] == "65532:65532"


def test_it_computes_and_holds_neither_pip_nor_the_operators_libraries(container: str) -> None:
    script = (
        "import importlib.util as u, torch; print(float(torch.ones(3).sum()), "
        "[n for n in ('pip', 'uv', 'kubernetes', 'typer') if u.find_spec(n)])"
    )
    assert images.python(container, "-c", script).splitlines()[-1] == "3.0 []"
