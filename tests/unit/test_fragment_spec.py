"""What cannot be trained on is refused, by the name of its field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from vaco.trajectory import ArraySpec, Fragment, FragmentSpec, MalformedFragment

WireFragment = Callable[..., Fragment]

SPEC = FragmentSpec(
    observations={"observation": ArraySpec((4,), "float32")},
    action=ArraySpec((), "int64", counts=(2,)),
    core_state={"hidden": ArraySpec((3,), "float32")},
    max_length=8,
    max_environments=4,
    reward_bound=10.0,
)


def test_a_fragment_that_fits_passes(wire_fragment: WireFragment) -> None:
    SPEC.check(wire_fragment())
    SPEC.check(wire_fragment(length=8, environments=4))


def test_the_largest_fragment_is_known_before_there_is_one(wire_fragment: WireFragment) -> None:
    whole = wire_fragment(length=8, environments=4)
    steps = np.arange(32, dtype=np.int32)
    largest = replace(
        whole,
        final_steps=steps,
        final_observations={"observation": np.zeros((32, 4), np.float32)},
        episode_returns=np.zeros(32, np.float32),
        episode_lengths=np.ones(32, np.int32),
    )
    assert SPEC.max_bytes == largest.nbytes


def changed(array: np.ndarray, index: int, value: float) -> np.ndarray:
    copy = array.copy()
    copy.reshape(-1)[index] = value
    return copy


def with_value(field: str, value: float) -> Callable[[Fragment], Fragment]:
    def change(fragment: Fragment) -> Fragment:
        held = getattr(fragment, field)
        if isinstance(held, dict):
            return replace(fragment, **{field: {n: changed(a, -1, value) for n, a in held.items()}})
        return replace(fragment, **{field: changed(held, -1, value)})

    return change


def with_arrays(field: str, **arrays: np.ndarray) -> Callable[[Fragment], Fragment]:
    return lambda fragment: replace(fragment, **{field: arrays})


def with_parts(**parts: Any) -> Callable[[Fragment], Fragment]:
    return lambda fragment: replace(fragment, **parts)


FLOATS = {
    "observations": "observations[observation]",
    "rewards": "rewards",
    "behaviour_logp": "behaviour_logp",
    "final_observations": "final_observations[observation]",
    "core_state": "core_state[hidden]",
    "return_carry": "return_carry",
    "episode_returns": "episode_returns",
}
OBSERVATION = np.zeros((4, 2, 4), np.float32)
FLAGS = np.zeros((3, 2), np.bool_)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", FLOATS)
def test_nothing_that_is_not_finite_passes(
    wire_fragment: WireFragment, field: str, value: float
) -> None:
    with pytest.raises(MalformedFragment) as refused:
        SPEC.check(with_value(field, value)(wire_fragment()))
    assert refused.value.field == FLOATS[field]
    assert str(abs(value)) in refused.value.problem


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rewards", with_value("rewards", 10.5)),
        ("rewards", with_value("rewards", -1e30)),
        ("behaviour_logp", with_value("behaviour_logp", -2e6)),
        ("actions", with_value("actions", 2)),
        ("actions", with_value("actions", -1)),
        ("actions", lambda f: replace(f, actions=f.actions.astype(np.int32))),
        ("actions", lambda f: replace(f, actions=f.actions[..., None])),
        ("observations", with_arrays("observations")),
        ("observations", with_arrays("observations", image=OBSERVATION)),
        ("observations", with_arrays("observations", observation=OBSERVATION, other=OBSERVATION)),
        (
            "observations[observation]",
            with_arrays("observations", observation=OBSERVATION.astype(np.float64)),
        ),
        ("observations[observation]", with_arrays("observations", observation=OBSERVATION[:3])),
        (
            "observations[observation]",
            with_arrays("observations", observation=OBSERVATION[..., :3]),
        ),
        ("final_observations", with_arrays("final_observations")),
        (
            "final_observations[observation]",
            with_arrays("final_observations", observation=np.zeros((2, 4), np.float32)),
        ),
        ("core_state", with_arrays("core_state")),
        ("core_state[hidden]", with_arrays("core_state", hidden=np.zeros((2, 5), np.float32))),
        ("episode_lengths", with_value("episode_lengths", 0)),
        ("rollout_seconds", with_parts(rollout_seconds=float("nan"))),
        ("rollout_seconds", with_parts(rollout_seconds=float("inf"))),
        ("rollout_seconds", with_parts(rollout_seconds=-1.0)),
        ("final_steps", with_value("final_steps", 6)),
        ("final_steps", with_value("final_steps", -1)),
        ("final_steps", with_value("final_steps", 1)),
        ("final_steps", with_parts(truncated=FLAGS)),
        ("final_steps", with_parts(valid=FLAGS)),
        (
            "final_steps",
            with_parts(
                final_steps=np.zeros(2, np.int32),
                final_observations={"observation": np.zeros((2, 4), np.float32)},
            ),
        ),
        ("final_steps", with_parts(final_steps=np.zeros(0, np.int32), final_observations={})),
    ],
)
def test_what_does_not_fit_is_refused(
    wire_fragment: WireFragment, field: str, change: Callable[[Fragment], Fragment]
) -> None:
    with pytest.raises(MalformedFragment) as refused:
        SPEC.check(change(wire_fragment()))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("length", replace(SPEC, max_length=2)),
        ("environments", replace(SPEC, max_environments=1)),
    ],
)
def test_bounds(wire_fragment: WireFragment, field: str, spec: FragmentSpec) -> None:
    with pytest.raises(MalformedFragment) as refused:
        spec.check(wire_fragment())
    assert refused.value.field == field


def test_no_final_observation_is_needed_when_the_episode_resets_at_the_next_step(
    wire_fragment: WireFragment,
) -> None:
    fragment = wire_fragment()
    starts = np.zeros_like(fragment.episode_start)
    starts[2, 0] = True
    valid = fragment.valid.copy()
    valid[1, 0] = False
    SPEC.check(
        replace(
            fragment,
            episode_start=starts,
            valid=valid,
            final_steps=np.zeros(0, np.int32),
            final_observations={},
        )
    )


def test_no_final_observation_is_needed_of_an_episode_that_is_over_anyway(
    wire_fragment: WireFragment,
) -> None:
    fragment = wire_fragment()
    SPEC.check(
        replace(
            fragment,
            terminated=fragment.truncated,
            final_steps=np.zeros(0, np.int32),
            final_observations={},
        )
    )


def test_each_dimension_of_an_action_has_its_own_count(wire_fragment: WireFragment) -> None:
    spec = replace(SPEC, action=ArraySpec((2,), "int64", counts=(2, 5)))
    actions = np.zeros((3, 2, 2), np.int64)
    actions[1, 1] = (1, 4)
    spec.check(wire_fragment(actions=actions))
    actions[2, 0] = (4, 1)
    with pytest.raises(MalformedFragment, match="actions: 4 is"):
        spec.check(wire_fragment(actions=actions))


def test_images_need_no_check_of_their_values(wire_fragment: WireFragment) -> None:
    spec = replace(SPEC, observations={"observation": ArraySpec((2, 2), "uint8")})
    images = np.full((4, 2, 2, 2), 255, np.uint8)
    finals = np.zeros((1, 2, 2), np.uint8)
    spec.check(
        wire_fragment(
            observations={"observation": images}, final_observations={"observation": finals}
        )
    )


def test_a_count_can_be_all_that_a_dtype_holds(wire_fragment: WireFragment) -> None:
    spec = replace(SPEC, action=ArraySpec((), "uint8", counts=(256,)))
    spec.check(wire_fragment(actions=np.full((3, 2), 255, np.uint8)))
    spec = replace(SPEC, action=ArraySpec((), "int8", counts=(128,)))
    with pytest.raises(MalformedFragment, match="actions: -1 is"):
        spec.check(wire_fragment(actions=np.full((3, 2), -1, np.int8)))
