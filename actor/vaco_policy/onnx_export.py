"""The actor as an ONNX graph, checked against the policy it was made from.

Inputs: each observation by its name, [N, ...] in the dtype it travels in, then each part of a
core's state as `core.NAME`, float32 [N, H], zeroed by the caller where an episode starts. Outputs:
`action`, the most probable one; the distribution's parameters, `log_probs` or `mean` and `log_std`;
and `next_core.NAME`. N is free.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from vaco.errors import UserError

from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiBinary, Spaces

GRAPH = "policy.onnx"
_TRACED_ROWS = 3
_CHECKED_ROWS = 5
_TOLERANCE = 1e-4
_FLOOR = -30.0
_REGISTRY: Final = "torch.onnx._internal.exporter._registration"
"""Logger of the exporter's table of operators."""


class _Actor(nn.Module):
    """The policy with tensors by position, as a graph has them."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        gaussian = isinstance(policy.spaces.action, Box)
        parameters = ("mean", "log_std") if gaussian else ("log_probs",)
        self.inputs = (*policy.spaces.observation, *(f"core.{n}" for n in policy.core_names))
        self.outputs = ("action", *parameters, *(f"next_core.{n}" for n in policy.core_names))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.policy.spaces.observation)
        observations = dict(zip(self.policy.spaces.observation, tensors[:count], strict=True))
        state = dict(zip(self.policy.core_names, tensors[count:], strict=True))
        distribution, after = self.policy.distribution_at(observations, state)
        return (distribution.mode(), *distribution.parameters().values(), *after.values())


def write_onnx(policy: Policy, directory: Path) -> Path:
    """Write `policy.onnx`, and compare what it computes with the policy.

    The comparison runs onnx's reference implementation on random inputs, with another number of
    rows than the graph was traced with.

    Raises:
        UserError: The graph does not compute what the policy computes; it is not written then.

    """
    actor = _Actor(policy).eval()
    with torch.inference_mode():
        model = _trace(actor)
        _compare(actor, model)
    path = directory / GRAPH
    onnx.save(model, str(path))
    return path


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Have the exporter not warn that operators of torchvision, which we never use, are absent."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    logger = logging.getLogger(_REGISTRY)
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def _trace(actor: _Actor) -> onnx.ModelProto:
    rows = torch.export.Dim("N")
    with _without_torchvision(), warnings.catch_warnings():
        # torch's exporter warns about its own parts.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            actor,
            _example(actor, _TRACED_ROWS),
            dynamo=True,
            dynamic_shapes=(tuple({0: rows} for _ in actor.inputs),),
            input_names=actor.inputs,
            output_names=actor.outputs,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program.model_proto


def _compare(actor: _Actor, model: onnx.ModelProto) -> None:
    example = _example(actor, _CHECKED_ROWS)
    feeds = {name: value.numpy() for name, value in zip(actor.inputs, example, strict=True)}
    with np.errstate(divide="ignore"):
        given = ReferenceEvaluator(model).run(None, feeds)
    for name, value, expected in zip(actor.outputs, given, actor(*example), strict=True):
        # The reference takes the logarithm of the softmax: minus infinity for what is improbable.
        error = np.abs(np.maximum(value, _FLOOR) - np.maximum(expected.numpy(), _FLOOR)).max()
        if not error <= _TOLERANCE:
            raise UserError(GRAPH, f"its `{name}` is off by {error:g} from the policy's")


def _example(actor: _Actor, rows: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    state = actor.policy.initial_state(rows)
    return (
        *_random_observations(actor.policy.spaces, rows, generator),
        *(torch.empty_like(part).uniform_(-1, 1, generator=generator) for part in state.values()),
    )


def _random_observations(spaces: Spaces, rows: int, generator: torch.Generator) -> list[Tensor]:
    def integers(high: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randint(high, (rows, *shape), generator=generator).to(dtype)

    examples = []
    for space in spaces.observation.values():
        if isinstance(space, Discrete):
            examples.append(integers(space.n, (), torch.int64))
        elif isinstance(space, MultiBinary):
            examples.append(integers(2, (space.n,), torch.int8))
        elif space.dtype == "float32":
            examples.append(torch.randn(rows, *space.shape, generator=generator))
        else:
            examples.append(integers(128, space.shape, getattr(torch, space.dtype)))
    return examples
