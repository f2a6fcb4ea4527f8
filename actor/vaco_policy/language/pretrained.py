"""A model of the `transformers` library by its name or path, and what can be wrong with one.

Weights are safetensors or nothing: pickles can execute anything, and are not even opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import nn
from vaco.errors import UserError
from vaco.job import LanguageModelPolicy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MODEL: Final = "spec.policy.model"
_SETTINGS: Final = "generation_config.json"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DROPOUT: Final = ("dropout", "drop_rate", "pdrop", "dropout_prob", "dropout_rate")

T = TypeVar("T")


def missing_library(name: str, error: ImportError) -> UserError:
    """Return the error of a library that language models need and that is not installed."""
    return UserError(
        "spec.policy.type", f"languageModel, but {name} ({error})", "Install `vaco[llm]`."
    )


class Pretrained:
    """The parts of `policy.model`; reading its configuration is all that happens at first.

    Attributes:
        name: as the manifest has it.
        config: of `transformers`; without dropout, which would make the learner's probabilities
            others than the actors'.

    Raises:
        UserError: it is not there, or has no safetensors.

    """

    def __init__(self, policy: LanguageModelPolicy) -> None:
        if policy.model is None:
            raise UserError(_MODEL, "not given", "Give it, or `tiny`.")
        try:
            import transformers
        except ImportError as error:
            raise missing_library("transformers", error) from error
        # Otherwise a hub's robot is asked to convert pickles.
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.name = policy.model
        self._directory = _directory(policy.model)
        self._revision = policy.revision
        self._trusted = policy.trust_remote_code
        self.config: Any = self._load("configuration", transformers.AutoConfig.from_pretrained)
        for key, value in vars(self.config).items():
            if key.endswith(_DROPOUT) and isinstance(value, float):
                setattr(self.config, key, 0.0)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return its tokenizer.

        Raises:
            UserError: there is none that can be loaded.

        """
        import transformers

        found: PreTrainedTokenizerBase = self._load(
            "tokenizer", transformers.AutoTokenizer.from_pretrained
        )
        return found

    def network(self, attention: str, *, weights: bool) -> nn.Module:
        """Return its network in float32, with its weights or with random ones.

        Raises:
            UserError: it is of a kind that is not known, or its weights cannot be loaded.

        """
        from transformers import AutoModelForCausalLM

        models: Any = AutoModelForCausalLM
        options = {"dtype": torch.float32, "attn_implementation": attention}
        network: nn.Module
        if not weights:
            network = self._checked(
                "network",
                lambda: models.from_config(self.config, trust_remote_code=self._trusted, **options),
            )
        else:
            if self._directory is not None:
                _check_weights(self._directory)
            network = self._load(
                "weights",
                models.from_pretrained,
                config=self.config,
                use_safetensors=True,
                **options,
            )
        self._check_cache(network)
        return network

    def _check_cache(self, network: nn.Module) -> None:
        """Refuse a network that keeps more of a text than keys and values of each token."""
        from transformers import DynamicCache

        layers = DynamicCache(config=self.config.get_text_config(decoder=True)).layers
        if getattr(network, "_is_stateful", False) or not all(
            hasattr(layer, "batch_repeat_interleave") for layer in layers
        ):
            raise UserError(
                _MODEL,
                f"{self.name}, which has recurrent or linear-attention layers",
                "Use a model whose layers all attend to keys and values.",
            )

    def end_tokens(self) -> tuple[int, ...]:
        """Return what ends a text by the model's own generation settings, if it has such.

        Raises:
            UserError: it has such and they cannot be read, or whether it has any cannot be told.

        """
        ends = self._checked("generation settings", self._own_ends)
        if all(type(end) is int for end in ends):
            return tuple(ends)
        problem = f"eos_token_id of the generation settings of {self.name} is {ends}"
        raise UserError(_MODEL, problem, "Make it a token's number, or a list of such.")

    def _own_ends(self) -> list[Any]:
        from transformers import GenerationConfig

        if not self._has_settings():
            return []
        settings = GenerationConfig.from_pretrained(self._source, revision=self._revision or "main")
        ends: Any = settings.eos_token_id
        if ends is None:
            return []
        return ends if isinstance(ends, list) else [ends]

    def _has_settings(self) -> bool:
        """Return whether there are generation settings; a model need not have any."""
        if self._directory is not None:
            return (self._directory / _SETTINGS).exists()
        import huggingface_hub as hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            hub.hf_hub_download(self.name, _SETTINGS, revision=self._revision)
        except LocalEntryNotFoundError:
            # The hub was not reached. Unless it shall not be, or told before that there are none,
            # there may be some.
            cached = hub.try_to_load_from_cache(self.name, _SETTINGS, revision=self._revision)
            if hub.constants.HF_HUB_OFFLINE or cached is hub._CACHED_NO_EXIST:
                return False
            raise
        except EntryNotFoundError:
            return False
        return True

    @property
    def _source(self) -> str:
        return str(self._directory or self.name)

    def _load(self, what: str, load: Callable[..., T], **options: Any) -> T:
        revision = {"revision": self._revision} if self._revision else {}
        return self._checked(
            what,
            lambda: load(self._source, trust_remote_code=self._trusted, **revision, **options),
        )

    def _checked(self, what: str, load: Callable[[], T]) -> T:
        """Call `load`; whatever it raises is about the manifest, or about what is installed."""
        try:
            return load()
        except Exception as error:
            raise self._refused(what, error) from error

    def _refused(self, what: str, error: Exception) -> UserError:
        told = str(error)
        if "trust_remote_code" in told:
            return UserError(
                "spec.policy.trustRemoteCode",
                f"false, and {self.name} comes with Python code of its own",
                "Read that code; set this to true if you trust it. It could do anything.",
            )
        if "safetensors" in told and "does not appear to have" in told:
            return UserError(_MODEL, f"{self.name} has no weights in safetensors", _CONVERT)
        kind = type(error).__name__
        problem = f"the {what} of {self.name} cannot be loaded: {kind}: {first_line(told)}"
        if self._directory is not None:
            return UserError(_MODEL, problem, "Mend that directory, or name another.")
        return UserError(
            _MODEL,
            problem,
            "Check the name, its `revision` and the network; or download it beforehand and give "
            "the path of its directory. Gated models need HF_TOKEN.",
        )


_CONVERT: Final = (
    "Load it where you trust it and save it with `save_pretrained(..., safe_serialization=True)`, "
    "or choose a revision that has safetensors."
)


def _directory(name: str) -> Path | None:
    """Return the directory that is meant; None: a name on the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(_MODEL, f"there is no config.json in {path}", "Name a model's own.")
        return path
    if path.exists():
        raise UserError(_MODEL, f"{path} is a file", "Name the directory that it is in.")
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(
            _MODEL, f"there is no directory {path}", "Mend the path, or give a name on the hub."
        )
    return None


def _check_weights(directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if pickles:
        problem = f"the weights in {directory} are pickles ({pickles[0]}), which could run any code"
        raise UserError(_MODEL, problem, _CONVERT)
    raise UserError(_MODEL, f"there are no weights in {directory}", "It needs *.safetensors.")


def first_line(text: str) -> str:
    """Return the first line of an error's message, without the full stop at its end."""
    return text.strip().split("\n", 1)[0].rstrip(".")[:500]
