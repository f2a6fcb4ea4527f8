"""What tests of language models start from: a job, a small decoder, and groups for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from vaco.completions import CompletionGroup
from vaco.identity import FragmentId
from vaco.job import API_VERSION, VACOJob

if TYPE_CHECKING:
    import torch

VOCABULARY = 13


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Computes on one thread: two that wait for each other take ages on busy cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def language_job() -> Callable[..., VACOJob]:
    """Makes a job from the parts of its spec that matter, as a manifest writes them."""

    def make(**spec: Any) -> VACOJob:
        parts: dict[str, Any] = {
            "task": {"type": "languageModel", "maxCompletionTokens": 8, "maxPromptTokens": 8},
            "policy": {
                "type": "languageModel",
                "tiny": {"layers": 2, "hiddenSize": 16, "heads": 2},
            },
            "algorithm": {"name": "vaco-lm", "minibatches": 2, "learningRate": 1e-2},
            "sampling": {"groupSize": 4},
            "stop": {"envSteps": 10_000},
            **spec,
        }
        return VACOJob.model_validate(
            {
                "apiVersion": API_VERSION,
                "kind": "VACOJob",
                "metadata": {"name": "test"},
                "spec": parts,
            }
        )

    return make


@pytest.fixture
def decoder() -> Callable[..., torch.nn.Module]:
    """Makes a small decoder; the same one for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, **config: Any) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sizes = {
                "vocab_size": VOCABULARY,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "initializer_range": 0.5,  # so that the next token is not almost uniform
                "max_position_embeddings": 64,
                **config,
            }
            return LlamaForCausalLM(LlamaConfig(**sizes)).eval()

    return make


@pytest.fixture(scope="session")
def make_groups() -> Callable[..., list[CompletionGroup]]:
    """Makes groups of random completions of random lengths, the longest 8 tokens."""

    def make(
        seed: int = 0, groups: int = 6, size: int = 4, **replaced: Any
    ) -> list[CompletionGroup]:
        rng = np.random.default_rng(seed)
        return [_group(rng, number, size, replaced) for number in range(groups)]

    return make


def _group(
    rng: np.random.Generator, number: int, size: int, replaced: dict[str, Any]
) -> CompletionGroup:
    lengths = rng.integers(1, 9, size).astype(np.int32)
    total = int(lengths.sum())
    parts: dict[str, Any] = {
        "id": FragmentId("job", "actor-0", 1, number + 1),
        "weights_incarnation": 1,
        "problem": number,
        "prompt": rng.integers(0, VOCABULARY, rng.integers(1, 7)).astype(np.int32),
        "tokens": rng.integers(0, VOCABULARY, total).astype(np.int32),
        "lengths": lengths,
        "behaviour_logp": -rng.uniform(0.5, 4.0, total).astype(np.float32),
        "versions": np.zeros(total, np.int64),
        "rewards": rng.integers(0, 2, size).astype(np.float32),
        "finished": np.ones(size, np.bool_),
        "rollout_seconds": 0.1,
    }
    return CompletionGroup(**{**parts, **replaced})
