"""Packing: alike objects take few bytes, and all come back as they were."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any

from vaco_operator.cluster.packing import MAX_PATTERN_BYTES, Packer, text_of, unpack


def service(number: int, **more: Any) -> dict[str, Any]:
    drawn = random.Random(number)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"job-{number}-learner",
            "uid": f"{drawn.getrandbits(128):032x}",
            "labels": {"app.kubernetes.io/name": "vaco", "training.vaco.dev/job": f"job-{number}"},
            "resourceVersion": str(number),
        },
        "spec": {"ports": [{"name": "grpc", "port": 8443, "protocol": "TCP"}], "clusterIP": "None"},
        **more,
    }


def test_objects_that_are_alike_take_few_bytes() -> None:
    packer = Packer()
    packed = [packer.pack(service(number)) for number in range(50)]
    assert [unpack(each) for each in packed] == [service(number) for number in range(50)]

    together = sum(len(each.compressed) for each in packed[1:])
    alone = sum(len(zlib.compress(text_of(each), 1)) for each in packed[1:])
    assert together < alone / 2


def test_a_larger_pattern_leaves_what_was_packed_readable() -> None:
    packer = Packer()
    before = packer.pack(service(1))
    larger = packer.pack(service(2, status={"text": "x" * 500}))
    after = packer.pack(service(3))

    assert before.pattern != larger.pattern == after.pattern
    assert [unpack(each) for each in (before, after)] == [service(1), service(3)]


def test_patterns_are_few_and_bounded() -> None:
    packer = Packer()
    drawn = random.Random(0)
    sizes = range(0, 2 * MAX_PATTERN_BYTES, 200)
    packed = [packer.pack({"text": drawn.randbytes(size // 2).hex()}) for size in sizes]

    patterns = {each.pattern for each in packed}
    assert max(map(len, patterns)) <= MAX_PATTERN_BYTES
    assert len(patterns) < 40
    assert json.loads(text_of(packed[-1])) == unpack(packed[-1])
