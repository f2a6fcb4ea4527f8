import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy, Core
from vaco_policy.parameters import load_payload, to_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, Spaces

SPACES = Spaces({"observation": Box((4,))}, Box((2,)))
CONFIG = ActorCriticPolicy(
    normalise_observations=True, normalise_returns=True, core=Core(type="gru", hidden_size=8)
)


def make(seed: int) -> Policy:
    policy = Policy(CONFIG, SPACES, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    policy.update_observation_statistics({"observation": torch.randn(50, 4, generator=generator)})
    rewards = torch.randn(20, 3, generator=generator)
    assert policy.return_normaliser is not None
    policy.return_normaliser.update(
        rewards, rewards > 1, torch.ones_like(rewards, dtype=torch.bool), torch.zeros(3), 0.9
    )
    return policy


def snapshot(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def values(policy: Policy) -> Tensor:
    seen = torch.linspace(-3, 3, 40).reshape(5, 2, 4)
    return policy.value({"observation": seen}).detach()


def test_float32_is_restored_exactly_and_acts_the_same() -> None:
    source, target = make(0), make(1)
    assert not torch.allclose(values(source), values(target))
    load_payload(target, to_payload(source))
    theirs = target.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in source.state_dict().items())
    assert torch.equal(values(source), values(target))


def test_bfloat16_rounds_the_weights_and_never_the_normalisers() -> None:
    source, target = make(0), make(1)
    payload = to_payload(source, "bfloat16")
    load_payload(target, payload)
    theirs = target.state_dict()
    rounded = 0
    for name, tensor in source.state_dict().items():
        assert theirs[name].dtype == tensor.dtype
        if "normaliser" in name:
            assert torch.equal(theirs[name], tensor)
        else:
            torch.testing.assert_close(theirs[name], tensor, rtol=2**-8, atol=0)
            rounded += int((theirs[name] != tensor).sum())
    assert rounded > 0
    assert len(payload) < 0.7 * len(to_payload(source))


def test_a_payload_depends_on_the_weights_alone() -> None:
    assert to_payload(make(0)) == to_payload(make(0))
    assert to_payload(make(0)) != to_payload(make(1))


def test_loading_reaches_weights_that_are_in_use() -> None:
    source, target = make(0), make(1)
    seen = {"observation": torch.linspace(-1, 1, 8).reshape(2, 4)}
    with torch.inference_mode():
        target.act(seen, target.initial_state(2), None, deterministic=True)
        load_payload(target, to_payload(source))
        ours = source.act(seen, source.initial_state(2), None, deterministic=True)
        theirs = target.act(seen, target.initial_state(2), None, deterministic=True)
    assert torch.equal(ours.action, theirs.action)


def altered(**changes: Tensor | None) -> bytes:
    tensors = {**load(to_payload(make(0))), **changes}
    return save({name: tensor for name, tensor in tensors.items() if tensor is not None})


REFUSED = {
    "pickle": (lambda: pickle.dumps(make(0).state_dict()), "not safetensors"),
    "torch.save's zip": (lambda: b"PK\x03\x04" + bytes(200), "not safetensors"),
    "nothing": (lambda: b"", "not safetensors"),
    "half of it": (lambda: to_payload(make(0))[:-100], "not safetensors"),
    "a header that lies": (lambda: (1 << 60).to_bytes(8, "little") + bytes(100), "not safetensors"),
    "too much": (lambda: bytes(4 << 20), "bytes are more"),
    "a missing tensor": (lambda: altered(log_std=None), "missing ['log_std']"),
    "another tensor": (lambda: altered(extra=torch.zeros(1)), "unknown ['extra']"),
    "a shape": (lambda: altered(log_std=torch.zeros(3)), "log_std has shape (3,), not (2,)"),
    "a dtype": (lambda: altered(log_std=torch.zeros(2, dtype=torch.int32)), "log_std has dtype"),
    "a coarse normaliser": (
        lambda: altered(**{"observation_normaliser.mean": torch.zeros(4)}),
        "observation_normaliser.mean has dtype",
    ),
    "not a number": (lambda: altered(log_std=torch.tensor([0.0, float("nan")])), "not finite"),
    "infinity": (lambda: altered(log_std=torch.tensor([0.0, float("inf")])), "not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_policys_is_refused_and_changes_nothing(case: str) -> None:
    payload, problem = REFUSED[case]
    policy = make(1)
    before, valued = snapshot(policy), values(policy)
    with pytest.raises(UserError) as refusal:
        load_payload(policy, payload())
    assert problem in refusal.value.problem
    assert refusal.value.cure
    after = policy.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(values(policy), valued)


def test_weights_of_other_spaces_are_refused() -> None:
    other = Policy(CONFIG, Spaces({"observation": Box((4,))}, Discrete(2)))
    with pytest.raises(UserError, match="log_std"):
        load_payload(make(0), to_payload(other))
