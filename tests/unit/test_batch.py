"""Fragments of different shapes become one batch, and nothing else changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from vaco.trajectory import Fragment
from vaco_learner.batch import collate
from vaco_policy.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Spaces

MakeFragment = Callable[..., Fragment]
COLUMNS = {0: slice(0, 3), 1: slice(3, 5), 2: slice(5, 9)}
LENGTHS, ENVIRONMENTS = (6, 4, 6), (3, 2, 4)


@pytest.fixture
def fragments(make_fragment: MakeFragment, vector_spaces: Spaces) -> list[Fragment]:
    shapes = zip(LENGTHS, ENVIRONMENTS, strict=True)
    return [
        make_fragment(vector_spaces, seed, t, b, core=("lstm", 5))
        for seed, (t, b) in enumerate(shapes)
    ]


def test_fragments_stand_side_by_side(fragments: list[Fragment]) -> None:
    batch = collate(fragments)
    assert (batch.length, batch.environments) == (6, 9)
    for i, fragment in enumerate(fragments):
        t, columns = fragment.length, COLUMNS[i]
        observations = batch.observations["observation"][: t + 1, columns]
        np.testing.assert_array_equal(observations, fragment.observations["observation"])
        for own, theirs in (
            (batch.actions, fragment.actions),
            (batch.rewards_TB, fragment.rewards),
            (batch.terminated_TB, fragment.terminated),
            (batch.truncated_TB, fragment.truncated),
            (batch.valid_TB, fragment.valid),
            (batch.behaviour_logp_TB, fragment.behaviour_logp),
        ):
            np.testing.assert_array_equal(own[:t, columns], theirs)
        np.testing.assert_array_equal(
            batch.episode_start_T1B[: t + 1, columns], fragment.episode_start
        )
        np.testing.assert_array_equal(batch.return_carry_B[columns], fragment.return_carry)
        for name in ("hidden", "cell"):
            np.testing.assert_array_equal(
                batch.core_state[name][columns], fragment.core_state[name]
            )
    assert batch.fragment_B.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert batch.fragments == 3


def test_samples_are_the_valid_steps(fragments: list[Fragment]) -> None:
    batch = collate(fragments)
    assert batch.samples == int(batch.valid_TB.sum()) == sum(f.samples for f in fragments)
    assert batch.samples < 6 * 9


def test_padding_is_no_sample_and_the_bootstrap_observation_stays_behind_the_last_step(
    fragments: list[Fragment],
) -> None:
    batch = collate(fragments)
    short, columns = fragments[1], COLUMNS[1]
    assert not batch.valid_TB[4:, columns].any()
    assert not batch.terminated_TB[4:, columns].any()
    assert not batch.truncated_TB[4:, columns].any()
    assert not batch.episode_start_T1B[5:, columns].any()
    np.testing.assert_array_equal(
        batch.observations["observation"][4, columns], short.observations["observation"][4]
    )
    assert (batch.observations["observation"][5:, columns] == 0).all()


def test_final_observations_keep_their_steps(fragments: list[Fragment]) -> None:
    """Each final observation holds its fragment and step, so that it can be told where it is."""
    finals = {0: [(1, 2), (4, 0)], 2: [(0, 3), (1, 0), (5, 1)]}

    def with_finals(i: int, fragment: Fragment) -> Fragment:
        steps = finals.get(i, [])
        marks = np.array([[i, t, b, 0] for t, b in steps], np.float32).reshape(-1, 4)
        return dataclasses.replace(
            fragment,
            final_observations={"observation": marks} if steps else {},
            final_steps=np.array([t * fragment.environments + b for t, b in steps], np.int32),
        )

    batch = collate([with_finals(i, fragment) for i, fragment in enumerate(fragments)])
    steps = batch.final_steps_N.tolist()
    assert steps == sorted(steps)
    assert len(steps) == 5
    for step, mark in zip(steps, batch.final_observations["observation"].tolist(), strict=True):
        t, column = divmod(step, 9)
        i = int(mark[0])
        assert [t, column - COLUMNS[i].start] == [int(mark[1]), int(mark[2])]


def test_no_final_observations_are_none(fragments: list[Fragment]) -> None:
    batch = collate(fragments)
    assert batch.final_observations == {}
    assert len(batch.final_steps_N) == 0


def test_every_kind_of_space(make_fragment: MakeFragment) -> None:
    spaces = Spaces(
        {"image": Box((3, 3, 2)), "kind": Discrete(2), "switches": MultiBinary(5)},
        MultiDiscrete((2, 3)),
    )
    first = make_fragment(spaces, 0, 4, 2)
    second = make_fragment(spaces, 1, 3, 2)
    batch = collate([first, second])
    assert batch.observations["image"].shape == (5, 4, 3, 3, 2)
    np.testing.assert_array_equal(batch.observations["kind"][:4, 2:], second.observations["kind"])
    np.testing.assert_array_equal(
        batch.observations["switches"][:, :2], first.observations["switches"]
    )
    np.testing.assert_array_equal(batch.actions[:3, 2:], second.actions)


def test_integer_actions_become_what_torch_can_index_with(
    make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    fragment = make_fragment(vector_spaces)
    narrow = dataclasses.replace(fragment, actions=fragment.actions.astype(np.int32))
    batch = collate([narrow])
    assert batch.actions.dtype == torch.int64
    np.testing.assert_array_equal(batch.actions, fragment.actions)


def test_the_batch_is_a_copy(make_fragment: MakeFragment, vector_spaces: Spaces) -> None:
    """A fragment's arrays are read-only views of a message; the batch must not depend on them."""
    fragment = make_fragment(vector_spaces)
    for array in (fragment.observations["observation"], fragment.rewards, fragment.return_carry):
        array.flags.writeable = False
    batch = collate([fragment])
    batch.observations["observation"].zero_()
    batch.rewards_TB.fill_(9.0)
    batch.return_carry_B.fill_(9.0)
    assert fragment.observations["observation"].any()
    assert not (fragment.rewards == 9.0).any()
    assert not (fragment.return_carry == 9.0).any()


def test_nothing_cannot_be_collated() -> None:
    with pytest.raises(ValueError, match="at least one fragment"):
        collate([])
