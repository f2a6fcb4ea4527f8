import json

import numpy as np
import pytest
import torch
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy, Core, RolloutSpec
from vaco_policy.policy import Policy
from vaco_policy.spaces import (
    Box,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Spaces,
    action_size,
    fragment_spec,
)

EVERYTHING = Spaces(
    {
        "pixels": Box.of((84, 84, 4), np.uint8, np.zeros((84, 84, 4)), 255),
        "arm": Box.of((3,), np.float64, [-1.0, -np.inf, 0.1], [1.0, np.inf, 0.3]),
        "room": Discrete(7),
        "keys": MultiBinary(4),
    },
    Box((2, 3), low=(-1.0,), high=(1.0,)),
)


@pytest.mark.parametrize(
    "spaces",
    [
        EVERYTHING,
        Spaces({"observation": Box((4,))}, Discrete(2)),
        Spaces({"observation": Box(())}, MultiDiscrete((3, 2))),
    ],
)
def test_a_text_restores_its_spaces_and_is_canonical(spaces: Spaces) -> None:
    text = spaces.to_json()
    assert Spaces.from_json(text) == spaces
    assert Spaces.from_json(text).to_json() == text
    assert "Infinity" not in text
    assert "NaN" not in text


def test_the_text_is_the_one_that_earlier_checkpoints_hold() -> None:
    spaces = Spaces({"pose": Box((2,), low=(-1.0, 0.0)), "keys": MultiBinary(3)}, Discrete(2))
    assert spaces.to_json() == (
        '{"action":{"n":2,"type":"discrete"},"observation":{"keys":{"n":3,"type":"multiBinary"},'
        '"pose":{"dtype":"float32","high":[null],"low":[-1.0,0.0],"shape":[2],"type":"box"}}}'
    )


def test_equal_spaces_have_one_text_whatever_the_order_they_were_written_in() -> None:
    one = Spaces({"a": Discrete(2), "b": Discrete(3)}, Discrete(2))
    other = Spaces({"b": Discrete(3), "a": Discrete(2)}, Discrete(2))
    assert one.to_json() == other.to_json()
    assert list(other.observation) == ["a", "b"]


def test_bounds_are_kept_exactly_and_equal_ones_become_one() -> None:
    arm, pixels = EVERYTHING.observation["arm"], EVERYTHING.observation["pixels"]
    assert isinstance(arm, Box)
    assert isinstance(pixels, Box)
    assert (arm.low, arm.high) == ((-1.0, -np.inf, 0.1), (1.0, np.inf, 0.3))
    assert arm.dtype == "float32"
    assert (pixels.low, pixels.high) == ((0.0,), (255.0,))


def test_many_different_bounds_become_their_envelope() -> None:
    low = np.linspace(-1.0, -3.0, 5000)
    box = Box.of((5000,), np.float32, low, 1.0)
    assert (box.low, box.high) == ((-3.0,), (1.0,))


def altered(path: list[str], value: object) -> str:
    document = json.loads(EVERYTHING.to_json())
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "spaces"),
        ("[]", "spaces"),
        ("{}", "observation"),
        (altered(["observation"], {}), "observation"),
        (altered(["observation", "room", "n"], "7"), "n"),
        (altered(["observation", "room", "n"], 0), "n"),
        (altered(["observation", "room", "n"], 1 << 40), "n"),
        (altered(["observation", "room", "start"], 1), "start"),
        (altered(["observation", "room", "type"], "tuple"), "room"),
        (altered(["observation", "arm", "shape"], [1 << 24, 1 << 24]), "arm"),
        (altered(["observation", "arm", "shape"], [4]), "arm"),
        (altered(["observation", "arm", "dtype"], "object"), "dtype"),
        (altered(["observation", "arm", "low"], ["x"]), "low"),
        (altered(["action", "dtype"], "uint8"), "spaces"),
        (altered(["action", "low"], [float("nan")]), "action"),
        (altered(["observation"], {f"o{i}": {"type": "discrete", "n": 2} for i in range(65)}), "o"),
        (EVERYTHING.to_json() + " " * (1 << 20), "spaces"),
        ("[" * 100_000, "spaces"),
    ],
)
def test_a_text_that_describes_no_spaces_is_refused_by_place(text: str, where: str) -> None:
    with pytest.raises(UserError) as refusal:
        Spaces.from_json(text)
    assert where in refusal.value.path


def test_a_dtype_that_cannot_travel_is_refused() -> None:
    with pytest.raises(UserError, match="complex64"):
        Box.of((2,), np.complex64)


@pytest.mark.parametrize(
    ("action", "size"), [(Discrete(9), 1), (MultiDiscrete((3, 2)), 2), (Box((2, 3)), 6)]
)
def test_action_size(action: Discrete | MultiDiscrete | Box, size: int) -> None:
    assert action_size(action) == size


@pytest.mark.parametrize("core", [None, "gru", "lstm"])
@pytest.mark.parametrize("action", [Discrete(5), MultiDiscrete((3, 2)), Box((2, 3))])
def test_what_a_policy_does_is_what_fragments_must_hold(
    core: str | None, action: Discrete | MultiDiscrete | Box
) -> None:
    config = ActorCriticPolicy(core=None if core is None else Core(type=core, hidden_size=8))
    spaces = Spaces({"observation": Box((4,))}, action)
    policy = Policy(config, spaces)
    rollout = RolloutSpec(environments_per_actor=3, fragment_length=10)
    spec = fragment_spec(spaces, config, rollout, reward_bound=5.0)

    with torch.inference_mode():
        acted = policy.act(
            {"observation": torch.zeros(3, 4)}, policy.initial_state(3), torch.Generator()
        )

    assert acted.action.shape == (3, *spec.action.shape)
    assert acted.action.numpy().dtype == spec.action.dtype
    assert tuple(spec.core_state) == policy.core_names
    for name, array in spec.core_state.items():
        assert acted.state[name].shape == (3, *array.shape)
        assert acted.state[name].numpy().dtype == array.dtype
    assert (spec.max_length, spec.max_environments, spec.reward_bound) == (10, 3, 5.0)


def test_counts_bound_what_is_discrete() -> None:
    spaces = Spaces({"room": Discrete(7), "keys": MultiBinary(4)}, MultiDiscrete((3, 2)))
    spec = fragment_spec(spaces, ActorCriticPolicy(), RolloutSpec(), 1.0)
    assert spec.action.counts == (3, 2)
    assert spec.observations["room"].counts == (7,)
    assert spec.observations["keys"].counts == (2,)
