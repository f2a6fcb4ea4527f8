"""Completions sampled token by token, for many prompts at once, with a cache of keys and values.

Prompts are padded on the left, so that all rows write their next token into the same column.
Each prompt goes through the network once, whatever the number of its completions; after that, one
call of the network makes one token in every row. Rows that have ended are dropped as soon as that
pays.

This loop is our own, over the network of `transformers`. Its `generate` is slower
(`benchmarks/generation.py`), knows no generator of its own, and cannot take newer weights over
between two tokens.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from vaco.job import SamplingSpec
from vaco_policy.language.logps import log_distribution
from vaco_policy.language.model import LanguageModel

_SPARSE: Final = 0.8
"""Rows are dropped when less than this share of them goes on: to drop any copies the cache."""

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Completion:
    """What one row became.

    Attributes:
        tokens: int32 [N], with the end token, if there is one.
        logp: float32 [N], of each token under the distribution it was sampled from; zeros when the
            likeliest were taken.
        versions: int64 [N], of the weights that each token was sampled with.
        finished: False: cut at the budget.

    """

    tokens: Tokens
    logp: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int64]
    finished: bool


@dataclass(frozen=True, slots=True)
class Hooks:
    """What happens around the tokens.

    Attributes:
        version: called before each token; returns the version of the weights that make it, and may
            change them. Keys and values of earlier tokens stay those of the weights that made them.
        stop: when it is set, rows that have not ended are given up.
        stepped: called after each token of all rows.

    """

    version: Callable[[], int]
    stop: threading.Event
    stepped: Callable[[], None]


class Backend(Protocol):
    """What samples completions."""

    def complete(
        self, prompts: Sequence[Tokens], copies: int, hooks: Hooks, *, greedy: bool = False
    ) -> list[list[Completion]]:
        """Return up to `copies` completions of each prompt: those that are complete.

        Args:
            prompts: int32 [P], of any lengths.
            copies: n.
            hooks: what happens around the tokens.
            greedy: take the likeliest token every time.

        """

    def weights_changed(self) -> None:
        """Take note that other weights were written into the model."""


class TransformersBackend:
    """Samples with the network itself.

    Args:
        model: what completes; in evaluation mode from here on.
        sampling: temperature, top-p and top-k.
        max_tokens: budget of one completion.
        seed: of the tokens.

    """

    def __init__(
        self, model: LanguageModel, sampling: SamplingSpec, max_tokens: int, seed: int
    ) -> None:
        self._model = model.eval()
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._device = next(model.parameters()).device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._ends = torch.tensor(model.end_tokens, device=self._device)
        self._accepted = _accepted(model.network)

    @torch.inference_mode()
    def complete(
        self, prompts: Sequence[Tokens], copies: int, hooks: Hooks, *, greedy: bool = False
    ) -> list[list[Completion]]:
        """Return up to `copies` completions of each prompt; see `Backend`."""
        written = _Written(len(prompts) * copies, self._max_tokens, self._device)
        version = hooks.version()
        rows = self._begin(prompts, copies)
        for column in range(self._max_tokens):
            if hooks.stop.is_set():
                break
            if column:
                version = hooks.version()
                self._go_on(rows)
            token_B, logp_B = self._choose(rows.logits_NV, greedy)
            ended_B = torch.isin(token_B, self._ends)
            written.add(column, rows.row_B, token_B, logp_B, ended_B, version)
            hooks.stepped()
            rows.token_B = token_B
            rows.going_B &= ~ended_B
            going = int(rows.going_B.sum())
            if not going:
                break
            if going < _SPARSE * len(rows.going_B):
                rows.drop()
        found = written.completions()
        return [
            [each for each in found[start : start + copies] if each is not None]
            for start in range(0, len(found), copies)
        ]

    def weights_changed(self) -> None:
        """Do nothing: it is the model itself that samples."""

    def _begin(self, prompts: Sequence[Tokens], copies: int) -> _Rows:
        """Read the prompts, each once."""
        longest = max(len(prompt) for prompt in prompts)
        shape = (len(prompts), longest)
        token_BT = torch.full(shape, self._model.pad_token, dtype=torch.long)
        prompt_mask_BT = torch.zeros(shape, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            token_BT[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            prompt_mask_BT[row, longest - len(prompt) :] = 1
        prompt_mask_BT = prompt_mask_BT.to(self._device)
        position_BT = (prompt_mask_BT.cumsum(1) - 1).clamp(min=0)
        output = self._call(
            input_ids=token_BT.to(self._device),
            attention_mask=prompt_mask_BT,
            position_ids=position_BT,
            logits_to_keep=1,
            use_cache=True,
        )
        cache = output.past_key_values
        cache.batch_repeat_interleave(copies)
        mask_BT = prompt_mask_BT.new_ones((len(prompts) * copies, longest + self._max_tokens))
        mask_BT[:, :longest] = prompt_mask_BT.repeat_interleave(copies, 0)
        return _Rows(
            cache=cache,
            row_B=torch.arange(len(mask_BT), device=self._device),
            going_B=torch.ones(len(mask_BT), dtype=torch.bool, device=self._device),
            token_B=torch.zeros(len(mask_BT), dtype=torch.long, device=self._device),
            logits_NV=output.logits[:, -1].repeat_interleave(copies, 0),
            mask_BT=mask_BT,
            position_B=position_BT[:, -1].repeat_interleave(copies),
            length=longest,
        )

    def _go_on(self, rows: _Rows) -> None:
        """Read the last token of every row."""
        rows.length += 1
        rows.position_B = rows.position_B + 1
        output = self._call(
            input_ids=rows.token_B[:, None],
            attention_mask=rows.mask_BT[:, : rows.length],
            position_ids=rows.position_B[:, None],
            past_key_values=rows.cache,
            use_cache=True,
        )
        rows.logits_NV = output.logits[:, -1]

    def _call(self, **inputs: Any) -> Any:
        return self._model.network(**{k: v for k, v in inputs.items() if k in self._accepted})

    def _choose(self, logits_NV: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        if greedy:
            token_B = logits_NV.argmax(1)
            return token_B, torch.zeros(len(token_B), device=self._device)
        logp_NV = log_distribution(logits_NV, self._sampling)
        token_N1 = torch.multinomial(logp_NV.exp(), 1, generator=self._generator)
        return token_N1.squeeze(1), logp_NV.gather(1, token_N1).squeeze(1)


@dataclass(slots=True)
class _Rows:
    """B rows that are still computed, all with T columns so far.

    Attributes:
        cache: of `transformers`: keys and values.
        row_B: which rows they are of those that were begun.
        going_B: whether they have not ended.
        token_B: the last tokens.
        logits_NV: for the next tokens.
        mask_BT: 0 where there is padding; there are more columns than are in use.
        position_B: of the last tokens, without padding.
        length: columns in use.

    """

    cache: Any
    row_B: Tensor
    going_B: Tensor
    token_B: Tensor
    logits_NV: Tensor
    mask_BT: Tensor
    position_B: Tensor
    length: int

    def drop(self) -> None:
        """Drop the rows that have ended."""
        kept = self.going_B.nonzero().squeeze(1)
        self.cache.batch_select_indices(kept)
        self.row_B, self.token_B = self.row_B[kept], self.token_B[kept]
        self.mask_BT, self.position_B = self.mask_BT[kept], self.position_B[kept]
        self.going_B = self.going_B[kept]


class _Written:
    """The tokens of all rows so far."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self._token_BT = torch.zeros((rows, columns), dtype=torch.long, device=device)
        self._logp_BT = torch.zeros((rows, columns), device=device)
        self._length_B = torch.zeros(rows, dtype=torch.long, device=device)
        self._ended_B = torch.zeros(rows, dtype=torch.bool, device=device)
        self._versions: list[int] = []

    def add(
        self,
        column: int,
        row_B: Tensor,
        token_B: Tensor,
        logp_B: Tensor,
        ended_B: Tensor,
        version: int,
    ) -> None:
        """Write a column; what a row that has ended goes on with is left out by its length."""
        self._token_BT[row_B, column] = token_B
        self._logp_BT[row_B, column] = logp_B
        going_B = ~self._ended_B[row_B]
        self._length_B[row_B] += going_B
        self._ended_B[row_B] |= ended_B
        self._versions.append(version)

    def completions(self) -> list[Completion | None]:
        """Return the rows; None: one that neither ended nor reached the budget."""
        tokens = self._token_BT.cpu().numpy().astype(np.int32)
        logp = self._logp_BT.cpu().numpy()
        versions = np.asarray(self._versions, np.int64)
        return [
            Completion(
                tokens[row, :length].copy(),
                logp[row, :length].copy(),
                versions[:length].copy(),
                ended,
            )
            if ended or length == tokens.shape[1]
            else None
            for row, (length, ended) in enumerate(
                zip(self._length_B.tolist(), self._ended_B.tolist(), strict=True)
            )
        ]


def _accepted(network: Any) -> set[str]:
    """Return the names of what the network's own `forward` takes; not all take positions."""
    unwrap = getattr(network, "get_base_model", None)
    return set(inspect.signature((unwrap() if unwrap else network).forward).parameters)
