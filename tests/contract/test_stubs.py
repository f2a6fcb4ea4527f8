"""The committed stubs are what the committed .proto files generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import vaco.v1

FOLDER = Path(vaco.v1.__file__).parent
PROTOS = FOLDER.parents[1]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make protos` would have written."""
    target = tmp_path_factory.mktemp("stubs")
    programs = Path(sys.executable).parent
    plugins = [
        f"--plugin={name}={programs / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    outputs = ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
    sources = sorted(path.relative_to(PROTOS) for path in FOLDER.glob("*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"),
            *plugins,
            *(f"--{output}={target}" for output in outputs),
            *map(str, sources),
        ],
        cwd=PROTOS,
        check=True,
        timeout=120,
        capture_output=True,
    )
    return target / FOLDER.relative_to(PROTOS)


def stubs(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*_pb2*.py"), *folder.glob("*_pb2*.pyi")]
    return {path.name: path.read_text() for path in paths}


def test_the_stubs_are_up_to_date(generated: Path) -> None:
    expected, actual = stubs(generated), stubs(FOLDER)
    assert expected, "nothing was generated"
    assert sorted(actual) == sorted(expected)
    stale = [name for name in expected if actual[name] != expected[name]]
    assert not stale, f"run `make protos`: {stale}"
