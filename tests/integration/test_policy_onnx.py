"""The exported graph computes what the policy computes, by onnx's reference implementation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy, CnnNetwork, Core, MlpNetwork
from vaco_policy import onnx_export
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Spaces


def test_a_recurrent_policy_steps_the_same_outside_of_torch(tmp_path: Path) -> None:
    spaces = Spaces({"keys": MultiBinary(3), "pose": Box((2,))}, MultiDiscrete((2, 3)))
    config = ActorCriticPolicy(
        network=MlpNetwork(hidden_sizes=[8]),
        core=Core(type="lstm", hidden_size=4),
        normalise_observations=True,
    )
    policy = Policy(config, spaces, seed=2)
    policy.update_observation_statistics({"keys": torch.zeros(9, 3), "pose": torch.randn(9, 2)})
    path = onnx_export.write_onnx(policy, tmp_path)

    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    assert [each.name for each in model.graph.input] == ["keys", "pose", "core.hidden", "core.cell"]
    graph = ReferenceEvaluator(model)
    state = policy.initial_state(1)
    for step in range(4):
        seen = {
            "keys": torch.tensor([[step % 2, 1, 0]], dtype=torch.int8),
            "pose": torch.tensor([[float(step), -1.0]]),
        }
        feeds = {name: part.numpy() for name, part in seen.items()}
        feeds |= {f"core.{name}": part.numpy() for name, part in state.items()}
        with torch.inference_mode(), np.errstate(divide="ignore"):
            given = dict(zip(graph.output_names, graph.run(None, feeds), strict=True))
            act = policy.act(seen, state, None, deterministic=True)
        np.testing.assert_array_equal(given["action"], act.action)
        for name in policy.core_names:
            np.testing.assert_allclose(given[f"next_core.{name}"], act.state[name], atol=1e-5)
        state = act.state


def test_an_image_policy_with_gaussian_actions_can_be_written(tmp_path: Path) -> None:
    spaces = Spaces({"camera": Box((40, 36, 3), "uint8"), "room": Discrete(4)}, Box((2,)))
    policy = Policy(ActorCriticPolicy(network=CnnNetwork(hidden_size=16)), spaces)
    path = onnx_export.write_onnx(policy, tmp_path)
    names = [each.name for each in onnx.load(str(path)).graph.output]
    assert names == ["action", "mean", "log_std"]


def test_writing_says_nothing_of_what_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vaco.job import ActorCriticPolicy; "
        "from vaco_policy.onnx_export import write_onnx; from vaco_policy.policy import Policy; "
        "from vaco_policy.spaces import Box, Discrete, Spaces; "
        "policy = Policy(ActorCriticPolicy(), Spaces({'observation': Box((4,))}, Discrete(2))); "
        "write_onnx(policy, Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    graph = onnx.load(str(tmp_path / onnx_export.GRAPH)).graph
    shapes = {
        each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output)
    }
    assert shapes == {"observation": ["N", 4], "action": ["N"], "log_probs": ["N", 2]}


def test_a_graph_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(ActorCriticPolicy(), Spaces({"observation": Box((4,))}, Box((2,))))
    trace = onnx_export._trace

    def trace_of_another(actor: onnx_export._Actor) -> onnx.ModelProto:
        model = trace(actor)
        with torch.no_grad():
            policy.policy_head.bias.add_(0.01)
        return model

    monkeypatch.setattr(onnx_export, "_trace", trace_of_another)
    with pytest.raises(UserError, match="off by"):
        onnx_export.write_onnx(policy, tmp_path)
    assert not list(tmp_path.iterdir())
