"""The recurrent core: a policy's memory within an episode.

Its state at a fragment's start travels with the fragment, so the learner can recompute what the
actor computed. A state never crosses an episode: where `episode_start` is set, it is zeroed before
the step. Actor (one step) and learner (a sequence) run the same cell, whose own arithmetic is
float32 whatever the precision of the matrix products.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from vaco.job import Core as CoreSpec

from vaco_policy.activations import tanh
from vaco_policy.networks import linear
from vaco_policy.spaces import core_state_names

State = Mapping[str, Tensor]
"""Names of `Core.names` to [B, H]."""


class Unrolled(NamedTuple):
    """What a core makes of a sequence.

    Attributes:
        output: [T, B, H].
        states: By name [T, B, H], after each step (before any reset of the next one).

    """

    output: Tensor
    states: dict[str, Tensor]


class Core(nn.Module):
    """A GRU (Cho et al., 2014) or LSTM (Hochreiter and Schmidhuber, 1997) layer."""

    def __init__(self, config: CoreSpec, inputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.names = core_state_names(config)
        self.input = _gates(config, inputs, generator)
        self.recurrent = _gates(config, config.hidden_size, generator)
        if config.type == "lstm":
            # An open forget gate lets gradient pass from the start (Gers et al., 2000).
            nn.init.ones_(self.input.bias.data.chunk(4)[1])

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Return zeros [B, H] by name."""
        zeros = self.input.weight.new_zeros(batch, self.hidden_size)
        return {name: zeros.clone() for name in self.names}

    def step(
        self, features_B: Tensor, state: State, episode_start_B: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the state after one step; its "hidden" is the output."""
        keep = None if episode_start_B is None else _keep(episode_start_B)
        return self._cell(self.input(features_B).float(), state, keep)

    def unroll(
        self, features_TB: Tensor, state: State, episode_start_TB: Tensor | None
    ) -> Unrolled:
        """Run over a sequence.

        Args:
            features_TB: [T, B, D].
            state: Before step 0, [B, H] by name.
            episode_start_TB: bool [T, B]; True zeroes the state before that step.

        """
        gates_TB = self.input(features_TB).float()
        keep_TB = [None] * len(gates_TB) if episode_start_TB is None else _keep(episode_start_TB)
        states: list[dict[str, Tensor]] = []
        for gates, keep in zip(gates_TB, keep_TB, strict=True):
            state = self._cell(gates, state, keep)
            states.append(dict(state))
        stacked = {name: torch.stack([s[name] for s in states]) for name in self.names}
        return Unrolled(stacked["hidden"], stacked)

    def _cell(self, gates: Tensor, state: State, keep: Tensor | None) -> dict[str, Tensor]:
        hidden = state["hidden"] if keep is None else state["hidden"] * keep
        recurrent = self.recurrent(hidden)
        if len(self.names) == 1:
            return {"hidden": _gru(gates, recurrent, hidden)}
        cell = state["cell"] if keep is None else state["cell"] * keep
        hidden, cell = _lstm(gates + recurrent, cell)
        return {"hidden": hidden, "cell": cell}


def _gates(config: CoreSpec, inputs: int, generator: torch.Generator) -> nn.Linear:
    """Return the layer that all gates share, orthogonal for each of them."""
    count = 3 if config.type == "gru" else 4
    layer = linear(inputs, count * config.hidden_size, 1.0, generator)
    for gate in layer.weight.data.chunk(count):
        nn.init.orthogonal_(gate, generator=generator)
    return layer


def _keep(episode_start: Tensor) -> Tensor:
    """Return 1 where the state is kept, 0 where it is zeroed: [..., 1]."""
    return (~episode_start).float().unsqueeze(-1)


def _gru(gates: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    size = hidden.shape[-1]
    reset, update = (gates[..., : 2 * size] + recurrent[..., : 2 * size]).sigmoid().chunk(2, -1)
    candidate = tanh(torch.addcmul(gates[..., 2 * size :], reset, recurrent[..., 2 * size :]))
    return torch.lerp(candidate, hidden, update)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    put, forget, candidate, output = gates.chunk(4, -1)
    cell = torch.addcmul(forget.sigmoid() * cell, put.sigmoid(), tanh(candidate))
    return output.sigmoid() * tanh(cell), cell
