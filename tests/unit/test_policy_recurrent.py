import pytest
import torch
from torch import Tensor, nn
from vaco.job import ActorCriticPolicy, MlpNetwork
from vaco.job import Core as CoreSpec
from vaco_policy.core import Core
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiDiscrete, Spaces

KINDS = ["gru", "lstm"]
T, B, H = 12, 3, 8


def make(kind: str, action: Discrete | MultiDiscrete | Box | None = None) -> Policy:
    config = ActorCriticPolicy(
        network=MlpNetwork(hidden_sizes=[16]), core=CoreSpec(type=kind, hidden_size=H)
    )
    policy = Policy(config, Spaces({"observation": Box((4,))}, action or Discrete(5)), seed=1)
    with torch.no_grad():
        policy.policy_head.weight.mul_(100)
    return policy


def sequence(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Observations [T+1, B, 4] and episode starts [T+1, B], some at step 0 and some in a row."""
    generator = torch.Generator().manual_seed(seed)
    seen = {"observation": torch.randn(T + 1, B, 4, generator=generator)}
    starts = torch.rand(T + 1, B, generator=generator) < 0.25
    starts[0] = torch.tensor([True, False, False])
    starts[4:6, 1] = True
    return seen, starts


def carried(policy: Policy, seed: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(B, H).uniform_(-1, 1, generator=generator) for name in policy.core_names
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", [Discrete(5), MultiDiscrete((3, 2)), Box((2,))], ids=str)
def test_steps_and_sequence_agree_over_resets(
    kind: str, action: Discrete | MultiDiscrete | Box
) -> None:
    policy = make(kind, action)
    seen, starts = sequence()
    generator = torch.Generator().manual_seed(3)
    state, acts = carried(policy), []
    with torch.inference_mode():
        for t in range(T):
            act = policy.act(
                {"observation": seen["observation"][t]}, state, generator, episode_start=starts[t]
            )
            acts.append(act)
            state = act.state
    actions = torch.stack([act.action for act in acts]).clone()

    evaluation = policy.evaluate(seen, actions, carried(policy), starts)

    logp = torch.stack([act.logp for act in acts])
    assert float(logp.std()) > 0.01
    torch.testing.assert_close(evaluation.logp, logp, atol=1e-6, rtol=1e-6)
    for name in policy.core_names:
        after = torch.stack([act.state[name] for act in acts])
        torch.testing.assert_close(evaluation.states[name][:T], after, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_crosses_an_episode_start(kind: str) -> None:
    policy = make(kind)
    seen, starts = sequence()
    starts[:, 0] = False
    starts[5, 0] = True
    actions = torch.zeros(T, B, dtype=torch.int64)
    changed = {"observation": seen["observation"].clone()}
    changed["observation"][:5, 0] += 1.0

    one = policy.evaluate(seen, actions, carried(policy), starts)
    other = policy.evaluate(changed, actions, carried(policy, seed=8), starts)
    torch.testing.assert_close(one.value[5:, 0], other.value[5:, 0], atol=0, rtol=0)
    assert (one.value[:5, 0] != other.value[:5, 0]).all()

    starts[5, 0] = False
    one = policy.evaluate(seen, actions, carried(policy), starts)
    other = policy.evaluate(changed, actions, carried(policy, seed=8), starts)
    assert (one.value[5:, 0] != other.value[5:, 0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_can_be_cut_anywhere(kind: str) -> None:
    policy = make(kind)
    seen, starts = sequence()
    actions = torch.zeros(T, B, dtype=torch.int64)
    whole = policy.evaluate(seen, actions, carried(policy), starts)
    middle = {name: states[4] for name, states in whole.states.items()}
    rest = policy.evaluate(
        {"observation": seen["observation"][5:]}, actions[5:], middle, starts[5:]
    )
    torch.testing.assert_close(rest.logp, whole.logp[5:])
    torch.testing.assert_close(rest.value, whole.value[5:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_final_observation_is_valued_with_the_memory_of_its_own_episode(kind: str) -> None:
    policy = make(kind)
    seen, starts = sequence()
    starts[:] = False
    actions = torch.zeros(T, B, dtype=torch.int64)
    uncut = policy.evaluate(seen, actions, carried(policy), starts)
    # The same, but the observation after step 6 of environment 2 is the next episode's.
    reset = {"observation": seen["observation"].clone()}
    reset["observation"][7, 2] = 0.5
    starts[7, 2] = True
    cut = policy.evaluate(reset, actions, carried(policy), starts)

    value = policy.value_at(
        {"observation": seen["observation"][7, 2:]},
        {name: states[6, 2:] for name, states in cut.states.items()},
    )
    torch.testing.assert_close(value, uncut.value[7, 2:])


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_state_an_episode_begins(kind: str) -> None:
    policy = make(kind)
    seen, starts = sequence()
    actions = torch.zeros(T, B, dtype=torch.int64)
    none = policy.evaluate(seen, actions, None, starts)
    zeros = policy.evaluate(seen, actions, policy.initial_state(B), starts)
    torch.testing.assert_close(none.value, zeros.value)
    torch.testing.assert_close(policy.value(seen, None, starts), none.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cell_is_the_published_one(kind: str) -> None:
    core = Core(CoreSpec(type=kind, hidden_size=H), 6, torch.Generator().manual_seed(0))
    oracle = (nn.GRU if kind == "gru" else nn.LSTM)(6, H)
    with torch.no_grad():
        core.recurrent.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
        core.input.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
        oracle.weight_ih_l0.copy_(core.input.weight)
        oracle.bias_ih_l0.copy_(core.input.bias)
        oracle.weight_hh_l0.copy_(core.recurrent.weight)
        oracle.bias_hh_l0.copy_(core.recurrent.bias)
    features = torch.randn(T, B, 6, generator=torch.Generator().manual_seed(3))
    start = {
        name: torch.randn(B, H, generator=torch.Generator().manual_seed(4 + i))
        for i, name in enumerate(core.names)
    }
    given = tuple(part[None] for part in start.values())
    expected, last = oracle(features, given[0] if kind == "gru" else given)

    unrolled = core.unroll(features, start, None)

    torch.testing.assert_close(unrolled.output, expected)
    last = (last,) if kind == "gru" else last
    for name, part in zip(core.names, last, strict=True):
        torch.testing.assert_close(unrolled.states[name][-1], part[0])


def test_an_lstm_starts_with_an_open_forget_gate() -> None:
    core = Core(CoreSpec(type="lstm", hidden_size=H), 6, torch.Generator())
    assert core.input.bias.reshape(4, H).sum(1).tolist() == [0.0, float(H), 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_gates_start_orthogonal(kind: str) -> None:
    core = Core(CoreSpec(type=kind, hidden_size=H), 6, torch.Generator())
    for gate in core.recurrent.weight.split(H):
        torch.testing.assert_close(gate @ gate.T, torch.eye(H), atol=1e-5, rtol=0)


def test_a_policy_with_memory_can_learn_to_remember() -> None:
    """The first observation's sign decides the best action of every later step."""
    policy = make("gru", Discrete(2))
    weights = [weight for name, weight in policy.named_parameters() if "value" not in name]
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        cue = torch.randint(2, (32,), generator=generator)
        seen = torch.zeros(6, 32, 4)
        seen[0, :, 0] = cue * 2.0 - 1.0
        logp = policy.evaluate({"observation": seen}, cue.expand(6, 32)).logp
        gradients = torch.autograd.grad(-logp.mean(), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient.clamp(-1, 1), alpha=0.5)
    assert float(logp[1:].detach().exp().min()) > 0.9
