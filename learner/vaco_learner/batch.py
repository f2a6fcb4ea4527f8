"""The batch of one optimisation phase: many fragments side by side.

Fragments are put next to each other along the environment axis, with one copy from the bytes of the
wire into the batch. A fragment that a draining actor cut short is padded at its end with steps that
are not valid; its bootstrap observation stays directly behind its last step, where the alignment
looks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vaco.trajectory import Fragment


@dataclass(frozen=True, slots=True)
class PhaseBatch:
    """T steps of B environments, gathered from `fragments` fragments.

    `observations` hold T+1 rows: row t+1 is what followed step t, or the padding of a short
    fragment. Where an environment was reset within the step (same-step autoreset), what really
    followed is in `final_observations`; `final_steps_N` are their flat indices t*B + b, ascending.
    """

    observations: dict[str, Tensor]  # [T+1, B, ...]
    actions: Tensor  # [T, B] int64, or [T, B, A]
    rewards_TB: Tensor
    terminated_TB: Tensor
    truncated_TB: Tensor
    valid_TB: Tensor
    behaviour_logp_TB: Tensor
    episode_start_T1B: Tensor
    final_observations: dict[str, Tensor]  # [N, ...]
    final_steps_N: Tensor
    core_state: dict[str, Tensor]  # [B, H]
    return_carry_B: Tensor
    fragment_B: Tensor  # the column's fragment: its index in the collated sequence
    fragments: int
    samples: int  # valid steps

    @property
    def length(self) -> int:
        """T."""
        return self.rewards_TB.shape[0]

    @property
    def environments(self) -> int:
        """B."""
        return self.rewards_TB.shape[1]


def collate(fragments: Sequence[Fragment], device: torch.device | str = "cpu") -> PhaseBatch:
    """Put fragments of one specification side by side.

    Args:
        fragments: at least one; all admitted against the same `FragmentSpec`.
        device: where the batch shall live.

    Raises:
        ValueError: there is no fragment, or their fields do not fit each other.

    """
    if not fragments:
        raise ValueError("collate needs at least one fragment")
    length = max(fragment.length for fragment in fragments)
    columns = _columns(fragments)

    def rows(name: str, extra: int = 0) -> NDArray[np.generic]:
        return _side_by_side([getattr(f, name) for f in fragments], columns, length + extra)

    observations = _named([f.observations for f in fragments], columns, length + 1)
    finals, final_steps = _finals(fragments, columns)
    core_state = {
        name: np.concatenate([f.core_state[name] for f in fragments])
        for name in fragments[0].core_state
    }
    owner = np.repeat(np.arange(len(fragments)), [f.environments for f in fragments])

    def put(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return PhaseBatch(
        observations={name: put(array) for name, array in observations.items()},
        actions=put(_indexable(rows("actions"))),
        rewards_TB=put(rows("rewards")),
        terminated_TB=put(rows("terminated")),
        truncated_TB=put(rows("truncated")),
        valid_TB=put(rows("valid")),
        behaviour_logp_TB=put(rows("behaviour_logp")),
        episode_start_T1B=put(rows("episode_start", extra=1)),
        final_observations={name: put(array) for name, array in finals.items()},
        final_steps_N=put(final_steps),
        core_state={name: put(array) for name, array in core_state.items()},
        return_carry_B=put(np.concatenate([f.return_carry for f in fragments])),
        fragment_B=put(owner),
        fragments=len(fragments),
        samples=sum(fragment.samples for fragment in fragments),
    )


def _columns(fragments: Sequence[Fragment]) -> list[slice]:
    """Return the columns of the batch that each fragment takes."""
    ends = np.cumsum([fragment.environments for fragment in fragments]).tolist()
    starts = [0, *ends[:-1]]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def _side_by_side(
    arrays: Sequence[NDArray[np.generic]], columns: Sequence[slice], length: int
) -> NDArray[np.generic]:
    """Copy arrays [t, b, ...] into one [length, B, ...], zeros below those with t < length."""
    out = np.empty((length, columns[-1].stop, *arrays[0].shape[2:]), arrays[0].dtype)
    for array, column in zip(arrays, columns, strict=True):
        out[: len(array), column] = array
        if len(array) < length:
            out[len(array) :, column] = 0
    return out


def _named(
    parts: Sequence[Mapping[str, NDArray[np.generic]]], columns: Sequence[slice], length: int
) -> dict[str, NDArray[np.generic]]:
    return {name: _side_by_side([p[name] for p in parts], columns, length) for name in parts[0]}


def _finals(
    fragments: Sequence[Fragment], columns: Sequence[slice]
) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.int64]]:
    """Return final observations, and their steps counted in the batch, not in the fragment."""
    width = columns[-1].stop
    steps = []
    for fragment, column in zip(fragments, columns, strict=True):
        t, b = np.divmod(fragment.final_steps.astype(np.int64), fragment.environments)
        steps.append(t * width + column.start + b)
    flat = np.concatenate(steps)
    order = np.argsort(flat)
    holders = [f for f in fragments if len(f.final_steps)]
    finals = {
        name: np.concatenate([f.final_observations[name] for f in holders])[order]
        for name in (holders[0].final_observations if holders else ())
    }
    return finals, flat[order]


def _indexable(actions: NDArray[np.generic]) -> NDArray[np.generic]:
    """Integer actions as int64, the type torch gathers with."""
    return actions.astype(np.int64) if np.issubdtype(actions.dtype, np.integer) else actions
