"""A few completions of a batch as text, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from vaco.completions import CompletionGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_PROMPT: Final = 400
"""Characters of a prompt that are shown, and below of a completion: its begin and its end."""
MAX_COMPLETION: Final = 1200
_CUT: Final = " [...] "


def excerpts(
    groups: Sequence[CompletionGroup], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Return the first completion of the first and of the last group, fit for JSON.

    Neither is chosen by what it earned, so many of them together show what the model writes.
    """
    return [_excerpt(group, tokenizer) for group in (*groups[:1], *groups[1:][-1:])]


def _excerpt(group: CompletionGroup, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    length = int(group.lengths[0])
    return {
        "prompt": shortened(_text(tokenizer, group.prompt.tolist()), MAX_PROMPT),
        "completion": shortened(_text(tokenizer, group.tokens[:length].tolist()), MAX_COMPLETION),
        "reward": float(group.rewards[0]),
        "tokens": length,
        "finished": bool(group.finished[0]),
    }


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def shortened(text: str, length: int) -> str:
    """Return at most `length` characters of `text`: a long one loses its middle."""
    if len(text) <= length:
        return text
    kept = length - len(_CUT)
    head = kept * 2 // 3
    return text[:head] + _CUT + text[len(text) - (kept - head) :]
