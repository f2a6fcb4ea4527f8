"""What a phase on completions costs: by how it is cut into micro-batches, and by how rewards fall.

A minibatch that does not go through the model at once is looked at without gradient before its
gradient is summed up, because total variation decides about all of its tokens. That is one forward
pass more, except in the first step of a phase. Completions of groups that earned the same have no
gradient, and are left out of the passes with one. Rounds alternate, and the best of each counts.

    python benchmarks/language_learner.py [--threads N] [--rounds N]

The last figures are the peak memory of scoring with a vocabulary of 150,000 tokens, with the logits
made in chunks and whole, each in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from vaco.completions import CompletionGroup
from vaco.identity import FragmentId
from vaco.job import API_VERSION, SamplingSpec, VACOJob
from vaco_learner.language.trainer import LanguageTrainer
from vaco_policy.language.logps import CompletionScorer

GROUPS, SIZE, PROMPT, LONGEST = 32, 8, 16, 64
AT_ONCE, IN_PIECES = 1 << 20, 4096
VOCABULARY, SCORED = 150_000, 2048


def trainer(budget: int) -> LanguageTrainer:
    """Return the trainer of a small decoder that takes four gradient steps a phase."""
    task = {"type": "languageModel", "maxCompletionTokens": LONGEST, "maxPromptTokens": PROMPT}
    document = {
        "apiVersion": API_VERSION,
        "kind": "VACOJob",
        "metadata": {"name": "language-learner"},
        "spec": {
            "task": task,
            "policy": {
                "type": "languageModel",
                "tiny": {"layers": 4, "hiddenSize": 128, "heads": 4},
            },
            "algorithm": {"name": "vaco-lm", "learningRate": 1e-6, "filter": False},
            "learner": {"microBatchTokens": budget},
            "stop": {"envSteps": 1},
        },
    }
    return LanguageTrainer(VACOJob.model_validate(document), torch.device("cpu"))


def groups(level: float) -> list[CompletionGroup]:
    """Return groups of random completions, a share of them with equal rewards."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(GROUPS):
        lengths = rng.integers(LONGEST // 8, LONGEST + 1, SIZE).astype(np.int32)
        total = int(lengths.sum())
        equal = number < level * GROUPS
        found.append(
            CompletionGroup(
                id=FragmentId("job", "actor-0", 1, number + 1),
                weights_incarnation=1,
                problem=number,
                prompt=rng.integers(4, 90, PROMPT).astype(np.int32),
                tokens=rng.integers(4, 90, total).astype(np.int32),
                lengths=lengths,
                behaviour_logp=np.full(total, -4.6, np.float32),
                versions=np.zeros(total, np.int64),
                rewards=np.where(equal, 1.0, np.arange(SIZE) % 2).astype(np.float32),
                finished=np.ones(SIZE, np.bool_),
                rollout_seconds=0.1,
            )
        )
    order = rng.permutation(GROUPS)
    return [replace(found[each]) for each in order]


def best_seconds(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Run the cases in turns, once without counting; return the shortest time of each."""
    best = dict.fromkeys(cases, float("inf"))
    for turn in range(rounds + 1):
        for name, run in cases.items():
            began = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def phases(rounds: int) -> dict[str, float]:
    """Return seconds per phase."""
    trainers = {"at once": trainer(AT_ONCE), "in pieces": trainer(IN_PIECES)}
    data = {"no group level": groups(0.0), "half the groups level": groups(0.5)}
    cases: dict[str, Callable[[], Any]] = {}
    for cut, own in trainers.items():
        for level, batch in data.items():
            lags = [np.zeros(group.tokens.size, np.int64) for group in batch]
            cases[f"{cut}, {level}"] = lambda own=own, batch=batch, lags=lags: own.train(
                batch, lambda: None, lags
            )
    return best_seconds(cases, rounds)


def _scoring(pipe: Connection, chunk_numbers: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    network = LlamaForCausalLM(config).eval()
    scorer = CompletionScorer(network, SamplingSpec(), chunk_numbers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens_BT = torch.ones(16, SCORED // 16 + 1, dtype=torch.int64)
    before_N = (
        torch.arange(16)[:, None] * tokens_BT.shape[1] + torch.arange(SCORED // 16)
    ).flatten()
    scores = scorer(tokens_BT, before_N, torch.ones(SCORED, dtype=torch.int64))
    scores.logp_N.sum().backward()  # type: ignore[no-untyped-call]
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def scoring_mib(chunk_numbers: int) -> float:
    """Return by how many MiB scoring and its backward pass raise the peak of memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_scoring, args=(theirs, chunk_numbers))
    process.start()
    theirs.close()
    found: float = ours.recv()
    process.join()
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds = phases(arguments.rounds)
    first = seconds["at once, no group level"]
    for name, value in seconds.items():
        print(f"{name:40} {value:.3f} s  {value / first:.2f}")
    for name, chunk in (("in chunks of 64 MiB", 1 << 24), ("whole", 1 << 40)):
        print(f"scoring {SCORED} tokens of {VOCABULARY}, {name:20} {scoring_mib(chunk):.0f} MiB")


if __name__ == "__main__":
    main()
