"""The status: one document for kubectl, for `vaco status` and for status.json."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError
from vaco.job import Condition, LedgerStatus, VACOJobStatus

NAMES = [
    "phase",
    "message",
    "conditions",
    "observedGeneration",
    "startTime",
    "completionTime",
    "trainSeconds",
    "envSteps",
    "stepsPerSecond",
    "returnMean",
    "version",
    "incarnation",
    "checkpointVersion",
    "learnerRestarts",
    "attempt",
    "lag",
    "tv",
    "tvThreshold",
    "filteredShare",
    "ledger",
    "actors",
    "scaling",
    "evaluation",
    "accuracy",
]


def test_the_names_are_those_of_the_document() -> None:
    status = VACOJobStatus().model_dump(by_alias=True)
    assert list(status) == NAMES
    assert list(status["lag"]) == ["p50", "p95", "p99", "max"]
    ledger = ["received", "queued", "trained", "stale", "duplicate", "rejected", "filtered"]
    assert list(status["ledger"]) == ledger
    assert list(status["actors"]) == ["desired", "ready", "min", "max", "selector"]
    assert list(status["scaling"]) == ["events", "lastReason", "requested"]
    assert status["phase"] == "Pending"


def test_a_status_survives_json() -> None:
    berlin = timezone(timedelta(hours=1))
    before = VACOJobStatus(
        phase="Running",
        start_time=datetime(2026, 1, 31, 13, 0, 0, 999_999, tzinfo=berlin),
        conditions=[
            Condition(
                type="Ready",
                status="True",
                last_transition_time=datetime(2026, 1, 31, 12, tzinfo=UTC),
                observed_generation=2,
            )
        ],
        return_mean=-3.5,
    )
    text = before.model_dump_json(by_alias=True, exclude_none=True)
    assert '"startTime":"2026-01-31T12:00:00Z"' in text
    assert '"lastTransitionTime":"2026-01-31T12:00:00Z"' in text
    assert VACOJobStatus.model_validate_json(text) == before


def test_a_time_must_say_its_zone() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        VACOJobStatus(start_time=datetime(2026, 1, 31))


@pytest.mark.parametrize(
    ("field", "value"),
    [("phase", "Done"), ("env_steps", -1), ("filtered_share", 1.5), ("tv", float("nan"))],
)
def test_an_impossible_status_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field.split("_")[0]):
        VACOJobStatus.model_validate({field: value})


def test_a_ledger_balances_when_every_sample_is_in_one_place() -> None:
    ledger = LedgerStatus(
        received=15, queued=1, trained=2, stale=3, duplicate=4, rejected=5, filtered=2
    )
    assert ledger.balanced
    assert not ledger.model_copy(update={"received": 16}).balanced
