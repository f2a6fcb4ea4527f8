"""How a language model is improved: group-relative advantages, without a critic."""

from typing import Literal

from pydantic import Field

from vaco.schema.optimisation import Optimisation


class LanguageAlgorithm(Optimisation):
    """What all algorithms for language models have in common.

    The advantage of a completion is its reward minus the mean of its group; all its tokens share
    it. A completion's loss is the sum over its tokens, divided by a constant, so that a long one
    counts for each of its tokens.
    """

    learning_rate: float = Field(
        default=1e-6,
        gt=0,
        le=1,
        description="Step size of Adam. A model that was made on the spot takes a hundred times "
        "as much.",
    )
    adam_epsilon: float = Field(
        default=1e-8, gt=0, le=1, description="Epsilon in Adam's denominator."
    )
    scale_advantages: bool = Field(
        default=False,
        description="Whether advantages are also divided by the standard deviation of their group.",
    )
    loss_normaliser: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="What the sum of a completion's token losses is divided by; null: "
        "`task.maxCompletionTokens`.",
    )


class VacoLmAlgorithm(LanguageAlgorithm):
    """VACO for language models: tokens filtered by total variation, per prompt or per batch."""

    name: Literal["vaco-lm"] = Field(default="vaco-lm", description="The algorithm.")
    delta: float = Field(
        default=0.01,
        gt=0,
        le=2,
        description="Total variation allowed between the model and the anchor; `threshold` says "
        "which part of it starts the filter.",
    )
    threshold: Literal["halfDelta", "delta"] = Field(
        default="halfDelta",
        description="Total variation above which tokens are filtered: half of `delta`, or `delta`.",
    )
    tv_anchor: Literal["behaviour", "learnerStart", "gap"] = Field(
        default="behaviour",
        description="What total variation is measured against. `behaviour`: the distribution that "
        "was sampled from; `learnerStart`: the learner's model at the start of the phase; `gap`: "
        "the difference of their ratios to the distribution that was sampled from.",
    )
    scope: Literal["prompt", "batch"] = Field(
        default="prompt",
        description="How total variation is averaged. `prompt`: over the tokens of a completion, "
        "then over the completions of a prompt, then over prompts; `batch`: over all tokens alike.",
    )
    filter_: bool = Field(
        default=True, description="Whether tokens are filtered; false: total variation is measured."
    )
    ratio_bound: float = Field(
        default=1e4, gt=0, le=1e9, description="Bound of a token's ratio in the loss."
    )


class GrpoAlgorithm(LanguageAlgorithm):
    """GRPO: PPO's clipped ratio, token by token."""

    name: Literal["grpo"] = Field(default="grpo", description="The algorithm.")
    clip_epsilon: float = Field(
        default=0.2, gt=0, lt=1, description="Ratios gain nothing outside of 1 - this and 1 + this."
    )


class DppoAlgorithm(LanguageAlgorithm):
    """DPPO: tokens are masked whose probability moved too far in the advantage's direction."""

    name: Literal["dppo"] = Field(default="dppo", description="The algorithm.")
    divergence: float = Field(
        default=0.15,
        gt=0,
        le=1,
        description="How far a token's probability may move from the one it was sampled with.",
    )


class TisAlgorithm(LanguageAlgorithm):
    """Truncated importance sampling: GRPO from the phase's start, weighted for what came before."""

    name: Literal["tis"] = Field(default="tis", description="The algorithm.")
    clip_epsilon: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Ratios to the model at the start of the phase gain nothing outside of 1 - "
        "this and 1 + this.",
    )
    weight_bound: float = Field(
        default=2.0,
        gt=0,
        le=1e6,
        description="Bound of the weight, which is the ratio of the model at the start of the "
        "phase to the distribution that was sampled from.",
    )


LANGUAGE_ALGORITHMS = (VacoLmAlgorithm, GrpoAlgorithm, DppoAlgorithm, TisAlgorithm)
