"""What of a status is written, and how soon."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaco.job import ActorsStatus, Condition, LedgerStatus, ScalingStatus, VACOJobStatus
from vaco_operator.cluster.status_write import change, document_of, is_urgent

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
STATUS = VACOJobStatus(
    phase="Running",
    conditions=[Condition(type="Ready", status="True", reason="Yes", last_transition_time=NOON)],
    env_steps=5,
    return_mean=1.5,
)


def test_a_status_that_is_as_written_is_not_written():
    document = document_of(STATUS)
    assert change(document, document_of(STATUS)) == {}


def test_only_what_differs_is_written_and_what_is_not_known_any_more_removed():
    after = STATUS.model_copy(
        update={"return_mean": None, "ledger": LedgerStatus(received=3, queued=3)}
    )
    assert change(document_of(STATUS), document_of(after)) == {
        "returnMean": None,
        "ledger": {"received": 3, "queued": 3},
    }


def test_conditions_that_are_not_ours_stay_as_they_are():
    theirs = {"type": "queue.example/Admitted", "status": "True", "novelty": 1}
    before = document_of(STATUS)
    before["conditions"].append(theirs)
    assert change(before, document_of(STATUS, before)) == {}
    after = STATUS.model_copy(update={"conditions": []})
    assert change(before, document_of(after, before)) == {"conditions": [theirs]}


plain = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
documents = st.dictionaries(st.sampled_from("abcd"), plain, max_size=4)


def merged(before: dict, patch: dict) -> dict:
    """Merge as the API server does (RFC 7396)."""
    result = dict(before)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            known = result.get(name)
            result[name] = merged(known if isinstance(known, dict) else {}, value)
        else:
            result[name] = value
    return result


@given(documents, documents)
def test_merged_it_gives_what_was_meant(before, after):
    assert merged(before, change(before, after)) == after


@pytest.mark.parametrize(
    ("update", "urgent"),
    [
        ({"env_steps": 6, "version": 3, "message": "on"}, False),
        ({"scaling": ScalingStatus(last_reason="demand 5/s")}, False),
        ({"conditions": [STATUS.conditions[0].model_copy(update={"message": "b"})]}, False),
        ({"phase": "Complete"}, True),
        ({"conditions": [STATUS.conditions[0].model_copy(update={"status": "False"})]}, True),
        ({"conditions": [STATUS.conditions[0].model_copy(update={"reason": "No"})]}, True),
        ({"actors": ActorsStatus(ready=1)}, True),
        ({"scaling": ScalingStatus(events=1)}, True),
        ({"observed_generation": 2}, True),
        ({"attempt": 2}, True),
    ],
)
def test_numbers_that_only_tell_progress_can_wait(update, urgent):
    after = STATUS.model_copy(update=update)
    assert is_urgent(document_of(STATUS), document_of(after)) == urgent
