"""The language model as a policy: network, tokenizer, and what of them is published as weights.

Both come from the `transformers` library, or are made on the spot (`policy.tiny`). Importing it
takes seconds, so that is left to the functions that need it.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from vaco.errors import UserError
from vaco.job import LanguageModelPolicy, LanguageParts, LoraSpec, TinyDecoder

from vaco_policy.language.characters import character_tokenizer
from vaco_policy.language.pretrained import Pretrained, first_line, missing_library
from vaco_policy.seeding import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADAPTER: Final = ".lora_"
_MLP_MULTIPLE: Final = 32


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer.

    Attributes:
        network: of `transformers`; called with token ids it returns logits [B, T, V].
        tokenizer: of `transformers`.
        name: what it is called in errors: the manifest's `policy.model`, or `tiny`.
        vocabulary: V; every token is below it.
        end_tokens: any of these ends a completion, and is its last token. The first is the
            tokenizer's own.
        pad_token: fills batches up. It is masked wherever it stands, so a tokenizer without one
            is no trouble: its end token serves.

    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        end_tokens: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.name = name
        self.vocabulary = int(network.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
        own_end = tokenizer.eos_token_id
        if not isinstance(own_end, int):
            raise UserError(
                "spec.policy.model",
                f"the tokenizer of {name} has no end token, so no completion would ever end",
                "Set `eos_token` in its tokenizer_config.json, or choose another model.",
            )
        if len(tokenizer) > self.vocabulary:
            raise UserError(
                "spec.policy.model",
                f"the tokenizer of {name} has {len(tokenizer)} tokens, and the network "
                f"{self.vocabulary}",
                "Use the tokenizer that the model was trained with.",
            )
        self.end_tokens = (own_end, *(token for token in end_tokens if token != own_end))
        pad = tokenizer.pad_token_id
        self.pad_token = pad if isinstance(pad, int) else own_end
        self._adapters = any(_ADAPTER in key for key, _ in network.named_parameters())
        _publish(network, adapters=self._adapters)

    @property
    def published(self) -> nn.Module:
        """The module whose `state_dict` is the published weights.

        It is the network. Its `state_dict` has every tensor once, though layers may share it, and
        with adapters (`policy.lora`) it has only those.
        """
        return self.network

    def contract(self) -> str:
        """Return what learner and actor must have in common, as JSON."""
        tensors = self.published.state_dict()
        # No dtypes: a learner and an actor may compute in different ones.
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        document = {
            "name": self.name,
            "vocabulary": self.vocabulary,
            "endTokens": list(self.end_tokens),
            "tokenizer": _tokenizer_digest(self.tokenizer),
            "parameters": _digest(shapes),
            "parameterCount": sum(t.numel() for t in tensors.values()),
            "frozen": self._frozen_digest(),
        }
        return json.dumps({"languageModel": document}, sort_keys=True)

    def _frozen_digest(self) -> str | None:
        """Return a digest of what is not published: learner and actors load it by themselves.

        It is of every number, because other weights may differ in a few rows alone. SHA-256 took
        six seconds for a billion of them (2026-11-25, one busy core), once in each process.
        """
        if not self._adapters:
            return None
        digest = hashlib.sha256()
        for name, parameter in self.network.named_parameters():
            if _ADAPTER not in name:
                digest.update(name.encode())
                digest.update(parameter.detach().float().cpu().reshape(-1).numpy().data)
        return digest.hexdigest()


def _publish(network: nn.Module, *, adapters: bool) -> None:
    """Have the `state_dict` of `network` hold what is published, each tensor once."""
    own = {name for name, _ in network.named_parameters()}
    own |= {name for name, _ in network.named_buffers()}

    def drop_others(
        _module: nn.Module, tensors: dict[str, Tensor], prefix: str, _metadata: object
    ) -> None:
        for name in list(tensors):
            inner = name.removeprefix(prefix)
            if inner not in own or (adapters and _ADAPTER not in inner):
                del tensors[name]

    network.register_state_dict_post_hook(drop_others)  # type: ignore[no-untyped-call]


def build(parts: LanguageParts, seed: int, *, pretrained: bool) -> LanguageModel:
    """Build the language model that a job asks for, in float32.

    Args:
        parts: of the job.
        seed: the job's; a tiny decoder and adapters get their weights from it. Learner and actors
            must give the same.
        pretrained: whether the weights of `policy.model` are loaded; without them only its
            architecture is built, for weights that come from elsewhere. What is frozen under
            adapters is loaded in any case.

    Raises:
        UserError: naming the field that is wrong, or what is not installed.

    """
    policy, task = parts.policy, parts.task
    longest = task.max_prompt_tokens + task.max_completion_tokens
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "language model"))
        if policy.tiny is not None:
            model = _tiny(policy, policy.tiny, longest)
        else:
            model = _pretrained(policy, longest, pretrained or policy.lora is not None)
    if policy.gradient_checkpointing:
        _checkpoint_activations(model)
    return model


def _checkpoint_activations(model: LanguageModel) -> None:
    network: Any = model.network
    try:
        # The reentrant kind loses gradients behind inputs that have none, as frozen embeddings do.
        kind = {"use_reentrant": False}
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
    except ValueError as error:
        raise UserError(
            "spec.policy.gradientCheckpointing",
            f"true, but {model.name} cannot: {first_line(str(error))}",
            "Set it to false, and `learner.microBatchTokens` lower if memory is short; or choose "
            "another model.",
        ) from error


def _tiny(policy: LanguageModelPolicy, decoder: TinyDecoder, longest: int) -> LanguageModel:
    tokenizer = character_tokenizer()
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise missing_library("transformers", error) from error
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=decoder.hidden_size,
        intermediate_size=_mlp_size(decoder.hidden_size),
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        max_position_embeddings=longest,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=policy.attention,  # type: ignore[call-arg]
    )
    network: nn.Module = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    return LanguageModel(_with_adapters(network, policy.lora), tokenizer, "tiny")


def _mlp_size(hidden: int) -> int:
    """Return 8/3 of the hidden size, rounded up: a gated layer is then as large as a plain one."""
    return math.ceil(8 * hidden / 3 / _MLP_MULTIPLE) * _MLP_MULTIPLE


def _pretrained(policy: LanguageModelPolicy, longest: int, weights: bool) -> LanguageModel:
    source = Pretrained(policy)
    _check_positions(source.config, source.name, longest)
    tokenizer = source.tokenizer()
    ends = source.end_tokens()
    network = source.network(policy.attention, weights=weights)
    return LanguageModel(_with_adapters(network, policy.lora), tokenizer, source.name, ends)


def _check_positions(config: Any, name: str, longest: int) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and longest > positions:
        raise UserError(
            "spec.task.maxCompletionTokens",
            f"a prompt and a completion may have {longest} tokens together, and {name} is made for "
            f"{positions}",
            "Lower it, or `maxPromptTokens`.",
        )


def _with_adapters(network: nn.Module, lora: LoraSpec | None) -> nn.Module:
    if lora is None:
        return network
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise missing_library("peft", error) from error
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by the rank in any case
        target_modules=list(lora.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that will go away.
            warnings.simplefilter("ignore", FutureWarning)
            adapted: nn.Module = get_peft_model(network, config)
    except ValueError as error:
        raise UserError(
            "spec.policy.lora.targetModules",
            f"{lora.target_modules}: {first_line(str(error))}",
            "Name linear layers of the model, by the last part of their names.",
        ) from error
    return adapted


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merges = backend.to_str() if backend is not None else ""
    parts = {
        "vocabulary": tokenizer.get_vocab(),
        "special": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
        "chat": tokenizer.chat_template,
        "rules": merges,
    }
    return _digest(parts)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
