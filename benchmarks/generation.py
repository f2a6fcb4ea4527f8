"""Tokens per second of an actor's own sampling loop, and of `generate` of transformers.

Both sample the same number of completions of the same prompts with the same tiny decoder, and both
return every token's log-probability. Rounds alternate, and the best of each counts.

    python benchmarks/generation.py [--threads N] [--rounds N]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vaco.job import API_VERSION, LanguageParts, VACOJob
from vaco_actor.language.generate import Hooks, Tokens, TransformersBackend
from vaco_policy.language.model import LanguageModel, build
from vaco_policy.language.problems import encode_prompts, load_problems


@dataclass(frozen=True)
class Case:
    """A size of model and of batch."""

    name: str
    layers: int
    hidden: int
    prompts: int
    group: int
    budget: int


CASES = (
    Case("tiny, 8x8, 16 tokens", 4, 128, 8, 8, 16),
    Case("tiny, 32x8, 5 tokens", 4, 128, 32, 8, 5),
    Case("tiny, 8x8, 128 tokens", 4, 128, 8, 8, 128),
    Case("small, 4x8, 64 tokens", 8, 512, 4, 8, 64),
)


def parts_of(case: Case) -> LanguageParts:
    """Return the parts of a job of that size."""
    tiny = {"layers": case.layers, "hiddenSize": case.hidden, "heads": 4}
    task = {"type": "languageModel", "maxCompletionTokens": case.budget, "maxPromptTokens": 16}
    document = {
        "apiVersion": API_VERSION,
        "kind": "VACOJob",
        "metadata": {"name": "generation"},
        "spec": {
            "task": task,
            "policy": {"type": "languageModel", "tiny": tiny},
            "algorithm": {"name": "vaco-lm"},
            "stop": {"envSteps": 1},
        },
    }
    return VACOJob.model_validate(document).spec.language


def own_loop(
    model: LanguageModel, parts: LanguageParts, prompts: list[Tokens], case: Case
) -> Callable[[], int]:
    """Return what samples once with our loop, and returns how many tokens that made."""
    backend = TransformersBackend(model, parts.sampling, case.budget, 0)
    hooks = Hooks(lambda: 1, threading.Event(), lambda: None)

    def sample() -> int:
        made = backend.complete(prompts, case.group, hooks)
        return sum(len(each.tokens) for group in made for each in group)

    return sample


def library(model: LanguageModel, prompts: list[Tokens], case: Case) -> Callable[[], int]:
    """Return what samples once with `generate`, and returns how many tokens that made."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), longest), model.pad_token)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    network: Any = model.network

    @torch.inference_mode()
    def sample() -> int:
        found = network.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=True,
            num_return_sequences=case.group,
            max_new_tokens=case.budget,
            pad_token_id=model.pad_token,
            eos_token_id=list(model.end_tokens),
            top_k=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        made = found.sequences[:, longest:]
        logp = torch.stack(found.scores, 1).log_softmax(-1).gather(2, made[..., None])
        assert logp.shape[1] == made.shape[1]
        return int((made != model.pad_token).sum())

    return sample


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for case in CASES:
        parts = parts_of(case)
        model = build(parts, 0, pretrained=True)
        problems = encode_prompts(load_problems(parts.task, "train"), parts.task, model)
        prompts = [each.prompt for each in problems[: case.prompts]]
        ways = {"loop": own_loop(model, parts, prompts, case)}
        ways["generate"] = library(model, prompts, case)
        best = dict.fromkeys(ways, 0.0)
        for _ in range(options.rounds + 1):
            for name, sample in ways.items():
                began = time.perf_counter()
                made = sample()
                best[name] = max(best[name], made / (time.perf_counter() - began))
        figures = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in best.items())
        print(f"{case.name}: {figures}")


if __name__ == "__main__":
    main()
