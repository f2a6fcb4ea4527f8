"""The trainer as the learner has it: from job to weights, and what it shares with actors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from vaco.completions import CompletionGroup
from vaco.identity import FragmentId
from vaco.job import VACOJob
from vaco_actor.language.generate import Hooks, TransformersBackend
from vaco_learner.assembly import make_trainer
from vaco_learner.language.trainer import LanguageTrainer
from vaco_learner.trainer import Trainer
from vaco_policy.language.model import build
from vaco_policy.language.problems import encode_answer, encode_prompts, load_problems
from vaco_policy.parameters import load_payload, to_payload

MakeJob = Callable[..., VACOJob]
POLICY = {"type": "languageModel", "tiny": {"layers": 2, "hiddenSize": 16, "heads": 2}}
BENT = {"groupSize": 4, "temperature": 0.8, "topP": 0.9, "topK": 40}
# Adapters begin as nothing, and only their second halves have a gradient in the first step.
LORA = {**POLICY, "lora": {"rank": 2}}
LORA_WARNING = "ignore:.is_gradient_checkpointing:FutureWarning"


def nothing() -> None:
    """Nobody counts the steps."""


def trainer_of(job: VACOJob) -> Trainer:
    return make_trainer(job, None, torch.device("cpu"))


def sampled_groups(job: VACOJob, weights: bytes) -> list[CompletionGroup]:
    """Groups as an actor makes them that got its weights from the learner."""
    parts = job.spec.language
    model = build(parts, job.spec.seed, pretrained=False)
    load_payload(model.published, weights)
    problems = encode_prompts(load_problems(parts.task, "train")[:6], parts.task, model)
    backend = TransformersBackend(model, parts.sampling, parts.task.max_completion_tokens, seed=0)
    hooks = Hooks(lambda: 0, threading.Event(), nothing)
    found = backend.complete([each.prompt for each in problems], 4, hooks)
    rewards = np.array([0, 1, 0, 0], np.float32)
    return [
        CompletionGroup(
            id=FragmentId("job", "actor-0", 1, number + 1),
            weights_incarnation=1,
            problem=each.number,
            prompt=each.prompt,
            tokens=np.concatenate([c.tokens for c in completions]),
            lengths=np.array([len(c.tokens) for c in completions], np.int32),
            behaviour_logp=np.concatenate([c.logp for c in completions]),
            versions=np.concatenate([c.versions for c in completions]),
            rewards=rewards,
            finished=np.array([c.finished for c in completions]),
            rollout_seconds=0.1,
        )
        for number, (each, completions) in enumerate(zip(problems, found, strict=True))
    ]


@pytest.mark.filterwarnings(LORA_WARNING)
@pytest.mark.parametrize("policy", [POLICY, LORA], ids=["whole", "adapters"])
def test_actors_and_learner_agree_on_what_was_sampled(
    policy: dict[str, object], language_job: MakeJob
) -> None:
    job = language_job(policy=policy, sampling=BENT, seed=3)
    trainer = trainer_of(job)
    groups = sampled_groups(job, to_payload(trainer.published))
    assert build(job.spec.language, 3, pretrained=False).contract() == trainer.contract
    lags = [np.zeros(group.tokens.size, np.int64) for group in groups]
    stats = trainer.train(groups, nothing, lags)
    assert stats.mismatch_max < 1e-4  # type: ignore[attr-defined]
    assert stats.mismatch_tokens == sum(g.tokens.size for g in groups)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings(LORA_WARNING)
@pytest.mark.parametrize("policy", [POLICY, LORA], ids=["whole", "adapters"])
def test_only_what_is_published_changes(policy: dict[str, object], language_job: MakeJob) -> None:
    job = language_job(policy=policy)
    trainer = trainer_of(job)
    assert isinstance(trainer, LanguageTrainer)
    network = trainer._model.network
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    groups = sampled_groups(job, to_payload(trainer.published))
    trainer.train(groups, nothing, [np.zeros(group.tokens.size, np.int64) for group in groups])
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert changed <= trainer.published.state_dict().keys()


@pytest.mark.filterwarnings(LORA_WARNING)
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["whole", "adapters"])
def test_gradient_checkpointing_computes_layers_again_and_changes_nothing(
    lora: object, language_job: MakeJob, tmp_path: Path
) -> None:
    saved = build(language_job().spec.language, 0, pretrained=True)
    saved.network.save_pretrained(tmp_path)  # type: ignore[operator]
    saved.tokenizer.save_pretrained(tmp_path)
    calls, ends = [], []
    for checkpointing in (False, True):
        policy = {
            "type": "languageModel",
            "model": str(tmp_path),
            "lora": lora,
            "gradientCheckpointing": checkpointing,
        }
        job = language_job(policy=policy)
        trainer = trainer_of(job)
        groups = sampled_groups(job, to_payload(trainer.published))
        calls.append(0)

        def count(*_: object) -> None:
            calls[-1] += 1

        layers_of(trainer)[0].register_forward_pre_hook(count)
        trainer.train(groups, nothing, [np.zeros(group.tokens.size, np.int64) for group in groups])
        ends.append(to_payload(trainer.published))
    plain, checkpointed = calls
    assert 0 < plain < checkpointed
    assert ends[0] == ends[1]


def layers_of(trainer: Trainer) -> torch.nn.ModuleList:
    assert isinstance(trainer, LanguageTrainer)
    network = trainer._model.network
    return next(part for part in network.modules() if isinstance(part, torch.nn.ModuleList))


def test_groups_are_checked_against_the_model(language_job: MakeJob) -> None:
    spec = trainer_of(language_job()).experience
    assert spec.max_samples == 4
    assert spec.vocabulary == 100  # type: ignore[attr-defined]
    assert (spec.max_prompt_tokens, spec.max_completion_tokens) == (8, 8)  # type: ignore[attr-defined]


def test_a_warm_start_teaches_the_answers_and_is_the_seeds(language_job: MakeJob) -> None:
    data = {"type": "arithmetic", "digits": 1, "problems": 50, "heldOut": 10}
    task = {
        "type": "languageModel",
        "maxCompletionTokens": 3,
        "maxPromptTokens": 8,
        "data": data,
    }
    policy = {**POLICY, "warmStart": {"steps": 60, "batchSize": 25, "learningRate": 1e-2}}
    job = language_job(policy=policy, task=task)
    ends = []
    for seed in (0, 0, 1):
        trainer = trainer_of(replace_seed(job, seed))
        before = to_payload(trainer.published)
        trainer.begin(nothing, print)
        ends.append(to_payload(trainer.published))
        assert ends[-1] != before
    assert ends[0] == ends[1] != ends[2]
    model = build(job.spec.language, 0, pretrained=False)
    load_payload(model.published, ends[0])
    problems = encode_prompts(
        load_problems(job.spec.language.task, "train"), job.spec.language.task, model
    )
    backend = TransformersBackend(model, job.spec.language.sampling, 3, seed=0)
    hooks = Hooks(lambda: 0, threading.Event(), nothing)
    found = backend.complete([each.prompt for each in problems], 1, hooks, greedy=True)
    right = [
        completions[0].tokens.tolist() == encode_answer(each.problem, model)
        for each, completions in zip(problems, found, strict=True)
    ]
    assert np.mean(right) > 0.3  # of some 18 different sums


def replace_seed(job: VACOJob, seed: int) -> VACOJob:
    return job.model_copy(update={"spec": job.spec.model_copy(update={"seed": seed})})


def test_without_a_warm_start_nothing_changes_before_the_first_version(
    language_job: MakeJob,
) -> None:
    trainer = trainer_of(language_job())
    before = to_payload(trainer.published)
    trainer.begin(nothing, print)
    assert to_payload(trainer.published) == before


def test_answers_that_are_too_long_are_left_out(
    language_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    """Sums of two digits and more have an end token beside them: three tokens."""
    data = {"type": "arithmetic", "digits": 1, "problems": 80, "heldOut": 10}
    task = {"type": "languageModel", "maxCompletionTokens": 2, "maxPromptTokens": 8, "data": data}
    policy = {**POLICY, "warmStart": {"steps": 1}}
    trainer = trainer_of(language_job(policy=policy, task=task))
    with caplog.at_level("WARNING", "vaco_learner.language.trainer"):
        trainer.begin(nothing, print)
    assert "answers have more than 2 tokens" in caplog.text


def test_a_checkpoint_is_taken_over(language_job: MakeJob) -> None:
    job = language_job()
    first = trainer_of(job)
    groups = sampled_groups(job, to_payload(first.published))
    lags = [np.zeros(group.tokens.size, np.int64) for group in groups]
    first.train(groups, nothing, lags)
    second = trainer_of(job)
    second.load_state(first.state())
    again = [replace(group, rewards=group.rewards[::-1].copy()) for group in groups]
    assert first.train(again, nothing, lags) == second.train(again, nothing, lags)
    assert to_payload(first.published) == to_payload(second.published)
