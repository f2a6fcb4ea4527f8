"""Sampling token by token, against the learner's probabilities and against a loop without cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vaco.job import SamplingSpec, VACOJob
from vaco_actor.language.generate import Completion, Hooks, Tokens, TransformersBackend
from vaco_policy.language.characters import character_tokenizer
from vaco_policy.language.logps import CompletionScorer, log_distribution
from vaco_policy.language.model import LanguageModel, build

MakeJob = Callable[..., VACOJob]
PLAIN, BENT = SamplingSpec(), SamplingSpec(temperature=0.7, top_p=0.9, top_k=5)
PROMPTS: list[Tokens] = [
    np.asarray(prompt, np.int32) for prompt in ([1, 9], [1, 20, 21, 22, 9, 4, 17], [1, 30, 31])
]
BUDGET = 8
OFTEN = tuple(range(2, 100, 6))
"""Ends that are sampled often, so that rows end at different times."""


@pytest.fixture
def model(language_job: MakeJob) -> LanguageModel:
    return sharp(build(language_job().spec.language, 0, pretrained=True))


@pytest.fixture
def learned_positions() -> LanguageModel:
    """GPT-2: a row of numbers for each position. Rotations (Llama) only tell how far it is between
    two tokens, so that padding could shift all of a row unnoticed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = character_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config)
    return sharp(LanguageModel(network, tokenizer, "gpt2"))


def sharp(model: LanguageModel) -> LanguageModel:
    """Make the next token depend on those before it, as with a model that has learned something."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model


def hooks(
    version: Callable[[], int] = lambda: 1,
    stop: threading.Event | None = None,
    stepped: Callable[[], None] = lambda: None,
) -> Hooks:
    return Hooks(version, stop or threading.Event(), stepped)


def complete(
    model: LanguageModel,
    sampling: SamplingSpec = PLAIN,
    copies: int = 8,
    seed: int = 0,
    prompts: Sequence[Tokens] = PROMPTS,
    around: Hooks | None = None,
    greedy: bool = False,
) -> list[list[Completion]]:
    backend = TransformersBackend(model, sampling, BUDGET, seed)
    return backend.complete(prompts, copies, around or hooks(), greedy=greedy)


def learners_logp(
    network: nn.Module, sampling: SamplingSpec, prompt: Tokens, completions: Sequence[Completion]
) -> np.ndarray:
    """All completions at once, padded on the right, by the learner's own kernel."""
    rows = [torch.from_numpy(np.concatenate((prompt, each.tokens))).long() for each in completions]
    tokens_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7)
    before = [
        row * tokens_BT.shape[1] + torch.arange(len(prompt) - 1, len(tokens) - 1)
        for row, tokens in enumerate(rows)
    ]
    sampled = torch.from_numpy(np.concatenate([each.tokens for each in completions])).long()
    with torch.inference_mode():
        scores = CompletionScorer(network, sampling)(tokens_BT, torch.cat(before), sampled)
    return scores.logp_N.numpy()


def every(found: list[list[Completion]]) -> Iterator[tuple[Tokens, list[Completion]]]:
    yield from zip(PROMPTS, found, strict=True)


@pytest.mark.parametrize("sampling", [PLAIN, BENT, SamplingSpec(temperature=2.0, top_p=0.5)])
@pytest.mark.parametrize("kind", ["model", "learned_positions"])
def test_actor_and_learner_agree(
    kind: str, sampling: SamplingSpec, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(kind)
    model.end_tokens = OFTEN
    lengths = set()
    for prompt, completions in every(complete(model, sampling)):
        ours = np.concatenate([each.logp for each in completions])
        theirs = learners_logp(model.network, sampling, prompt, completions)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert ours.min() < -0.1
        lengths |= {len(each.tokens) for each in completions}
    assert len(lengths) > 2


def test_actor_and_learner_agree_with_adapters(language_job: MakeJob) -> None:
    tiny = {"layers": 2, "hiddenSize": 16, "heads": 2}
    policy = {"type": "languageModel", "tiny": tiny, "lora": {"rank": 2}}
    model = sharp(build(language_job(policy=policy).spec.language, 0, pretrained=True))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    for prompt, completions in every(complete(model, BENT)):
        ours = np.concatenate([each.logp for each in completions])
        theirs = learners_logp(model.network, BENT, prompt, completions)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("sampling", [PLAIN, BENT])
def test_tokens_are_as_frequent_as_they_are_likely(
    model: LanguageModel, sampling: SamplingSpec
) -> None:
    copies = 4000
    backend = TransformersBackend(model, sampling, 1, 0)
    (found,) = backend.complete(PROMPTS[1:2], copies, hooks())
    counts = np.bincount([each.tokens[0] for each in found], minlength=model.vocabulary)
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(PROMPTS[1]).long()[None]).logits[:, -1]
    likely = log_distribution(logits, sampling).exp()[0].numpy()
    deviation = np.sqrt(copies * likely * (1 - likely))
    assert (np.abs(counts - copies * likely) <= 4.5 * deviation + 1e-3).all()


