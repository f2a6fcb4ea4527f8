"""Log-probabilities of given tokens, against plain ones computed without padding or chunks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vaco.job import SamplingSpec
from vaco_policy.language.logps import CompletionScorer, log_distribution, score

MakeDecoder = Callable[..., nn.Module]
BENT = SamplingSpec(temperature=0.7, top_k=9, top_p=0.8)


def slow_distribution(
    logits: NDArray[np.float64], temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """Probabilities [V], token by token."""
    tempered = logits / temperature
    ranked = sorted(range(len(logits)), key=lambda token: (-tempered[token], token))
    allowed = ranked[:top_k] if top_k else ranked
    mass = sum(math.exp(tempered[token]) for token in allowed)
    nucleus, before = [], 0.0
    for token in allowed:
        if before < top_p:
            nucleus.append(token)
        before += math.exp(tempered[token]) / mass
    shares = np.zeros(len(logits))
    for token in nucleus:
        shares[token] = math.exp(tempered[token])
    return shares / shares.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 4, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_the_distribution_is_that_of_a_slow_sampler(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (20, 11))
    sampling = SamplingSpec(temperature=temperature, top_k=top_k, top_p=top_p)
    found = log_distribution(torch.from_numpy(logits), sampling).exp().numpy()
    for row, own in zip(found, logits, strict=True):
        assert row == pytest.approx(slow_distribution(own, temperature, top_k, top_p), abs=2e-6)


def test_a_score_is_the_distributions_where_the_token_may_be_sampled() -> None:
    logits_NV = torch.randn(50, 13, generator=torch.Generator().manual_seed(1)) * 2
    whole = log_distribution(logits_NV, BENT)
    for row, token in (whole > -torch.inf).nonzero().tolist():
        scores = score(logits_NV[row : row + 1], torch.tensor([token]), BENT, entropy=True)
        assert float(scores.logp_N) == pytest.approx(float(whole[row, token]), abs=1e-6)
        assert scores.entropy_N is not None
        share = whole[row].exp()
        entropy = -(share * share.clamp(min=1e-30).log()).sum()
        assert float(scores.entropy_N) == pytest.approx(float(entropy), abs=1e-5)


def test_tokens_are_outside_where_they_would_not_be_sampled() -> None:
    logits_NV = torch.randn(50, 13, generator=torch.Generator().manual_seed(1)) * 2
    outside_NV = log_distribution(logits_NV, BENT) == -torch.inf
    assert 0 < int(outside_NV.sum()) < outside_NV.numel()
    for token in range(13):
        tokens_N = torch.full((50,), token)
        scores = score(logits_NV, tokens_N, BENT, entropy=True)
        assert scores.outside_N is not None
        assert torch.equal(scores.outside_N, outside_NV[:, token])
        plain = score(logits_NV, tokens_N, SamplingSpec(), entropy=True)
        assert plain.outside_N is not None
        assert not plain.outside_N.any()


def test_a_token_that_would_no_longer_be_sampled_counts_as_one_that_may() -> None:
    logits_NV = torch.tensor([[3.0, 2.0, -1.0, 0.0]]).log_softmax(1).requires_grad_()
    share = logits_NV.detach().exp()[0]
    scores = score(logits_NV, torch.tensor([2]), SamplingSpec(top_k=2))
    assert scores.logp_N.tolist() == pytest.approx([math.log(share[2] / share[:3].sum())])
    scores.logp_N.sum().backward()
    assert logits_NV.grad is not None
    assert bool(logits_NV.grad.isfinite().all())
    assert float(logits_NV.grad[0, 2]) > 0
    assert float(logits_NV.grad[0, 3]) == 0


def laid_out(sequences: list[Tensor], prompt: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad on the right, with a token that could be a real one; score all behind the prompt."""
    tokens = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=7)
    before = [
        torch.arange(prompt - 1, len(sequence) - 1) + row * tokens.shape[1]
        for row, sequence in enumerate(sequences)
    ]
    return tokens, torch.cat(before), torch.cat([sequence[prompt:] for sequence in sequences])


def random_sequences(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 13, (length,), generator=generator) for length in lengths]


def plain_logps(
    model: nn.Module, sequences: list[Tensor], prompt: int, sampling: SamplingSpec
) -> Tensor:
    """Each sequence alone, all logits, log-softmax."""
    found = []
    for sequence in sequences:
        logits = model(input_ids=sequence[None]).logits[0].double() / sampling.temperature
        logps = logits.log_softmax(dim=1)
        found += [logps[t - 1, sequence[t]] for t in range(prompt, len(sequence))]
    return torch.stack(found)


@pytest.mark.parametrize("chunk_numbers", [1 << 24, 40, 1])
def test_scores_are_plain_log_probabilities(decoder: MakeDecoder, chunk_numbers: int) -> None:
    model, sequences = decoder(), random_sequences([9, 4, 12, 5])
    sampling = SamplingSpec(temperature=0.8)
    truth = plain_logps(model, sequences, 3, sampling)
    scorer = CompletionScorer(model, sampling, chunk_numbers)
    scores = scorer(*laid_out(sequences, 3), entropy=True)
    assert torch.allclose(scores.logp_N.double(), truth, atol=1e-5)
    assert scores.logp_N.std() > 0.5  # not almost uniform, which anything would match
    assert scores.entropy_N is not None
    assert scores.entropy_N.shape == truth.shape


