"""What make would do, without doing it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "told"), [([], False), (["TORCH_BACKEND=cpu"], True)], ids=["default", "cpu"]
)
def test_setup_hands_the_torch_backend_to_uv(tmp_path: Path, options: list[str], told: bool):
    command = ["make", "--dry-run", "setup", f"VENV={tmp_path}/venv", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (install,) = [line for line in done.stdout.splitlines() if "uv pip install" in line]
    assert ("--torch-backend cpu" in install) is told
    assert "--editable" in install
