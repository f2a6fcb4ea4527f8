"""What an actor's step and the learner's evaluation say about the same data."""

import copy

import pytest
import torch
from torch import Tensor
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy, CnnNetwork, Core, MlpNetwork
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Spaces

IMPALA = CnnNetwork(architecture="impala", hidden_size=32, channels=[4, 8])

OBSERVATIONS = {
    "vector": {"observation": Box((4,))},
    "scalar": {"observation": Box(())},
    "matrix": {"observation": Box((3, 2), "int32")},
    "bytes": {"observation": Box((16,), "uint8")},
    "image": {"observation": Box((20, 24, 3), "uint8")},
    "discrete": {"observation": Discrete(6)},
    "bits": {"observation": MultiBinary(5)},
    "dict": {
        "arm": Box((3,)),
        "room": Discrete(4),
        "keys": MultiBinary(2),
        "load": Box((2,), "int64"),
    },
    "dict of image": {
        "camera": Box((20, 24), "uint8"),
        "wrist": Box((3, 16, 16), "uint8"),
        "arm": Box((3,)),
    },
}
ACTIONS = [Discrete(5), MultiDiscrete((3, 2, 4)), MultiDiscrete((3, 3)), Box((3,)), Box((2, 2))]


def observations(spaces: Spaces, *lead: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, space in spaces.observation.items():
        if isinstance(space, Discrete):
            made[name] = torch.randint(space.n, lead, generator=generator)
        elif isinstance(space, MultiBinary):
            made[name] = torch.randint(2, (*lead, space.n), generator=generator).to(torch.int8)
        elif space.dtype == "float32":
            made[name] = torch.randn(*lead, *space.shape, generator=generator)
        else:
            values = torch.randint(256, (*lead, *space.shape), generator=generator)
            made[name] = values.to(getattr(torch, space.dtype))
    return made


def make(spaces: Spaces, **config: object) -> Policy:
    """A policy whose actions depend on what it sees, unlike a fresh one's."""
    images = any(
        isinstance(s, Box) and s.dtype == "uint8" and len(s.shape) > 1
        for s in spaces.observation.values()
    )
    config.setdefault("network", IMPALA if images else MlpNetwork(hidden_sizes=[16, 16]))
    policy = Policy(ActorCriticPolicy(**config), spaces, seed=1)
    with torch.no_grad():
        policy.policy_head.weight.mul_(50)
    return policy


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("observed", OBSERVATIONS)
def test_what_acted_and_what_evaluates_agree(
    observed: str, action: Discrete | MultiDiscrete | Box
) -> None:
    spaces = Spaces(OBSERVATIONS[observed], action)
    policy = make(spaces, normalise_observations=True, initial_log_std=-0.5)
    policy.update_observation_statistics(observations(spaces, 50, seed=9))
    seen = observations(spaces, 7, 4)

    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        acts = [policy.act({n: v[t] for n, v in seen.items()}, {}, generator) for t in range(7)]
    actions = torch.stack([act.action for act in acts]).clone()
    logp = torch.stack([act.logp for act in acts])
    evaluation = policy.evaluate(seen, actions)

    assert logp.dtype == torch.float32
    assert float(logp.std()) > 0.01
    torch.testing.assert_close(evaluation.logp, logp, atol=1e-6, rtol=1e-6)
    assert evaluation.value.shape == evaluation.entropy.shape == (7, 4)
    flat = policy.evaluate(
        {name: values.flatten(0, 1) for name, values in seen.items()}, actions.flatten(0, 1)
    )
    torch.testing.assert_close(flat.logp.reshape(7, 4), evaluation.logp)
    torch.testing.assert_close(flat.value.reshape(7, 4), evaluation.value)
    torch.testing.assert_close(policy.value(seen), evaluation.value)


@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_a_deterministic_step_takes_the_most_probable_action(
    action: Discrete | MultiDiscrete | Box,
) -> None:
    policy = make(Spaces({"observation": Box((4,))}, action))
    seen = observations(policy.spaces, 6)
    with torch.inference_mode():
        best = policy.act(seen, {}, None, deterministic=True)
        again = policy.act(seen, {}, None, deterministic=True)
        generator = torch.Generator().manual_seed(0)
        others = [policy.act(seen, {}, generator).logp for _ in range(200)]
    assert torch.equal(best.action, again.action)
    assert (best.logp >= torch.stack(others).max(0).values - 1e-6).all()


@pytest.mark.parametrize("shared", [False, True])
def test_the_critic_does_not_run_in_a_step(shared: bool) -> None:
    policy = make(Spaces({"observation": Box((4,))}, Discrete(2)), shared_trunk=shared)
    ran: list[str] = []
    for name, module in policy.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    seen = observations(policy.spaces, 3)
    with torch.inference_mode():
        policy.act(seen, {}, torch.Generator())
    assert not [name for name in ran if name.startswith(("critic", "value"))]

    policy.evaluate(seen, torch.zeros(3, dtype=torch.int64))
    critics = {name for name in ran if name.startswith(("critic", "value"))}
    assert critics == ({"value_head"} if shared else {"critic", "value_head"})


def test_a_shared_trunk_is_one_network() -> None:
    spaces = Spaces({"observation": Box((4,))}, Discrete(2))
    apart, shared = make(spaces), make(spaces, shared_trunk=True)
    assert {n.split(".")[0] for n in shared.state_dict()} == {"actor", "policy_head", "value_head"}
    evaluation = shared.evaluate(observations(spaces, 5), torch.zeros(5, dtype=torch.int64))
    evaluation.value.sum().backward()
    assert shared.get_parameter("actor.layers.0.weight").grad is not None

    evaluation = apart.evaluate(observations(spaces, 5), torch.zeros(5, dtype=torch.int64))
    evaluation.value.sum().backward()
    assert apart.get_parameter("actor.layers.0.weight").grad is None
    assert apart.get_parameter("critic.layers.0.weight").grad is not None


def test_a_bootstrap_observation_gets_a_value_and_no_action() -> None:
    policy = make(Spaces({"observation": Box((4,))}, Discrete(3)))
    seen = observations(policy.spaces, 6, 2)
    actions = torch.zeros(5, 2, dtype=torch.int64)
    evaluation = policy.evaluate(seen, actions)
    without = policy.evaluate({"observation": seen["observation"][:5]}, actions)
    torch.testing.assert_close(evaluation.logp, without.logp)
    torch.testing.assert_close(evaluation.entropy, without.entropy)
    torch.testing.assert_close(evaluation.value[:5], without.value)
    torch.testing.assert_close(
        evaluation.value[5], policy.value_at({"observation": seen["observation"][5]}, {})
    )


def test_initial_weights_depend_on_the_seed_alone() -> None:
    spaces = Spaces({"observation": Box((20, 24, 3), "uint8")}, Box((2,)))
    config = ActorCriticPolicy(network=IMPALA, core=Core(type="lstm", hidden_size=8))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = Policy(config, spaces, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    same, other = (Policy(config, spaces, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["actor.output.weight"], other["actor.output.weight"])


def test_a_fresh_policy_hardly_prefers_any_action() -> None:
    spaces = Spaces({"observation": Box((4,))}, Discrete(4))
    policy = Policy(ActorCriticPolicy(), spaces)
    evaluation = policy.evaluate(observations(spaces, 100), torch.zeros(100, dtype=torch.int64))
    torch.testing.assert_close(evaluation.logp.exp(), torch.full((100,), 0.25), atol=0.02, rtol=0)


def test_a_copy_acts_by_its_own_weights() -> None:
    # Layers are kept as tensors beside their modules: both must go along in a copy.
    policy = make(Spaces({"observation": Box((4,))}, Discrete(3)))
    twin = copy.deepcopy(policy)
    seen, actions = observations(policy.spaces, 5), torch.zeros(5, dtype=torch.int64)
    before = policy.evaluate(seen, actions).logp
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(twin.evaluate(seen, actions).logp, before)
    assert not torch.allclose(policy.evaluate(seen, actions).logp, before)


def test_every_parameter_learns() -> None:
    spaces = Spaces(OBSERVATIONS["dict of image"], Box((2,)))
    policy = make(spaces, core=Core(type="gru", hidden_size=8))
    evaluation = policy.evaluate(observations(spaces, 3, 2), torch.randn(3, 2, 2))
    (evaluation.logp.sum() + evaluation.value.sum()).backward()
    assert not [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete((3, 2)), Box((2,))], ids=str)
@pytest.mark.parametrize("core", [None, "gru", "lstm"])
def test_densities_are_float32_when_networks_compute_in_bfloat16(
    core: str | None, action: Discrete | MultiDiscrete | Box
) -> None:
    memory = None if core is None else Core(type=core, hidden_size=8)
    policy = make(Spaces(OBSERVATIONS["dict"], action), core=memory)
    seen = observations(policy.spaces, 5, 2)
    with torch.no_grad():
        actions = policy.act(
            {name: values.flatten(0, 1) for name, values in seen.items()},
            policy.initial_state(10),
            torch.Generator(),
        ).action.unflatten(0, (5, 2))
    full = policy.evaluate(seen, actions)
    with torch.autocast("cpu", torch.bfloat16):
        half = policy.evaluate(seen, actions)
    for name in ("logp", "entropy", "value"):
        assert getattr(half, name).dtype == torch.float32
        torch.testing.assert_close(getattr(half, name), getattr(full, name), atol=0.1, rtol=0.1)
    assert not torch.equal(half.logp, full.logp)


@pytest.mark.parametrize(
    ("observed", "network", "path"),
    [
        (Box((84, 84, 4), "uint8"), MlpNetwork(), "spec.policy.network"),
        (Box((4,)), CnnNetwork(), "spec.policy.network"),
        (Box((35, 84, 3), "uint8"), CnnNetwork(), "spec.policy.network.architecture"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    observed: Box, network: MlpNetwork | CnnNetwork, path: str
) -> None:
    with pytest.raises(UserError) as refusal:
        Policy(ActorCriticPolicy(network=network), Spaces({"view": observed}, Discrete(2)))
    assert refusal.value.path == path
    assert refusal.value.cure


@pytest.mark.parametrize("network", [CnnNetwork(hidden_size=32), IMPALA])
def test_channels_may_come_first_or_last(network: CnnNetwork) -> None:
    last = Policy(
        ActorCriticPolicy(network=network), Spaces({"o": Box((48, 40, 3), "uint8")}, Box((2,)))
    )
    first = Policy(
        ActorCriticPolicy(network=network), Spaces({"o": Box((3, 48, 40), "uint8")}, Box((2,)))
    )
    seen = observations(last.spaces, 5)["o"]
    torch.testing.assert_close(
        last.value({"o": seen}), first.value({"o": seen.permute(0, 3, 1, 2).contiguous()})
    )


def test_stacked_frames_are_channels() -> None:
    stacked = Spaces({"o": Box((2, 20, 24, 3), "uint8")}, Discrete(2))
    merged = Spaces({"o": Box((20, 24, 6), "uint8")}, Discrete(2))
    seen = observations(stacked, 5)["o"]
    torch.testing.assert_close(
        make(stacked).value({"o": seen}),
        make(merged).value({"o": seen.permute(0, 2, 3, 1, 4).flatten(3)}),
    )


def test_pixels_are_seen_between_zero_and_one() -> None:
    spaces = Spaces({"image": Box((20, 24), "uint8"), "ram": Box((3,), "uint8")}, Discrete(2))
    policy = make(spaces)
    black_and_white = {
        "image": torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1).expand(2, 20, 24),
        "ram": torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1).expand(2, 3),
    }
    inputs = policy.features.read(black_and_white, None)
    for part in (*inputs.images, inputs.vector):
        torch.testing.assert_close(part[0], torch.zeros_like(part[0]))
        torch.testing.assert_close(part[1], torch.ones_like(part[1]))


def test_only_numbers_that_vary_freely_are_normalised() -> None:
    spaces = Spaces(OBSERVATIONS["dict"], Discrete(2))
    policy = make(spaces, normalise_observations=True)
    data = observations(spaces, 10, 4)
    valid = torch.arange(40).reshape(10, 4) % 3 > 0
    policy.update_observation_statistics(data, valid)
    numbers = torch.cat([data["arm"], data["load"].float()], -1)[valid].double()
    assert policy.observation_normaliser is not None
    torch.testing.assert_close(policy.observation_normaliser.mean, numbers.mean(0))
    torch.testing.assert_close(policy.observation_normaliser.var, numbers.var(0, correction=0))

    inputs = policy.features.read(data, policy.observation_normaliser)
    expected = [
        policy.observation_normaliser(torch.cat([data["arm"], data["load"].float()], -1)),
        data["keys"].float(),
        torch.eye(4)[data["room"]],
    ]
    torch.testing.assert_close(inputs.vector, torch.cat(expected, -1))

    unseen = make(Spaces({"o": Discrete(3)}, Discrete(2)), normalise_observations=True)
    assert unseen.observation_normaliser is None
    unseen.update_observation_statistics({"o": torch.zeros(4, dtype=torch.int64)})