@pytest.mark.parametrize("chunk_numbers", [1 << 24, 40])
def test_gradients_are_those_of_plain_log_probabilities(
    decoder: MakeDecoder, chunk_numbers: int
) -> None:
    sequences = random_sequences([9, 4, 12, 5])
    weights = torch.randn(18, generator=torch.Generator().manual_seed(3))
    gradients = []
    for plainly in (True, False):
        model = decoder()
        if plainly:
            logp_N = plain_logps(model, sequences, 3, SamplingSpec()).float()
        else:
            scorer = CompletionScorer(model, SamplingSpec(), chunk_numbers)
            logp_N = scorer(*laid_out(sequences, 3)).logp_N
        torch.dot(weights, logp_N).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-5


def test_nothing_to_score_is_no_trouble(decoder: MakeDecoder) -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    scores = CompletionScorer(decoder(), BENT)(
        torch.ones(1, 3, dtype=torch.int64), nothing, nothing
    )
    assert scores.logp_N.shape == (0,)


def test_they_agree_with_sampling_from_left_padded_prompts_with_a_cache(
    decoder: MakeDecoder,
) -> None:
    """As an actor samples: prompts padded on the left, one token at a time behind a cache."""
    model, prompts = decoder(), random_sequences([2, 6, 4])
    width, generator = 6, torch.Generator().manual_seed(4)
    tokens = torch.stack([torch.cat((torch.full((width - len(p),), 7), p)) for p in prompts])
    mask = torch.stack([(torch.arange(width) >= width - len(p)).long() for p in prompts])
    sampled: list[list[Tensor]] = []
    cache, step = None, tokens
    for _ in range(7):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :]
        with torch.no_grad():
            out = model(
                input_ids=step,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        cache = out.past_key_values
        distribution = log_distribution(out.logits[:, -1], BENT)
        step = torch.multinomial(distribution.exp(), 1, generator=generator)
        sampled.append([step, distribution.gather(1, step)])
        mask = torch.cat((mask, torch.ones_like(step)), dim=1)
    completions = torch.cat([tokens for tokens, _ in sampled], dim=1)
    behaviour = torch.cat([logps for _, logps in sampled], dim=1)
    for row, prompt in enumerate(prompts):
        other = torch.cat((prompt, completions[row]))
        longer = torch.cat((prompt, completions[row], completions[row]))  # pads the other
        tokens_BT, before_N, token_N = laid_out([other, longer], len(prompt))
        scores = CompletionScorer(model, BENT)(tokens_BT, before_N[:7], token_N[:7])
        assert torch.allclose(scores.logp_N, behaviour[row], atol=1e-4)


def capped(cap: float, initializer_range: float) -> nn.Module:
    """Gemma 2, whose logits are cap * tanh(head / cap)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=cap,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=initializer_range,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma2ForCausalLM(config).eval()


def test_a_head_that_caps_its_logits_is_taken_whole() -> None:
    model, sequences = capped(0.5, initializer_range=0.5), random_sequences([9, 4])
    truth = plain_logps(model, sequences, 3, SamplingSpec())
    found = CompletionScorer(model, SamplingSpec(), chunk_numbers=1)(*laid_out(sequences, 3))
    assert torch.allclose(found.logp_N.double(), truth, atol=1e-5)


def test_a_cap_is_noticed_while_logits_are_still_far_below_it() -> None:
    """Nothing is capped in a model that has learned nothing; later there is."""
    model, sequences = capped(30.0, initializer_range=0.02), random_sequences([9, 4])
    scorer = CompletionScorer(model, SamplingSpec())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2000.0)  # type: ignore[operator]
    truth = plain_logps(model, sequences, 3, SamplingSpec())
    assert truth.min() < -20
    found = scorer(*laid_out(sequences, 3))
    assert torch.allclose(found.logp_N.double(), truth, atol=1e-5)


def test_looking_at_the_head_leaves_it_as_it_was(
    decoder: MakeDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens_BT = decoder(), torch.tensor([[1, 5, 9]])
    before = model(input_ids=tokens_BT).logits
    CompletionScorer(model, SamplingSpec())
    assert torch.equal(model(input_ids=tokens_BT).logits, before)

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(model.get_output_embeddings(), "forward", fails)  # type: ignore[operator]
        with pytest.raises(RuntimeError, match="out of memory"):
            CompletionScorer(model, SamplingSpec())
    assert torch.equal(model(input_ids=tokens_BT).logits, before)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # by peft
def test_adapters_take_part(decoder: MakeDecoder) -> None:
    from peft import LoraConfig, get_peft_model

    sequences = random_sequences([9, 4])
    plain = CompletionScorer(decoder(), SamplingSpec())(*laid_out(sequences, 3)).logp_N
    model = get_peft_model(decoder(), LoraConfig(r=2, target_modules="all-linear")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    truth = plain_logps(model, sequences, 3, SamplingSpec())
    found = CompletionScorer(model, SamplingSpec())(*laid_out(sequences, 3)).logp_N
    assert torch.allclose(found.double(), truth, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)
