"""One virtual environment a peer, from the pins in `benchmarks/peers/<peer>/requirements.txt`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Ignored by git, as all of .tools is.
CACHE = HERE.parents[1] / ".tools" / "peers"
PYTHON = "3.11"


def interpreter(directory: str) -> Path:
    """Give the interpreter of a peer's environment, which is made if it is not there.

    vaco's own is that of this process. Environments whose pins changed are made anew.

    Raises:
        RuntimeError: uv could not make it; its message is in the message.

    """
    requirements = HERE / directory / "requirements.txt"
    if not requirements.exists():
        return Path(sys.executable)
    environment = CACHE / directory
    python = environment / "bin" / "python"
    ready = environment / ".pins"
    pins = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if ready.exists() and ready.read_text() == pins:
        return python
    print(f"making {environment.relative_to(HERE.parents[1])}", flush=True)
    _uv("venv", "--clear", "--python", PYTHON, str(environment))
    _uv("pip", "install", "--python", str(python), "--requirement", str(requirements))
    ready.write_text(pins)
    return python


def version(python: Path, distribution: str) -> str:
    """Ask an environment for the version of a distribution."""
    command = f"from importlib.metadata import version; print(version({distribution!r}))"
    process = subprocess.run(
        [str(python), "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    return process.stdout.strip()


def _uv(*arguments: str) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv is not installed; it is one of vaco's dev dependencies")
    process = subprocess.run(
        [uv, "--quiet", *arguments], capture_output=True, text=True, check=False, timeout=1200
    )
    if process.returncode != 0:
        raise RuntimeError(f"uv {arguments[0]} failed: {process.stderr.strip()[-1000:]}")
