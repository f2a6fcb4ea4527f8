"""The policy on a phase's data: all of it without gradient, or a minibatch with.

What the policy is made of decides how data can be dealt out. Feed-forward policies see single
samples: steps that are not valid are left out and the rest is shuffled freely. A recurrent policy
has to see a column from its first step on: columns are shuffled and run through whole, and the
steps that are not valid are left out afterwards. Either way the losses see N valid samples, each
known by its flat index t*B + b.

In bfloat16, the networks' rounding moves a log-density by as much as a small lag does. Actors act
in float32, so the policy at the start of a phase is looked at in float32, which makes the ratio of
data without lag exactly 1. What rounding does to each sample there is taken off in the minibatches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from vaco_policy.policy import Evaluation, Policy

from vaco_learner.batch import PhaseBatch


@dataclass(frozen=True, slots=True)
class Survey:
    """The policy's view of a whole batch, without gradient; all [T, B] float32."""

    logp_TB: Tensor
    value_TB: Tensor
    next_value_TB: Tensor  # of what really followed each step
    rounding_TB: Tensor | None  # what minibatches find too much in logp_TB; None: nothing


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The policy's view of N valid samples, with gradient; float32."""

    index_N: Tensor  # flat: t*B + b
    logp_N: Tensor
    entropy_N: Tensor
    value_N: Tensor


class Forward(ABC):
    """Runs one policy over batches.

    Args:
        policy: the policy.
        bf16: whether networks compute minibatches in bfloat16 (autocast); what comes out is float32
            anyway.

    """

    def __init__(self, policy: Policy, *, bf16: bool) -> None:
        self._policy = policy
        self._bf16 = bf16

    @torch.no_grad()
    def survey(self, batch: PhaseBatch, parts: int) -> Survey:
        """Evaluate the whole batch, a `parts`-th of its columns at a time to bound memory."""
        spans = _spans(batch.environments, parts)
        surveys = [self._survey_columns(batch, columns) for columns in spans]
        logp_TB = torch.cat([survey.logp_TB for survey in surveys], dim=1)
        return Survey(
            logp_TB=logp_TB,
            value_TB=torch.cat([survey.value_TB for survey in surveys], dim=1),
            next_value_TB=torch.cat([survey.next_value_TB for survey in surveys], dim=1),
            rounding_TB=self._rounded_logp(batch, spans) - logp_TB if self._bf16 else None,
        )

    def _rounded_logp(self, batch: PhaseBatch, spans: list[slice]) -> Tensor:
        with self._autocast(batch):
            seen = [self._evaluate_columns(batch, columns).logp for columns in spans]
        return torch.cat(seen, dim=1)

    def _evaluate_columns(self, batch: PhaseBatch, columns: slice) -> Evaluation:
        return self._policy.evaluate(
            {name: rows[:, columns].contiguous() for name, rows in batch.observations.items()},
            batch.actions[:, columns],
            {name: state[columns] for name, state in batch.core_state.items()},
            batch.episode_start_T1B[:, columns],
        )

    def _survey_columns(self, batch: PhaseBatch, columns: slice) -> Survey:
        seen = self._evaluate_columns(batch, columns)
        value_T1B = seen.value
        next_value_TB = value_T1B[1:]
        if len(batch.final_steps_N):
            next_value_TB = next_value_TB.clone()
            self._value_finals(batch, columns, seen.states, next_value_TB)
        return Survey(seen.logp, value_T1B[:-1], next_value_TB, None)

    def _value_finals(
        self,
        batch: PhaseBatch,
        columns: slice,
        states: Mapping[str, Tensor],
        next_value_TB: Tensor,
    ) -> None:
        """Put in the values of final observations: what really followed a same-step reset."""
        step_N = batch.final_steps_N // batch.environments
        column_N = batch.final_steps_N % batch.environments - columns.start
        here_N = ((column_N >= 0) & (column_N < next_value_TB.shape[1])).nonzero().squeeze(1)
        if not len(here_N):
            return
        at = (step_N[here_N], column_N[here_N])
        value_N = self._policy.value_at(
            {name: rows[here_N] for name, rows in batch.final_observations.items()},
            {name: state_TBH[at] for name, state_TBH in states.items()},
        )
        next_value_TB[at] = value_N

    @abstractmethod
    def minibatches(
        self, batch: PhaseBatch, count: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Deal the valid samples out at random, into at most `count` parts, none of them empty."""

    @abstractmethod
    def evaluate(self, batch: PhaseBatch, part: Tensor) -> Evaluated:
        """Evaluate a part that `minibatches` dealt out."""

    def _autocast(self, batch: PhaseBatch) -> torch.autocast:
        device = batch.rewards_TB.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._bf16)


def make_forward(policy: Policy, *, bf16: bool) -> Forward:
    """Choose by whether the policy has a recurrent core."""
    return (Recurrent if policy.core_names else FeedForward)(policy, bf16=bf16)


class FeedForward(Forward):
    """For policies without memory; a part is the flat indices of its samples."""

    def minibatches(
        self, batch: PhaseBatch, count: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Deal out single samples."""
        return _deal(batch.valid_TB.flatten(), count, generator)

    def evaluate(self, batch: PhaseBatch, part: Tensor) -> Evaluated:
        """Evaluate exactly the part's samples."""
        with self._autocast(batch):
            seen = self._policy.evaluate(
                {
                    name: rows[:-1].flatten(0, 1).index_select(0, part)
                    for name, rows in batch.observations.items()
                },
                batch.actions.flatten(0, 1).index_select(0, part),
            )
        return Evaluated(part, seen.logp, seen.entropy, seen.value)


class Recurrent(Forward):
    """For policies with a core; a part is a set of columns."""

    def minibatches(
        self, batch: PhaseBatch, count: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Deal out whole columns."""
        return _deal(batch.valid_TB.any(dim=0), count, generator)

    def evaluate(self, batch: PhaseBatch, part: Tensor) -> Evaluated:
        """Run through the part's columns, then leave out what is not valid."""
        with self._autocast(batch):
            seen = self._policy.evaluate(
                {
                    name: rows[:-1].index_select(1, part)
                    for name, rows in batch.observations.items()
                },
                batch.actions.index_select(1, part),
                {name: state.index_select(0, part) for name, state in batch.core_state.items()},
                batch.episode_start_T1B[:-1].index_select(1, part),
            )
        valid_N = batch.valid_TB.index_select(1, part).flatten().nonzero().squeeze(1)

        def of_valid(array_TB: Tensor) -> Tensor:
            return array_TB.flatten().index_select(0, valid_N)

        return Evaluated(
            index_N=valid_N // len(part) * batch.environments + part[valid_N % len(part)],
            logp_N=of_valid(seen.logp),
            entropy_N=of_valid(seen.entropy),
            value_N=of_valid(seen.value),
        )


def _deal(usable: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Shuffle the indices where `usable` [M] holds, and cut them into parts of almost equal size.

    The order is drawn on the CPU, so that a seed means the same on every device.
    """
    index = usable.nonzero().squeeze(1)
    order = torch.randperm(len(index), generator=generator).to(index.device)
    return index[order].tensor_split(min(count, len(index)))


def _spans(columns: int, parts: int) -> list[slice]:
    """Cut the columns into at most `parts` spans."""
    width = -(-columns // parts)
    return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]
