"""The images, built from their Dockerfiles without any registry.

buildah runs the Dockerfile's steps in a chroot; its two base images are Debian's Python, put
together by mmdebstrap. Everything is kept in `.tools/images/`, and built again when a file of the
image changes. Packages come from where this machine's pip and apt get theirs.

    archive = images.operator(print)     # an OCI archive; the image in it is called NAME
    # ctr --namespace k8s.io images import --local <archive>

The learner's and the actor's images are built the same way (`trainer`), but not packed: with torch
for CUDA each has 6 GB.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_harness.build import Say
from kube_harness.errors import ClusterError, Unavailable
from kube_harness.programs import CACHE, KEPT_BUILDS, PROJECT

NAME = "vaco.test/operator:1"
FOLDER = CACHE / "images"
STEP_SECONDS = 3000
CERTIFICATES = Path("/etc/ssl/certs")
# What `python:3.11-slim-bookworm` is in the Dockerfile: one with, one without what installs things.
SUITE = "bookworm"
BASES = {
    "build": ("--variant=essential", "--include=python3,python3-venv"),
    "run": (
        "--variant=extract",
        "--include=python3-minimal,libpython3.11-stdlib,libstdc++6,base-files,netbase,tzdata",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
    ),
}
CONTEXT = ("operator/Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt")
SOURCES = ("protos", "actor", "learner", "operator")


def operator(say: Say) -> Path:
    """Build the operator's image unless that of today's sources is kept; returns its archive.

    Raises:
        Unavailable: there is no builder here; the message says what to install.
        ClusterError: a step failed.
    """
    archive = FOLDER / f"operator-{_key()}.tar"
    if archive.exists():
        return archive
    _check_builder()
    with _alone():
        if not archive.exists():
            bases = {name: _base(name, say) for name in BASES}
            say("building the operator's image")
            _build(bases, archive)
            _prune()
    return archive


def trainer(program: str, say: Say) -> str:
    """Build the image of the learner or of the actor; returns its name.

    `VACO_TEST_TORCH_INDEX` names the package index that torch comes from, as `TORCH_INDEX_URL` does
    for the Dockerfile.

    Raises:
        Unavailable: there is no builder here; the message says what to install.
        ClusterError: a step failed.
    """
    _check_builder()
    name = f"vaco.test/{program}:1"
    with _alone():
        bases = {base: _base(base, say) for base in BASES}
        say(f"building the image of the {program}")
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".building-") as folder:
            index = os.environ.get("VACO_TEST_TORCH_INDEX", "")
            _run_dockerfile(program, name, bases, Path(folder), f"TORCH_INDEX_URL={index}")
    return name


def _check_builder() -> None:
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        raise Unavailable(f"no builder of images: install the packages {' '.join(missing)}")
    if os.geteuid() != 0:
        raise Unavailable("images are built as root")
    FOLDER.mkdir(parents=True, exist_ok=True)


def buildah(*arguments: str) -> str:
    """Run buildah on the images of this checkout; returns what it printed."""
    storage = ("--root", FOLDER / "storage", "--runroot", FOLDER / "running")
    return _run("buildah", *storage, "--storage-driver", "vfs", *arguments)


def python(container: str, *arguments: str) -> str:
    """Run a container's Python as the user that it is meant for; returns what it printed."""
    command = ("run", "--isolation", "chroot", "--user", "65532:65532", container, "--", "python")
    return buildah(*command, *arguments)


def _base(name: str, say: Say) -> str:
    """Make a base image unless it is there; returns its name."""
    recipe = BASES[name]
    digest = hashlib.sha256(repr((SUITE, recipe)).encode()).hexdigest()[:12]
    image = f"localhost/vaco-base-{name}:{digest}"
    if image in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return image
    say(f"putting together the base image ({name})")
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".base-") as folder:
        files = f"{folder}/files.tar"
        _run("nice", "-n", "10", "mmdebstrap", *recipe, SUITE, files)
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, files, "/")
        buildah("commit", "--quiet", "--rm", container, image)
    return image


def _build(bases: dict[str, str], archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".building-") as folder:
        _run_dockerfile("operator", NAME, bases, Path(folder))
        layout = Path(folder) / "layout"
        buildah("push", "--quiet", NAME, f"oci:{layout}:latest")
        _name(layout / "index.json")
        finished = Path(folder) / "image.tar"
        with tarfile.open(finished, "w") as packed:
            packed.add(layout, arcname="")
        finished.rename(archive)


def _run_dockerfile(
    program: str, name: str, bases: dict[str, str], folder: Path, *arguments: str
) -> None:
    settings = folder / "pip.conf"
    settings.write_text(_pip_settings())
    given = (f"BUILD_IMAGE={bases['build']}", f"BASE_IMAGE={bases['run']}", *arguments)
    buildah(
        "build", "--isolation", "chroot", "--layers=false", "--tag", name,
        *(part for argument in given for part in ("--build-arg", argument)),
        "--secret", f"id=pip.conf,src={settings}",
        *(("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro") if CERTIFICATES.is_dir() else ()),
        "--file", str(PROJECT / program / "Dockerfile"), str(PROJECT),
    )  # fmt: skip


def _name(index: Path) -> None:
    """Say how containerd is to call the image: it takes the name from here."""
    document = json.loads(index.read_text())
    document["manifests"][0]["annotations"] = {"io.containerd.image.name": NAME}
    index.write_text(json.dumps(document))


def _pip_settings() -> str:
    """What this machine's pip is told, by its files and its environment, as one file."""
    listed = subprocess.run(
        ["python3", "-m", "pip", "config", "list"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        # Its own cache and folders are not to be seen from inside of the build.
        if (option := name.rpartition(".")[2]) not in ("find-links", "cache-dir"):
            settings[option] = value.strip("'")
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _key() -> str:
    """Hash of all that the image is made of."""
    digest = hashlib.sha256(repr((SUITE, BASES)).encode())
    files = [PROJECT / name for name in CONTEXT]
    for folder in SOURCES:
        files += sorted(p for p in (PROJECT / folder).rglob("*") if p.suffix in (".py", ".pyi"))
    for path in files:
        digest.update(str(path.relative_to(PROJECT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _prune() -> None:
    archives = sorted(FOLDER.glob("operator-*.tar"), key=lambda path: path.stat().st_mtime)
    for old in archives[:-KEPT_BUILDS]:
        old.unlink()
    buildah("rmi", "--prune", "--force")


@contextmanager
def _alone() -> Iterator[None]:
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, timeout=STEP_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise ClusterError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout.strip()
