"""The language model that is trained, and how its completions are sampled."""

from typing import Annotated, Literal

from pydantic import Field

from vaco.schema.base import Broken, Cel, Part, Rule

ModuleName = Annotated[str, Field(min_length=1, max_length=256)]


class TinyDecoder(Part):
    """A small decoder with fresh weights and one token per character; nothing is downloaded."""

    layers: int = Field(default=4, ge=1, le=64, description="Transformer blocks.")
    hidden_size: int = Field(default=128, ge=8, le=8192, description="Units between blocks.")
    heads: int = Field(
        default=4, ge=1, le=128, description="Attention heads; they divide `hiddenSize` evenly."
    )

    rules = (
        Rule(
            ("hidden_size", "heads"),
            ("heads",),
            lambda decoder: (
                None
                if decoder.hidden_size % (2 * decoder.heads) == 0
                else Broken(
                    f"{decoder.heads} heads cannot share {decoder.hidden_size} units in even parts",
                    "Make `hiddenSize` a multiple of twice `heads`.",
                )
            ),
            Cel(
                "self.hiddenSize % (2 * self.heads) == 0",
                "{self.heads} heads cannot share {self.hiddenSize} units in even parts. "
                "Make `hiddenSize` a multiple of twice `heads`.",
            ),
        ),
    )


class LoraSpec(Part):
    """Low-rank adapters: the model's own weights stay, and only these are trained and sent."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the adapters.")
    alpha: float = Field(default=32.0, gt=0, le=65536, description="Scale, divided by `rank`.")
    target_modules: list[ModuleName] = Field(
        default=[],
        max_length=64,
        description="Names of the modules that get one; empty: all linear layers but the last.",
    )


class WarmStart(Part):
    """Supervised steps on the training problems' answers, before the first version."""

    steps: int = Field(ge=1, le=10**6, description="Gradient steps.")
    batch_size: int = Field(default=64, ge=1, le=65536, description="Problems per step.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Step size of Adam.")


def _one_model(policy: "LanguageModelPolicy") -> Broken | None:
    if (policy.model is None) == (policy.tiny is None):
        return Broken(
            "there must be one model: `model` names one, `tiny` describes one",
            "Give one of them, and leave out the other.",
        )
    return None


def _a_revision_is_of_a_model(policy: "LanguageModelPolicy") -> Broken | None:
    if policy.revision is None or policy.tiny is None:
        return None
    return Broken(
        f"{policy.revision}, but `tiny` is made on the spot and has no revisions",
        "Leave it out, or give `model` and leave out `tiny`.",
    )


class LanguageModelPolicy(Part):
    """A causal language model of the `transformers` library, without a critic."""

    type: Literal["languageModel"] = Field(default="languageModel", description="Kind of policy.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="Name on the hub (`Qwen/Qwen2.5-0.5B-Instruct`), or path of a directory; its "
        "weights must be safetensors. Null: `tiny`.",
    )
    revision: str | None = Field(
        default=None,
        max_length=256,
        description="Branch, tag or commit of `model`; null: its default branch.",
    )
    tiny: TinyDecoder | None = Field(
        default=None, description="A model made on the spot; null: `model`."
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Whether Python code that comes with `model` may run. It could do anything.",
    )
    attention: Literal["sdpa", "eager"] = Field(
        default="sdpa", description="How `transformers` computes attention."
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Whether the learner computes activations again in the backward pass, for less "
        "memory.",
    )
    lora: LoraSpec | None = Field(
        default=None, description="Train adapters only; null: all weights."
    )
    warm_start: WarmStart | None = Field(
        default=None, description="Supervised steps before the first version; null: none."
    )

    rules = (
        Rule(
            ("model", "tiny"),
            (),
            _one_model,
            Cel(
                "has(self.model) != has(self.tiny)",
                "there must be one model: `model` names one, `tiny` describes one. "
                "Give one of them, and leave out the other.",
            ),
        ),
        Rule(
            ("revision", "tiny"),
            ("revision",),
            _a_revision_is_of_a_model,
            Cel(
                "!has(self.revision) || !has(self.tiny)",
                "{self.revision}, but `tiny` is made on the spot and has no revisions. "
                "Leave it out, or give `model` and leave out `tiny`.",
            ),
        ),
    )


class SamplingSpec(Part):
    """How an actor samples completions: groups of them, each for one prompt."""

    group_size: int = Field(
        default=8,
        ge=2,
        le=1024,
        description="Completions of one prompt, which are compared with each other.",
    )
    prompts: int = Field(
        default=8, ge=1, le=4096, description="Prompts that one actor completes at once."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=10, description="Divisor of the logits; 1: the model's own."
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Sample from the likeliest tokens that have this probability together; 1: all.",
    )
    top_k: int = Field(
        default=0, ge=0, le=10**6, description="Sample from this many likeliest tokens; 0: all."
    )
    backend: Literal["transformers", "vllm"] = Field(
        default="transformers", description="What generates; vllm must be installed, on a GPU."
    )
    weights_change: Literal["betweenGroups", "inFlight"] = Field(
        default="betweenGroups",
        description="When newer weights take over. `betweenGroups`: when the groups at hand are "
        "complete; `inFlight`: between two tokens, so that one completion is the work of several "
        "versions.",
    )
