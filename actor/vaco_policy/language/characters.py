"""The tokenizer of a tiny decoder: one token per character, made on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaco_policy.language.pretrained import missing_library

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BEGIN, END, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
CHARACTERS: Final = "\n" + "".join(chr(code) for code in range(ord(" "), 0x7F))
"""What it knows: line feeds, and the printable characters of ASCII."""


def character_tokenizer() -> PreTrainedTokenizerBase:
    """Return the tokenizer; it puts its begin token before every text.

    Raises:
        UserError: `tokenizers` or `transformers` is not installed.

    """
    try:
        from tokenizers import Tokenizer
        from tokenizers.decoders import Fuse
        from tokenizers.models import BPE
        from tokenizers.processors import TemplateProcessing
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise missing_library("transformers", error) from error
    vocabulary = {
        token: number for number, token in enumerate((PAD, BEGIN, END, UNKNOWN, *CHARACTERS))
    }
    # Byte pairs without a single merge: characters.
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = Fuse()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
