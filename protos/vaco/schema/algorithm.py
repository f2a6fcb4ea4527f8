"""How the policy is improved: VACO with all its switches, and what it is measured against.

The facts behind the switches are those of "Align and Filter" (arXiv 2603.01365): align the
advantages of stale data once per phase, then filter the samples that would drive the policy further
from the one that acted.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vaco.schema.language_algorithm import (
    DppoAlgorithm,
    GrpoAlgorithm,
    TisAlgorithm,
    VacoLmAlgorithm,
)
from vaco.schema.optimisation import Optimisation


class ActorCriticAlgorithm(Optimisation):
    """What all algorithms for actor-critic policies have in common."""

    gamma: float = Field(
        default=0.99, ge=0, le=1, description="Discount of the reward of one step later."
    )
    lam: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Decay lambda of the advantage estimate: 0 trusts the critic, 1 the rewards.",
    )
    normalise_advantages: bool = Field(
        default=True,
        description="Whether the advantages of each minibatch are shifted and scaled to mean 0 and "
        "standard deviation 1.",
    )
    entropy_coefficient: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the entropy bonus in the loss."
    )
    value_coefficient: float = Field(
        default=0.5, ge=0, le=100, description="Weight of the critic's loss in the loss."
    )


class VacoAlgorithm(ActorCriticAlgorithm):
    """VACO: advantages aligned once per phase, samples filtered by total variation."""

    name: Literal["vaco"] = Field(default="vaco", description="The algorithm.")
    delta: float = Field(
        default=0.2,
        gt=0,
        le=2,
        description="Total variation allowed between the policy and the anchor; `threshold` says "
        "which part of it starts the filter.",
    )
    threshold: Literal["halfDelta", "delta"] = Field(
        default="halfDelta",
        description="Total variation of a minibatch above which samples are filtered: half of "
        "`delta`, or `delta`.",
    )
    tv_anchor: Literal["behaviour", "learnerStart", "gap"] = Field(
        default="behaviour",
        description="What total variation is measured against. `behaviour`: the policy that acted; "
        "`learnerStart`: the learner's policy at the start of the phase; `gap`: the difference of "
        "their ratios to the policy that acted.",
    )
    realign: Literal["once", "perEpoch", "perMinibatch", "never"] = Field(
        default="once",
        description="When advantages are aligned with the learner's policy by V-trace. `once`: "
        "before the first gradient step of a phase; `never`: plain GAE on the data as it came.",
    )
    advantage: Literal["unweighted", "impala"] = Field(
        default="unweighted",
        description="Form of the aligned advantage. `unweighted`: without the sample's own ratio, "
        "which the loss carries; `impala`: r + gamma v' - V, of IMPALA.",
    )
    filter_: bool = Field(
        default=True,
        description="Whether samples are filtered; false leaves the alignment alone to act.",
    )
    normalise_after_filter: bool = Field(
        default=False,
        description="With `normaliseAdvantages` and `filter`: whether the filter goes by the "
        "advantages as they are, and those it keeps are normalised among themselves. False: the "
        "filter goes by the normalised ones.",
    )
    filter_scope: Literal["minibatch", "fragment"] = Field(
        default="minibatch",
        description="What total variation is averaged over when it is compared with the threshold.",
    )
    rho_bar: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Bound of V-trace's ratio at the temporal difference.",
    )
    c_bar: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Bound of V-trace's ratio in the product over later steps.",
    )


class PpoAlgorithm(ActorCriticAlgorithm):
    """PPO with a clipped ratio; plain GAE on the data."""

    name: Literal["ppo"] = Field(default="ppo", description="The algorithm.")
    clip_epsilon: float = Field(
        default=0.2, gt=0, lt=1, description="Ratios gain nothing outside of 1 - this and 1 + this."
    )


class PpoKlAlgorithm(ActorCriticAlgorithm):
    """PPO with an adaptive penalty on the KL divergence; plain GAE on the data."""

    name: Literal["ppo-kl"] = Field(default="ppo-kl", description="The algorithm.")
    target_kl: float = Field(
        default=0.01,
        gt=0,
        le=10,
        description="KL divergence aimed at, in nats: the penalty doubles above 1.5 times this and "
        "halves below two thirds of it.",
    )
    initial_beta: float = Field(
        default=1.0, gt=0, le=1e6, description="Weight of the penalty at the start."
    )


class SpoAlgorithm(ActorCriticAlgorithm):
    """Simple Policy Optimization: a quadratic penalty on the ratio; plain GAE on the data."""

    name: Literal["spo"] = Field(default="spo", description="The algorithm.")
    epsilon: float = Field(
        default=0.2,
        gt=0,
        le=10,
        description="Distance of the ratio from 1 at which the penalty balances.",
    )


class ImpalaAlgorithm(ActorCriticAlgorithm):
    """IMPALA: V-trace policy gradient, computed anew at every gradient step."""

    name: Literal["impala"] = Field(default="impala", description="The algorithm.")
    rho_bar: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Bound of V-trace's ratio at the temporal difference.",
    )
    c_bar: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Bound of V-trace's ratio in the product over later steps.",
    )
    rho_pg_bar: float = Field(
        default=1.0, gt=0, le=1e6, description="Bound of the ratio that weighs the policy gradient."
    )


def _vaco_unless_said(value: object) -> object:
    return {"name": "vaco", **value} if isinstance(value, dict) else value


AlgorithmSpec = Annotated[
    VacoAlgorithm
    | PpoAlgorithm
    | PpoKlAlgorithm
    | SpoAlgorithm
    | ImpalaAlgorithm
    | VacoLmAlgorithm
    | GrpoAlgorithm
    | DppoAlgorithm
    | TisAlgorithm,
    Field(discriminator="name"),
    BeforeValidator(_vaco_unless_said),
]
