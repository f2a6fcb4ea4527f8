"""Events about jobs: counted, bounded, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from vaco_operator.cluster.api_errors import NotFoundError, UnavailableError, api_error
from vaco_operator.cluster.events import BURST, COUNT_SECONDS, EventRecorder
from vaco_operator.cluster.resources import EVENTS, Document, Resource


def job(name: str = "run") -> Document:
    return {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
        },
    }


class Writes:
    """Takes the place of `KubeApi`, to refuse what a test says; it counts what is written."""

    def __init__(self) -> None:
        self.created: list[Document] = []
        self.patched: list[Document] = []
        self.refuse: Exception | None = None

    async def create(self, resource: Resource, document: Document) -> Document:
        assert resource == EVENTS
        if self.refuse is not None:
            raise self.refuse
        self.created.append(document)
        return document

    async def patch(self, _resource: Resource, *arguments: Any) -> Document:
        if self.refuse is not None:
            raise self.refuse
        self.patched.append(arguments[-1])
        return {}


def record(test: Callable[[EventRecorder, Writes, list[float]], Any]) -> dict[str, int]:
    """Run a test of the recorder on a clock it turns; returns the counts."""
    counts: dict[str, int] = {}

    def counted(result: str) -> None:
        counts[result] = counts.get(result, 0) + 1

    async def main() -> None:
        writes, clock = Writes(), [0.0]
        recorder = EventRecorder(
            writes,  # type: ignore[arg-type]
            "me",
            counted,
            lambda: clock[0],
        )
        await test(recorder, writes, clock)

    asyncio.run(main())
    return counts


def test_the_same_event_is_one_with_a_count_that_is_written_once_a_minute() -> None:
    async def test(recorder: EventRecorder, writes: Writes, clock: list[float]) -> None:
        for _ in range(3):
            recorder.record(job(), "Normal", "Scaled", "2 to 3")
            await recorder._write_due()
        assert [event["count"] for event in writes.created] == [1]
        assert writes.patched == []
        clock[0] += COUNT_SECONDS
        recorder.record(job(), "Normal", "Scaled", "2 to 3")
        await recorder._write_due()
        assert [change["count"] for change in writes.patched] == [4]
        recorder.record(job(), "Warning", "Scaled", "2 to 3")
        await recorder._write_due()
        assert len(writes.created) == 2
        await recorder.write_all()
        assert len(writes.patched) == 1, "there was nothing left to write"

    assert record(test) == {"written": 3}


def test_an_event_that_the_server_forgot_is_created_again() -> None:
    async def test(recorder: EventRecorder, writes: Writes, clock: list[float]) -> None:
        recorder.record(job(), "Normal", "Scaled", "2 to 3")
        await recorder.write_all()
        recorder.record(job(), "Normal", "Scaled", "2 to 3")

        async def gone(*_arguments: Any) -> Document:
            raise NotFoundError(404, "NotFound", "events are kept for an hour")

        writes.patch = gone  # type: ignore[method-assign]
        clock[0] += 7200
        await recorder.write_all()
        assert [event["count"] for event in writes.created] == [1, 2]

    assert record(test) == {"written": 2}


def test_new_events_of_one_object_are_bounded_and_others_have_their_own_bound() -> None:
    async def test(recorder: EventRecorder, writes: Writes, clock: list[float]) -> None:
        for number in range(BURST + 10):
            recorder.record(job(), "Normal", "Scaled", f"to {number}")
        recorder.record(job("other"), "Normal", "Scaled", "to 1")
        await recorder.write_all()
        assert len(writes.created) == BURST + 1
        clock[0] += 20.0
        recorder.record(job(), "Normal", "Scaled", "to many")
        await recorder.write_all()
        assert len(writes.created) == BURST + 2

    assert record(test) == {"written": BURST + 2, "dropped": 10}


def test_an_event_that_cannot_be_written_hurts_nobody_and_is_tried_when_it_happens_again() -> None:
    async def test(recorder: EventRecorder, writes: Writes, _clock: list[float]) -> None:
        writes.refuse = api_error(403, {"message": "the namespace is being terminated"})
        recorder.record(job(), "Normal", "Scaled", "2 to 3")
        await recorder.write_all()
        writes.refuse = UnavailableError(0, "Timeout", "no answer")
        recorder.record(job(), "Normal", "Scaled", "2 to 3")
        await recorder.write_all()
        writes.refuse = None
        recorder.record(job(), "Normal", "Scaled", "2 to 3")
        await recorder.write_all()
        assert [event["count"] for event in writes.created] == [1]

    assert record(test) == {"failed": 2, "written": 1}


def test_an_event_says_who_and_what_in_the_terms_of_the_api() -> None:
    async def test(recorder: EventRecorder, writes: Writes, _clock: list[float]) -> None:
        recorder.record(job(), "Warning", "Odd", "x" * 5000)
        await recorder.write_all()
        (event,) = writes.created
        assert len(event["message"]) == 1024
        assert event["involvedObject"]["uid"] == "uid-run"
        assert event["involvedObject"]["kind"] == "VACOJob"
        assert event["metadata"]["namespace"] == "ns"
        assert event["firstTimestamp"] <= event["lastTimestamp"]

    record(test)
