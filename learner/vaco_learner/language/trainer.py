"""A language model's trainer: the model, its warm start, its updates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from vaco.completions import CompletionGroup, CompletionSpec
from vaco.job import VACOJob
from vaco_policy.language.model import LanguageModel, build
from vaco_policy.language.problems import encode_answer, encode_prompts, load_problems

from vaco_learner.language.diagnostics import LanguageStats
from vaco_learner.language.excerpts import excerpts
from vaco_learner.language.update import LanguageUpdater
from vaco_learner.language.warm_start import Example, warm_start
from vaco_learner.trainer import TrainerState

_LOG = logging.getLogger(__name__)


class LanguageTrainer:
    """Trains a language model; implements `vaco_learner.trainer.Trainer`.

    Args:
        job: resolved.
        device: where the model lives.

    Attributes:
        contract: of the model, as JSON.
        experience: what groups must look like.

    Raises:
        UserError: the model cannot be built.

    """

    def __init__(self, job: VACOJob, device: torch.device) -> None:
        parts = job.spec.language
        self._job = job
        self._model: LanguageModel = build(parts, job.spec.seed, pretrained=True).to(device)
        # Nothing in it is random; transformers checkpoints activations in this mode only.
        self._model.train(parts.policy.gradient_checkpointing)
        self._updater = LanguageUpdater(self._model.network, self._model.published, job)
        self.contract = self._model.contract()
        self.experience = CompletionSpec(
            vocabulary=self._model.vocabulary,
            max_prompt_tokens=parts.task.max_prompt_tokens,
            max_completion_tokens=parts.task.max_completion_tokens,
            group_size=parts.sampling.group_size,
            reward_bound=parts.task.reward_bound,
        )

    @property
    def published(self) -> nn.Module:
        """The module whose `state_dict` actors get."""
        return self._model.published

    def begin(self, stepped: Callable[[], None], tell: Callable[[str], None]) -> None:
        """Take the supervised steps of `policy.warmStart`, if it asks for some.

        Args:
            stepped: called after every pass through the network.
            tell: called with how far it is.

        Raises:
            UserError: the problems cannot be read, or training diverged.

        """
        spec = self._job.spec
        start = spec.language.policy.warm_start
        if start is None:
            return
        examples = self._examples()
        _LOG.info("warm start: %d steps on %d problems", start.steps, len(examples))
        warm_start(
            self._model.network,
            examples,
            start,
            seed=spec.seed,
            bf16=spec.learner.precision == "bf16",
            budget=spec.learner.micro_batch_tokens,
            stepped=stepped,
            tell=tell,
        )

    def train(
        self,
        fragments: Sequence[CompletionGroup],
        stepped: Callable[[], None],
        lags: Sequence[NDArray[np.int64]],
    ) -> LanguageStats:
        """Train on a batch: one phase, which makes one version.

        Args:
            fragments: what `experience` has decoded, at least one.
            stepped: called after every pass through the network.
            lags: of each group, in versions, one for each token.

        Raises:
            NonFiniteUpdate: a loss or a gradient is not finite.

        """
        return self._updater.update(fragments, stepped, lags)

    def excerpts(self, fragments: Sequence[CompletionGroup]) -> list[dict[str, Any]]:
        """Return a few of the completions as text."""
        return excerpts(fragments, self._model.tokenizer)

    def state(self) -> TrainerState:
        """Copy everything that changes, for a checkpoint."""
        return self._updater.state()

    def load_state(self, state: TrainerState) -> None:
        """Continue from a checkpoint of the same job.

        Raises:
            UserError: weights or moments are not those of this model.

        """
        self._updater.load_state(state)

    def _examples(self) -> list[Example]:
        """Return the problems to train on, with answers that fit into a completion."""
        task = self._job.spec.language.task
        problems = encode_prompts(load_problems(task, "train"), task, self._model)
        answers = [encode_answer(each.problem, self._model) for each in problems]
        fitting = [
            Example(each.prompt.tolist(), answer)
            for each, answer in zip(problems, answers, strict=True)
            if len(answer) <= task.max_completion_tokens
        ]
        if len(fitting) < len(problems):
            left_out = len(problems) - len(fitting)
            _LOG.warning(
                "warm start: %d problems are left out: their answers have more than %d tokens",
                left_out,
                task.max_completion_tokens,
            )
        return fitting
