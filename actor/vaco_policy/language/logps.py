"""Log-probabilities of tokens under the distribution that completions are sampled from.

That distribution is the model's own, bent by temperature, top-k and top-p, in this order. Actors
sample from `log_distribution`, and the learner asks `CompletionScorer` what it thinks of the tokens
that were sampled, so both go through the same lines. All of it is float32, whatever the number
format of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from vaco.job import SamplingSpec

_CHUNK_NUMBERS: Final = 1 << 24
"""Float32 logits that exist at once, 64 MiB of them."""
_PROBE_TOKENS: Final = 2
_PROBE_SCALE: Final = 1e3
"""A cap hardly changes logits as small as those of a new model; enlarged like this, it does."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the distribution says of N given tokens.

    Attributes:
        logp_N: float32, the log-probability of each token.
        entropy_N: float32, of the distribution that each token was one of, in nats; detached. None
            unless it was asked for.
        outside_N: bool, whether top-k or top-p leaves the token out, so that this distribution
            would not sample it; None unless entropies were asked for.

    """

    logp_N: Tensor
    entropy_N: Tensor | None = None
    outside_N: Tensor | None = None


def log_distribution(logits_NV: Tensor, sampling: SamplingSpec) -> Tensor:
    """Return the log-probabilities of all tokens, float32 [N, V]; -inf: it is never sampled.

    Args:
        logits_NV: of the model, floating.
        sampling: `temperature`, `topK` and `topP` are used. Of tokens that are equally likely,
            top-k takes all or none, and top-p those of smaller number.

    """
    tempered_NV = logits_NV.float() / sampling.temperature
    allowed_NV = _allowed(tempered_NV, sampling)
    if allowed_NV is not None:
        tempered_NV = tempered_NV.masked_fill(~allowed_NV, -torch.inf)
    return tempered_NV.log_softmax(dim=-1)


def score(
    logits_NV: Tensor, token_N: Tensor, sampling: SamplingSpec, *, entropy: bool = False
) -> TokenScores:
    """Return the log-probability of one given token for each row of logits.

    The given token counts as one that may be sampled. Whoever sampled it allowed it, and a policy
    that has moved on since, and would no longer, must still tell how likely it finds it.
    """
    tempered_NV = logits_NV.float() / sampling.temperature
    allowed_NV = _allowed(tempered_NV, sampling)
    outside_N = torch.zeros_like(token_N, dtype=torch.bool)
    if allowed_NV is not None:
        outside_N = ~allowed_NV.gather(1, token_N[:, None]).squeeze(1)
        allowed_NV = allowed_NV.scatter(1, token_N[:, None], value=True)
        tempered_NV = tempered_NV.masked_fill(~allowed_NV, -torch.inf)
    total_N = tempered_NV.logsumexp(dim=1)
    logp_N = tempered_NV.gather(1, token_N[:, None]).squeeze(1) - total_N
    if not entropy:
        return TokenScores(logp_N)
    with torch.no_grad():
        entropy_N = torch.special.entr((tempered_NV - total_N[:, None]).exp()).sum(dim=1)
    return TokenScores(logp_N, entropy_N, outside_N)


@torch.no_grad()
def _allowed(tempered_NV: Tensor, sampling: SamplingSpec) -> Tensor | None:
    """Return which tokens may be sampled; None: all."""
    allowed_NV: Tensor | None = None
    if 0 < sampling.top_k < tempered_NV.shape[1]:
        least_N1 = tempered_NV.topk(sampling.top_k, dim=1).values[:, -1:]
        allowed_NV = tempered_NV >= least_N1
        tempered_NV = tempered_NV.masked_fill(~allowed_NV, -torch.inf)
    if sampling.top_p < 1:
        ranked_NV, order_NV = tempered_NV.sort(dim=1, descending=True, stable=True)
        share_NV = ranked_NV.softmax(dim=1)
        # The likeliest token is always in: nothing is likelier than it.
        within_NV = (share_NV.cumsum(dim=1) - share_NV < sampling.top_p) & (share_NV > 0)
        nucleus_NV = torch.zeros_like(within_NV).scatter(1, order_NV, within_NV)
        allowed_NV = nucleus_NV if allowed_NV is None else allowed_NV & nucleus_NV
    return allowed_NV


class CompletionScorer:
    """Scores given tokens with a causal language model of the `transformers` library.

    Logits are only computed where a token is scored, and in float32 for a bounded number of rows at
    a time; with a gradient, the backward pass computes them again instead of keeping them.

    Args:
        model: a causal language model, also with peft's adapters.
        sampling: what bends its distribution.
        chunk_numbers: bound of the float32 logits that exist at once; one row is always computed.

    """

    def __init__(
        self, model: nn.Module, sampling: SamplingSpec, chunk_numbers: int = _CHUNK_NUMBERS
    ) -> None:
        self._model = _without_adapter_shell(model)
        self._sampling = sampling
        self._chunk_numbers = chunk_numbers
        self._head = self._plain_head()

    def __call__(
        self, tokens_BT: Tensor, before_N: Tensor, token_N: Tensor, *, entropy: bool = False
    ) -> TokenScores:
        """Score N tokens.

        Args:
            tokens_BT: int64, prompts with their completions, padded on the right with any token. A
                causal model looks at nothing behind a token, so padding needs no mask there.
            before_N: int64, flat index b*T + t of the position before each scored token.
            token_N: int64, the scored tokens.
            entropy: whether entropies are wanted too, and which tokens are outside.

        """
        if not len(token_N):
            empty_N = torch.zeros(0, device=tokens_BT.device)
            return (
                TokenScores(empty_N, empty_N, empty_N.bool()) if entropy else TokenScores(empty_N)
            )
        if self._head is None:
            whole_BTV = self._model(input_ids=tokens_BT, use_cache=False).logits
            logits_NV = whole_BTV.flatten(0, 1).index_select(0, before_N)
            return score(logits_NV, token_N, self._sampling, entropy=entropy)
        hidden_BTH = _decoder(self._model)(input_ids=tokens_BT, use_cache=False).last_hidden_state
        hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, before_N)
        return self._score_hidden(self._head, hidden_NH, token_N, entropy=entropy)

    def _score_hidden(
        self, head: nn.Module, hidden_NH: Tensor, token_N: Tensor, *, entropy: bool
    ) -> TokenScores:
        def scored(hidden: Tensor, token: Tensor) -> tuple[Tensor, ...]:
            found = score(head(hidden), token, self._sampling, entropy=entropy)
            parts = (found.logp_N, found.entropy_N, found.outside_N)
            return tuple(part for part in parts if part is not None)

        rows = max(1, self._chunk_numbers // _vocabulary(head))
        if rows >= len(token_N):
            return TokenScores(*scored(hidden_NH, token_N))
        pieces = zip(torch.split(hidden_NH, rows), torch.split(token_N, rows), strict=True)
        parts = [
            checkpoint(scored, hidden, token, use_reentrant=False, preserve_rng_state=False)
            for hidden, token in pieces
        ]
        return TokenScores(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @torch.no_grad()
    def _plain_head(self) -> nn.Module | None:
        """Return the last layer, if it alone makes logits of hidden states.

        Some models cap or scale what it makes. Their logits are computed whole, by themselves.
        """
        head = self._model.get_output_embeddings()  # type: ignore[operator]
        device = next(self._model.parameters()).device
        probe_BT = torch.arange(_PROBE_TOKENS, device=device)[None] % _vocabulary(head)
        hidden_BTH = _decoder(self._model)(input_ids=probe_BT, use_cache=False).last_hidden_state
        with head.register_forward_hook(_enlarge):
            own = self._model(input_ids=probe_BT, use_cache=False).logits
            expected = head(hidden_BTH)
        plain: bool = torch.allclose(own, expected, rtol=1e-4, atol=1e-5 * _PROBE_SCALE)
        return head if plain else None


def _without_adapter_shell(model: nn.Module) -> nn.Module:
    """Return the `transformers` model; peft has put its adapters into that model's own layers."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def _enlarge(_head: nn.Module, _inputs: object, logits: Tensor) -> Tensor:
    return logits * _PROBE_SCALE


def _decoder(model: nn.Module) -> Any:
    return model.get_decoder()  # type: ignore[operator]


def _vocabulary(head: Any) -> int:
    return int(head.weight.shape[0])
