"""Completions to read: whose they are, and how much of them is kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from vaco.completions import CompletionGroup
from vaco.identity import FragmentId
from vaco.job import VACOJob
from vaco_learner.language.excerpts import shortened
from vaco_learner.language.trainer import LanguageTrainer


def a_group(trainer: LanguageTrainer, number: int, prompt: str, *texts: str) -> CompletionGroup:
    tokenizer = trainer._model.tokenizer
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    tokens = [[*each, tokenizer.eos_token_id] for each in tokens]
    total = sum(len(each) for each in tokens)
    return CompletionGroup(
        id=FragmentId("job", "actor-0", 1, number + 1),
        weights_incarnation=1,
        problem=number,
        prompt=np.asarray(tokenizer.encode(prompt), np.int32),
        tokens=np.concatenate(tokens).astype(np.int32),
        lengths=np.asarray([len(each) for each in tokens], np.int32),
        behaviour_logp=-np.ones(total, np.float32),
        versions=np.zeros(total, np.int64),
        rewards=np.arange(len(tokens), dtype=np.float32) + number,
        finished=np.ones(len(tokens), np.bool_),
        rollout_seconds=0.1,
    )


def test_the_first_and_the_last_prompt_of_a_batch_are_told(
    language_job: Callable[..., VACOJob],
) -> None:
    trainer = LanguageTrainer(language_job(), torch.device("cpu"))
    batch = [a_group(trainer, n, f"{n}+1=", f"{n + 1}", "no") for n in range(3)]
    first, last = trainer.excerpts(batch)
    assert first == {
        "prompt": "0+1=",
        "completion": "1",
        "reward": 0.0,
        "tokens": 2,
        "finished": True,
    }
    assert (last["prompt"], last["completion"], last["reward"]) == ("2+1=", "3", 2.0)
    assert trainer.excerpts(batch[:1]) == [first]


def test_an_empty_completion_can_be_told(language_job: Callable[..., VACOJob]) -> None:
    trainer = LanguageTrainer(language_job(), torch.device("cpu"))
    (told,) = trainer.excerpts([a_group(trainer, 0, "<script>", "")])
    assert (told["prompt"], told["completion"], told["tokens"]) == ("<script>", "", 1)


def test_a_long_text_loses_its_middle() -> None:
    text = "begin" + 1000 * "x" + "end"
    cut = shortened(text, 100)
    assert len(cut) == 100
    assert cut.startswith("beginx")
    assert cut.endswith("xend")
    assert shortened(text, len(text)) == text
