"""The base image of test pods: a static busybox in a root file system shaped like Debian's.

`/bin`, `/lib` and so on are links into `/usr`, so a pod that mounts the machine's `/usr` over its
own (hostPath, read-only) can run the machine's Python. The same image holds a pod's network
namespace (its command sleeps).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path
from typing import Any

NAME = "vaco.test/base:1"
COMMAND = ["/bin/busybox", "sleep", "infinity"]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FOLDERS = (
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "sys",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "var",
)
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_OCI = "application/vnd.oci.image"


def write(path: Path, busybox: Path) -> None:
    """Write the image to `path`, an OCI image layout in a tar file."""
    layer = _layer(busybox)
    packed = gzip.compress(layer, mtime=0)
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": COMMAND, "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = [packed, json.dumps(config).encode()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _descriptor(f"{_OCI}.config.v1+json", blobs[1]),
        "layers": [_descriptor(f"{_OCI}.layer.v1.tar+gzip", blobs[0])],
    }
    blobs.append(json.dumps(manifest).encode())
    entry = _descriptor(manifest["mediaType"], blobs[2])
    entry["annotations"] = {"io.containerd.image.name": NAME}
    entry["platform"] = {"architecture": architecture, "os": "linux"}
    index = {"schemaVersion": 2, "manifests": [entry]}
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps(index).encode())
        for blob in blobs:
            _add(archive, f"blobs/{_digest(blob).replace(':', '/')}", blob)


def _layer(busybox: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in _FOLDERS:
            archive.addfile(_entry(folder, tarfile.DIRTYPE, mode=0o755))
        archive.addfile(_entry("tmp", tarfile.DIRTYPE, mode=0o1777))
        for name, target in _LINKS.items():
            archive.addfile(_entry(name, tarfile.SYMTYPE, target=target))
        for name, text in _FILES.items():
            _add(archive, name, text.encode())
        _add(archive, "usr/bin/busybox", busybox.read_bytes(), mode=0o755)
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for applet in set(listed.stdout.split()) - {"busybox"}:
            archive.addfile(_entry(f"usr/bin/{applet}", tarfile.SYMTYPE, target="busybox"))
    return buffer.getvalue()


def _entry(name: str, kind: bytes, *, mode: int = 0o777, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    entry.linkname = target
    return entry


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode=mode)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: object, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
