"""Supervised steps before the first version."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn
from vaco.errors import UserError
from vaco.job import WarmStart
from vaco_learner.language import warm_start as module
from vaco_learner.language.warm_start import Example, warm_start

MakeDecoder = Callable[..., nn.Module]
END = 12
EXAMPLES = [Example([a, b], [(a + b) % 10, END]) for a in range(10) for b in range(10)]


def nothing() -> None:
    """Nobody counts the steps."""


def trained(
    network: nn.Module, steps: int, *, seed: int = 0, budget: int = 16384, rate: float = 1e-2
) -> float:
    spec = WarmStart(steps=steps, batch_size=50, learning_rate=rate)
    return warm_start(
        network, EXAMPLES, spec, seed=seed, bf16=False, budget=budget, stepped=nothing, tell=print
    )


def test_the_network_learns_the_answers(decoder: MakeDecoder) -> None:
    network = decoder()
    assert trained(network, 1) > 2
    assert trained(network, 250) < 0.1
    with torch.no_grad():
        logits = network(
            input_ids=torch.tensor([[*e.prompt, e.answer[0]] for e in EXAMPLES])
        ).logits
    right = logits[:, 1].argmax(1) == torch.tensor([e.answer[0] for e in EXAMPLES])
    assert float(right.float().mean()) > 0.8
    assert float((logits[:, 2].argmax(1) == END).float().mean()) > 0.9


def test_a_seed_decides_everything_and_a_budget_nothing(decoder: MakeDecoder) -> None:
    ends = {}
    for name, seed, budget in (("a", 0, 16384), ("b", 0, 16384), ("c", 1, 16384), ("d", 0, 9)):
        network = decoder()
        trained(network, 3, seed=seed, budget=budget)
        ends[name] = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert torch.equal(ends["a"], ends["b"])
    assert not torch.allclose(ends["a"], ends["c"], atol=1e-4)
    # Adam turns rounding noise in tiny gradients into steps of almost the learning rate.
    assert float((ends["a"] - ends["d"]).norm() / ends["a"].norm()) < 1e-2


def test_a_step_is_on_the_mean_over_tokens(decoder: MakeDecoder) -> None:
    network = decoder()
    with torch.no_grad():
        sequences = torch.tensor([[*e.prompt, *e.answer] for e in EXAMPLES])
        logps = network(input_ids=sequences).logits.log_softmax(2)[:, 1:3]
        truth = -logps.gather(2, sequences[:, 2:, None]).mean()
    spec = WarmStart(steps=1, batch_size=100)
    found = warm_start(
        network, EXAMPLES, spec, seed=0, bf16=False, budget=9, stepped=nothing, tell=print
    )
    assert found == pytest.approx(float(truth), rel=1e-5)


def test_progress_is_logged_and_told(
    decoder: MakeDecoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REPORT_SECONDS", 0.0)
    told: list[str] = []
    with caplog.at_level(logging.INFO, module.__name__):
        warm_start(
            decoder(),
            EXAMPLES,
            WarmStart(steps=3),
            seed=0,
            bf16=False,
            budget=9,
            stepped=nothing,
            tell=told.append,
        )
    expected = [f"warm start: step {step} of 3" for step in (1, 2, 3)]
    assert [each.split(",")[0] for each in told] == expected
    assert [r.getMessage().split(",")[0] for r in caplog.records] == expected


def test_divergence_names_the_step_size(decoder: MakeDecoder) -> None:
    network = decoder()
    with torch.no_grad():
        network.get_input_embeddings().weight[3] = torch.inf  # type: ignore[operator]
    with pytest.raises(UserError, match=r"spec\.policy\.warmStart\.learningRate"):
        trained(network, 1)


def test_there_must_be_examples(decoder: MakeDecoder) -> None:
    with pytest.raises(UserError, match=r"spec\.policy\.warmStart"):
        warm_start(
            decoder(),
            [],
            WarmStart(steps=1),
            seed=0,
            bf16=False,
            budget=9,
            stepped=nothing,
            tell=print,
        )
