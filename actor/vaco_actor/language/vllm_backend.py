"""Completions sampled by vLLM.

Its limits:

- The engine runs in the actor's own process and on one device; weights are handed over there.
- `policy.model` only, with all its weights: neither `tiny` nor `lora`.
- Weights change between batches of prompts: no `weightsChange: inFlight`.
- A batch that has begun is completed, also when the actor is told to stop: `actors.drainSeconds`
  must be longer than that takes.
- The copy of the model that weights arrive in stays in the CPU's memory, in float32.
- Nothing is told while a batch is generated: one that takes longer than a program may be silent
  (`VACO_STUCK_SECONDS`) counts as stuck. Lower `sampling.prompts`.
- Probabilities are vLLM's own, of the bent distribution. Its kernels are not the learner's, and
  the difference is in the learner's mismatch statistics.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from vaco.errors import UserError
from vaco.job import LanguageParts
from vaco_policy.language.model import LanguageModel

from vaco_actor.language.generate import Completion, Hooks, Tokens

_BACKEND = "spec.sampling.backend"


class VllmBackend:
    """Implements `vaco_actor.language.generate.Backend`; see the module for its limits.

    Args:
        parts: of the job.
        model: whose weights are handed over before the next completions, when they have changed.
        seed: of the tokens.
        precision: `learner.precision`, which the engine computes in as well.

    Raises:
        UserError: vLLM is not installed, or the job asks for what is beyond the limits.

    """

    def __init__(
        self,
        parts: LanguageParts,
        model: LanguageModel,
        seed: int,
        precision: Literal["fp32", "bf16"],
    ) -> None:
        policy, sampling, task = parts.policy, parts.sampling, parts.task
        if policy.model is None or policy.lora is not None:
            raise UserError(
                _BACKEND,
                "vllm, with `tiny` or `lora`",
                "Use transformers, or `policy.model` alone.",
            )
        if sampling.weights_change == "inFlight":
            raise UserError(
                "spec.sampling.weightsChange",
                "inFlight, which vllm does not do here",
                "Use betweenGroups, or `backend: transformers`.",
            )
        # Only in our own process can weights be handed over without pickles.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise UserError(
                _BACKEND,
                f"vllm, which is not installed ({error})",
                "Install the `vllm` extra on the actors.",
            ) from error
        self._vllm = vllm
        self._model = model
        self._sampling = sampling
        self._max_tokens = task.max_completion_tokens
        self._stale = True
        self._engine: Any = vllm.LLM(
            model=policy.model,
            revision=policy.revision,
            trust_remote_code=policy.trust_remote_code,
            dtype="bfloat16" if precision == "bf16" else "float32",
            max_model_len=task.max_prompt_tokens + task.max_completion_tokens,
            logprobs_mode="processed_logprobs",
            seed=seed % 2**31,
        )

    def complete(
        self, prompts: Sequence[Tokens], copies: int, hooks: Hooks, *, greedy: bool = False
    ) -> list[list[Completion]]:
        """Return `copies` completions of each prompt; see `Backend`."""
        version = hooks.version()
        if self._stale:
            self._hand_over()
            self._stale = False
        sampling = self._sampling
        parameters = self._vllm.SamplingParams(
            n=copies,
            temperature=0.0 if greedy else sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=0 if greedy else sampling.top_k,
            max_tokens=self._max_tokens,
            stop_token_ids=list(self._model.end_tokens),
            logprobs=0,
        )
        asked = [self._vllm.TokensPrompt(prompt_token_ids=prompt.tolist()) for prompt in prompts]
        answered = self._engine.generate(asked, parameters, use_tqdm=False)
        hooks.stepped()
        return [[_completion(each, version) for each in request.outputs] for request in answered]

    def weights_changed(self) -> None:
        """Have the weights handed over before the next completions."""
        self._stale = True

    def _hand_over(self) -> None:
        weights = self._model.published.state_dict().items()
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._engine.reset_prefix_cache()


def _completion(output: Any, version: int) -> Completion:
    tokens = np.asarray(output.token_ids, np.int32)
    logp = [
        step[token].logprob for step, token in zip(output.logprobs, tokens.tolist(), strict=True)
    ]
    return Completion(
        tokens=tokens,
        logp=np.minimum(np.asarray(logp, np.float32), 0),
        versions=np.full(len(tokens), version, np.int64),
        finished=output.finish_reason == "stop",
    )
