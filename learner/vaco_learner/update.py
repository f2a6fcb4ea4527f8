"""One optimisation phase: align once, then filter and step, epochs x minibatches.

    batch -> scale rewards -> survey with pi_T: log pi_T, V -> align: value targets, advantages
                                                                  |
             .--- next minibatch <--- Adam <--- losses <--- filter <-'
             '--> observation normaliser -> statistics

The observation normaliser is part of the policy, so it moves between the last gradient step and
publication: the weights that actors get are then exactly the pi_T of the next phase, and data
without lag has ratio 1 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from vaco.job import VACOJob
from vaco_policy.parameters import load_payload, to_payload
from vaco_policy.policy import Policy
from vaco_policy.seeding import derive
from vaco_policy.spaces import Spaces

from vaco_learner.algorithms import Minibatch, kl_from_behaviour, make_algorithm
from vaco_learner.align import Aligned, Steps, normalise
from vaco_learner.batch import PhaseBatch
from vaco_learner.diagnostics import (
    UpdateStats,
    explained_variance,
    importance,
    record_step,
    summarise,
)
from vaco_learner.filter import Logps
from vaco_learner.forward import Survey, make_forward
from vaco_learner.optimiser import NonFiniteUpdate, Optimiser, scheduled_rate
from vaco_learner.ratios import bounded
from vaco_learner.trainer import TrainerState

__all__ = ["NonFiniteUpdate", "UpdateStats", "Updater"]

_GENERATOR = "generator"


@dataclass(slots=True)
class _Phase:
    """What a phase knows of its batch; `aligned` changes where the algorithm aligns anew."""

    batch: PhaseBatch
    rewards_TB: Tensor
    start: Survey  # by pi_T
    aligned: Aligned
    dropped: Tensor  # bool [T*B]: filtered in some step


def _ignore() -> None:
    """Nobody counts the steps."""


class Updater:
    """Owns the policy and everything that changes it.

    Args:
        job: its seed, policy, algorithm and precision are used, and `stop.envSteps` where the
            learning rate follows it.
        spaces: of the environment.
        device: where the policy lives; batches must be there too.

    Attributes:
        policy: the policy being trained.
        updates: phases done.
        samples: samples trained on, over the job's whole life.

    """

    def __init__(self, job: VACOJob, spaces: Spaces, device: torch.device | str = "cpu") -> None:
        spec = job.spec
        self._spec = spec.control.algorithm
        self._total_samples = spec.stop.env_steps
        self.policy = Policy(spec.control.policy, spaces, spec.seed).to(device)
        self.updates = 0
        self.samples = 0
        self._algorithm = make_algorithm(self._spec)
        self._forward = make_forward(self.policy, bf16=spec.learner.precision == "bf16")
        self._optimiser = Optimiser(self.policy, self._spec)
        self._generator = torch.Generator().manual_seed(derive(spec.seed, "minibatches"))

    def update(self, batch: PhaseBatch, stepped: Callable[[], None] = _ignore) -> UpdateStats:
        """Train on a batch: one phase, which makes one version.

        Args:
            batch: what to train on.
            stepped: called after every gradient step.

        Raises:
            NonFiniteUpdate: a loss or a gradient is not finite. That step was not applied, the
                phase's earlier ones were; the updater is not to be used for further phases.
            ValueError: the batch has no valid step.

        """
        if batch.samples == 0:
            raise ValueError("a batch without a valid step cannot be trained on")
        learning_rate = scheduled_rate(self._spec, self.samples, self._total_samples)
        phase = self._begin(batch)
        start_targets_TB = phase.aligned.value_target_TB
        records: list[Tensor] = []
        for epoch in range(self._spec.epochs):
            for record in self._epoch(phase, epoch, learning_rate):
                records.append(record)
                stepped()
        self._end(phase)
        valid_TB = batch.valid_TB
        return summarise(
            records,
            importance(phase.start.logp_TB[valid_TB] - batch.behaviour_logp_TB[valid_TB]),
            explained_variance(start_targets_TB[valid_TB], phase.start.value_TB[valid_TB]),
            threshold=self._algorithm.threshold,
            filtered_samples=phase.dropped.sum(),
            learning_rate=learning_rate,
            samples=batch.samples,
        )

    def state(self) -> TrainerState:
        """Copy everything that changes, for a checkpoint."""
        return TrainerState(
            policy=to_payload(self.policy),
            optimizer={**self._optimiser.state(), _GENERATOR: self._generator.get_state()},
            document={
                "updates": self.updates,
                "samples": self.samples,
                "algorithm": self._algorithm.state(),
            },
        )

    def load_state(self, state: TrainerState) -> None:
        """Continue from a checkpoint of the same job.

        Raises:
            UserError: weights or moments are not those of this policy.

        """
        load_payload(self.policy, state.policy)
        moments = dict(state.optimizer)
        self._generator.set_state(moments.pop(_GENERATOR).cpu())
        self._optimiser.load_state(moments)
        self.updates = int(state.document["updates"])
        self.samples = int(state.document["samples"])
        self._algorithm.load_state(state.document["algorithm"])

    def _begin(self, batch: PhaseBatch) -> _Phase:
        """Scale the rewards, look at the batch with pi_T, align."""
        rewards_TB = self._scaled_rewards(batch)
        start = self._survey(batch)
        return _Phase(
            batch=batch,
            rewards_TB=rewards_TB,
            start=start,
            aligned=self._align(batch, rewards_TB, start),
            dropped=torch.zeros_like(batch.valid_TB).flatten(),
        )

    def _scaled_rewards(self, batch: PhaseBatch) -> Tensor:
        normaliser = self.policy.return_normaliser
        if normaliser is None:
            return batch.rewards_TB
        normaliser.update(
            batch.rewards_TB,
            batch.terminated_TB | batch.truncated_TB,
            batch.valid_TB,
            batch.return_carry_B,
            self._spec.gamma,
        )
        scaled_TB: Tensor = normaliser(batch.rewards_TB)
        return scaled_TB

    def _survey(self, batch: PhaseBatch) -> Survey:
        return self._forward.survey(batch, self._spec.minibatches)

    def _align(self, batch: PhaseBatch, rewards_TB: Tensor, survey: Survey) -> Aligned:
        steps = Steps(
            rewards_TB,
            survey.value_TB,
            survey.next_value_TB,
            batch.terminated_TB,
            batch.truncated_TB,
            batch.valid_TB,
        )
        return self._algorithm.align(steps, survey.logp_TB - batch.behaviour_logp_TB)

    def _epoch(self, phase: _Phase, epoch: int, learning_rate: float) -> Iterator[Tensor]:
        """One pass over the batch; yields the record of every gradient step."""
        realign = self._algorithm.realign
        parts = self._forward.minibatches(phase.batch, self._spec.minibatches, self._generator)
        for number, part in enumerate(parts):
            moved = epoch > 0 or number > 0
            if moved and (realign == "perMinibatch" or (realign == "perEpoch" and number == 0)):
                survey = self._survey(phase.batch)
                phase.aligned = self._align(phase.batch, phase.rewards_TB, survey)
            yield self._step(phase, part, learning_rate)

    def _step(self, phase: _Phase, part: Tensor, learning_rate: float) -> Tensor:
        """Filter one minibatch and step on it."""
        batch, spec = phase.batch, self._spec
        seen = self._forward.evaluate(batch, part)
        index_N = seen.index_N
        rounding_TB = phase.start.rounding_TB
        logp_N = seen.logp_N if rounding_TB is None else seen.logp_N - _at(rounding_TB, index_N)
        logps = Logps(
            policy_N=logp_N,
            behaviour_N=_at(batch.behaviour_logp_TB, index_N),
            start_N=_at(phase.start.logp_TB, index_N),
        )
        advantage_N = _at(phase.aligned.advantage_TB, index_N)
        if spec.normalise_advantages and not self._algorithm.normalises:
            advantage_N = normalise(advantage_N)
        fragment_N = batch.fragment_B.index_select(0, index_N % batch.environments)
        policy = self._algorithm.policy_loss(
            Minibatch(logps, advantage_N, fragment_N, batch.fragments)
        )
        error_N = seen.value_N - _at(phase.aligned.value_target_TB, index_N)
        value_loss = 0.5 * error_N.square().mean()
        entropy = seen.entropy_N.mean()
        norm = self._optimiser.step(
            policy.loss + spec.value_coefficient * value_loss - spec.entropy_coefficient * entropy,
            learning_rate,
        )
        if policy.filtered is not None:
            phase.dropped[index_N] |= ~policy.filtered.keep_N
        return record_step(logps, policy, value_loss, entropy, norm)

    def _end(self, phase: _Phase) -> None:
        """Move what moves once per phase, after the last step."""
        batch = phase.batch
        if self._algorithm.adapts_to_kl:
            log_ratio_TB = bounded(self._survey(batch).logp_TB - batch.behaviour_logp_TB)
            self._algorithm.adapt(float(kl_from_behaviour(log_ratio_TB[batch.valid_TB])))
        self.policy.update_observation_statistics(
            {name: rows[:-1] for name, rows in batch.observations.items()}, batch.valid_TB
        )
        self.updates += 1
        self.samples += batch.samples


def _at(array_TB: Tensor, index_N: Tensor) -> Tensor:
    return array_TB.flatten().index_select(0, index_N)