def test_the_likeliest_tokens_are_those_of_a_loop_without_cache_or_padding(
    model: LanguageModel,
) -> None:
    model.end_tokens = OFTEN
    found = complete(model, BENT, copies=1, greedy=True)
    for prompt, (completion,) in every(found):
        tokens = prompt.tolist()
        while len(tokens) < len(prompt) + BUDGET:
            with torch.inference_mode():
                tokens.append(int(model.network(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] in OFTEN:
                break
        assert completion.tokens.tolist() == tokens[len(prompt) :]
        assert completion.finished == (tokens[-1] in OFTEN)


def test_a_completion_ends_with_an_end_or_at_the_budget(model: LanguageModel) -> None:
    model.end_tokens = OFTEN
    completions = [each for group in complete(model) for each in group]
    assert len(completions) == 24
    assert {each.finished for each in completions} == {True, False}
    for each in completions:
        assert not set(each.tokens[:-1].tolist()) & set(OFTEN)
        assert each.finished == (int(each.tokens[-1]) in OFTEN)
        assert each.finished or len(each.tokens) == BUDGET
        assert len(each.tokens) == len(each.logp) == len(each.versions)
        assert each.versions.tolist() == [1] * len(each.tokens)


def test_a_completion_can_be_an_end_alone(model: LanguageModel) -> None:
    model.end_tokens = tuple(range(model.vocabulary))
    steps: list[int] = []
    found = complete(model, around=hooks(stepped=lambda: steps.append(1)))
    assert {len(each.tokens) for group in found for each in group} == {1}
    assert all(each.finished for group in found for each in group)
    assert len(steps) == 1


def told(found: list[list[Completion]]) -> list[list[list[int]]]:
    return [[each.tokens.tolist() for each in group] for group in found]


def test_samples_are_their_seeds(model: LanguageModel) -> None:
    torch.manual_seed(1)
    first = told(complete(model, seed=3))
    torch.manual_seed(2)
    assert told(complete(model, seed=3)) == first
    assert told(complete(model, seed=4)) != first
    assert len({tuple(tokens) for tokens in first[0]}) > 1


def test_what_pads_changes_nothing(model: LanguageModel) -> None:
    """A tokenizer without a pad token pads with its end token."""
    padded = told(complete(model, BENT))
    model.pad_token = model.end_tokens[0]
    assert told(complete(model, BENT)) == padded


def test_what_is_complete_is_kept_when_it_has_to_stop(model: LanguageModel) -> None:
    model.end_tokens = OFTEN
    stop, steps = threading.Event(), []

    def stepped() -> None:
        steps.append(1)
        if len(steps) == 3:
            stop.set()

    found = complete(model, around=hooks(stop=stop, stepped=stepped))
    kept = [each for group in found for each in group]
    assert len(found) == len(PROMPTS)
    assert 0 < len(kept) < 24
    assert all(each.finished and len(each.tokens) <= 3 for each in kept)
    assert told(found) == [
        [tokens for tokens in group if len(tokens) <= 3] for group in told(complete(model))
    ]


def test_weights_may_change_between_two_tokens(model: LanguageModel) -> None:
    model.end_tokens = OFTEN
    made: list[int] = []

    def version() -> int:
        if len(made) == 3:
            with torch.no_grad():
                head: Any = model.network.get_output_embeddings()  # type: ignore[operator]
                head.weight.neg_()
        made.append(1)
        return 5 if len(made) <= 3 else 9

    found = complete(model, around=hooks(version=version))
    new = {
        prompt.tobytes(): learners_logp(model.network, PLAIN, prompt, group)
        for prompt, group in every(found)
    }
    with torch.no_grad():
        model.network.get_output_embeddings().weight.neg_()  # type: ignore[operator]
    for prompt, group in every(found):
        versions = np.concatenate([each.versions for each in group])
        ours = np.concatenate([each.logp for each in group])
        assert all(
            each.versions.tolist() == [5, 5, 5, 9, 9, 9, 9, 9][: len(each.tokens)] for each in group
        )
        old = learners_logp(model.network, PLAIN, prompt, group)
        # Only the last layer changed, so what is cached is right for both.
        expected = np.where(versions == 5, old, new[prompt.tobytes()])
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        assert (versions == 9).any()
