"""vLLM's engine, where it is installed (`make test-vllm`): its probabilities are the learner's.

The engine is a real one. On a machine without a GPU it is vLLM built for CPUs, whose wheels others
than vLLM's own project publish.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from vaco.job import API_VERSION, LanguageParts, SamplingSpec, VACOJob
from vaco_actor.language.generate import Completion, Hooks, Tokens
from vaco_policy.language.logps import CompletionScorer
from vaco_policy.language.model import LanguageModel, build

pytest.importorskip("vllm")
# The engine compiles its model when it starts.
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

PROMPTS: list[Tokens] = [np.asarray(each, np.int32) for each in ([1, 9], [1, 20, 21, 22, 9], [1])]
COPIES = 16
BUDGET = 8
BENT = {"temperature": 0.7, "topP": 0.9, "topK": 5}


def language_parts(model: dict[str, object], sampling: dict[str, object]) -> LanguageParts:
    spec = {
        "task": {"type": "languageModel", "maxPromptTokens": 8, "maxCompletionTokens": BUDGET},
        "policy": {"type": "languageModel", **model},
        "algorithm": {"name": "vaco-lm"},
        "sampling": {"groupSize": COPIES, **sampling},
        "stop": {"envSteps": 100},
    }
    document = {"apiVersion": API_VERSION, "kind": "VACOJob", "metadata": {"name": "test"}}
    return VACOJob.model_validate({**document, "spec": spec}).spec.language


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model, whose next token depends on those before it."""
    tiny = {"tiny": {"layers": 2, "hiddenSize": 128, "heads": 2}}
    model = build(language_parts(tiny, {}), 0, pretrained=True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    path = tmp_path_factory.mktemp("model")
    model.network.save_pretrained(path)  # type: ignore[operator]
    model.tokenizer.save_pretrained(path)
    return path


def learners_logp(
    model: LanguageModel, sampling: SamplingSpec, prompt: Tokens, completion: Completion
) -> np.ndarray:
    tokens_BT = torch.from_numpy(np.concatenate((prompt, completion.tokens))).long()[None]
    before = torch.arange(len(prompt) - 1, tokens_BT.shape[1] - 1)
    sampled = torch.from_numpy(completion.tokens).long()
    with torch.inference_mode():
        return CompletionScorer(model.network, sampling)(tokens_BT, before, sampled).logp_N.numpy()


def disagreement(
    model: LanguageModel, sampling: SamplingSpec, found: list[list[Completion]]
) -> Iterator[float]:
    for prompt, completions in zip(PROMPTS, found, strict=True):
        for each in completions:
            yield float(np.abs(each.logp - learners_logp(model, sampling, prompt, each)).max())


@pytest.mark.parametrize("sampling", [{}, BENT], ids=["plain", "bent"])
def test_probabilities_are_the_learners_also_after_new_weights(
    directory: Path, sampling: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaco_actor.language.vllm_backend import VllmBackend

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, of CPUs only
    parts = language_parts({"model": str(directory)}, {"backend": "vllm", **sampling})
    model = build(parts, 0, pretrained=True)
    backend = VllmBackend(parts, model, seed=0, precision="fp32")
    version = 1
    hooks = Hooks(lambda: version, threading.Event(), lambda: None)

    first = backend.complete(PROMPTS, COPIES, hooks)
    assert [len(each) for each in first] == [COPIES] * len(PROMPTS)
    assert max(disagreement(model, parts.sampling, first)) < 1e-4
    assert min(float(each.logp.min()) for group in first for each in group) < -0.1

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.flip(0))
    version = 2
    backend.weights_changed()
    second = backend.complete(PROMPTS, COPIES, hooks)
    assert max(disagreement(model, parts.sampling, second)) < 1e-4
    assert {int(at) for group in second for each in group for at in each.versions} == {2}
    # The old weights would not have said the same: the hand-over is what makes them agree.
    assert max(disagreement(model, parts.sampling, first)) > 0.1

    for prompt, (likeliest,) in zip(
        PROMPTS, backend.complete(PROMPTS, 1, hooks, greedy=True), strict=True
    ):
        tokens_BT = torch.from_numpy(np.concatenate((prompt, likeliest.tokens))).long()[None]
        with torch.inference_mode():
            wanted = model.network(tokens_BT).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert likeliest.tokens.tolist() == wanted.tolist()
