"""The shape of the policy: network, recurrent core, normalisation."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vaco.schema.base import Broken, Cel, Part, Rule
from vaco.schema.language_policy import LanguageModelPolicy

Activation = Literal["tanh", "relu", "silu", "elu"]
Width = Annotated[int, Field(ge=1, le=4096)]
Channels = Annotated[int, Field(ge=1, le=1024)]


class MlpNetwork(Part):
    """Fully connected layers, for observations that are vectors."""

    type: Literal["mlp"] = Field(default="mlp", description="Kind of network.")
    hidden_sizes: list[Width] = Field(
        default=[64, 64], min_length=1, max_length=8, description="Units of each hidden layer."
    )
    activation: Activation = Field(default="tanh", description="Function after each hidden layer.")


def _nature_is_fixed(network: "CnnNetwork") -> Broken | None:
    if network.architecture == "nature" and network.channels is not None:
        return Broken(
            "the channels of nature are fixed",
            "Leave out `channels`, or choose `architecture: impala`.",
        )
    return None


class CnnNetwork(Part):
    """Convolutions, then one fully connected layer, for observations that are images."""

    type: Literal["cnn"] = Field(default="cnn", description="Kind of network.")
    architecture: Literal["nature", "impala"] = Field(
        default="nature",
        description="`nature`: the three convolutions of the DQN paper; `impala`: the residual "
        "blocks of the IMPALA paper.",
    )
    hidden_size: Width = Field(default=512, description="Units of the fully connected layer.")
    channels: list[Channels] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Channels of each residual block of `impala`; null: [16, 32, 32]. Those of "
        "`nature` are fixed.",
    )
    activation: Activation = Field(default="relu", description="Function after each layer.")

    rules = (
        Rule(
            ("architecture", "channels"),
            ("channels",),
            _nature_is_fixed,
            Cel(
                "has(self.architecture) && self.architecture != 'nature' || !has(self.channels)",
                "the channels of nature are fixed. "
                "Leave out `channels`, or choose `architecture: impala`.",
            ),
        ),
    )


class Core(Part):
    """A recurrent layer between network and heads: the policy's memory."""

    type: Literal["gru", "lstm"] = Field(description="Kind of recurrent cell.")
    hidden_size: Width = Field(default=128, description="Units of the cell.")


def _mlp_unless_said(value: object) -> object:
    return {"type": "mlp", **value} if isinstance(value, dict) else value


Network = Annotated[
    MlpNetwork | CnnNetwork, Field(discriminator="type"), BeforeValidator(_mlp_unless_said)
]


class ActorCriticPolicy(Part):
    """A policy with its critic, for environments."""

    type: Literal["actorCritic"] = Field(default="actorCritic", description="Kind of policy.")
    network: Network = Field(
        default=MlpNetwork(),
        description="What turns an observation into features; `mlp` when `type` is left out.",
    )
    core: Core | None = Field(
        default=None,
        description="Recurrent core, for tasks that need memory; null: none. Its state travels "
        "with each fragment and is reset where an episode starts.",
    )
    shared_trunk: bool = Field(
        default=False,
        description="Whether actor and critic share network and core, and part only at the heads. "
        "With a `core` they always do: an actor carries the whole state, but runs no critic.",
    )
    initial_log_std: float = Field(
        default=0.0,
        ge=-5,
        le=2,
        description="Logarithm of the standard deviation that a Gaussian policy starts with "
        "(continuous actions only).",
    )
    normalise_observations: bool = Field(
        default=False,
        description="Whether observations are shifted and scaled by their running mean and "
        "standard deviation, which are part of the weights.",
    )
    normalise_returns: bool = Field(
        default=False,
        description="Whether rewards are scaled by the running standard deviation of the "
        "discounted return, which is part of the weights.",
    )


def _actor_critic_unless_said(value: object) -> object:
    return {"type": "actorCritic", **value} if isinstance(value, dict) else value


PolicySpec = Annotated[
    ActorCriticPolicy | LanguageModelPolicy,
    Field(discriminator="type"),
    BeforeValidator(_actor_critic_unless_said),
]
