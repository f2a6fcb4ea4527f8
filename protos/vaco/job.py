"""The VACOJob: one manifest that describes a training run, on one machine and on a cluster.

All programs read the same models: the command line validates with them, the learner and the actors
take their settings from them, the operator generates the custom resource's schema from them. The
parts live in `vaco.schema`, one module per part, and are re-exported here.
"""

from typing import Final, Literal

from pydantic import Field

from vaco.schema.actors import ActorsSpec, AutoscalingSpec, ScaleDownRule, ScaleRule, TargetLag
from vaco.schema.algorithm import (
    AlgorithmBase,
    AlgorithmSpec,
    ImpalaAlgorithm,
    PpoAlgorithm,
    PpoKlAlgorithm,
    SpoAlgorithm,
    VacoAlgorithm,
)
from vaco.schema.base import Part
from vaco.schema.learner import CheckpointSpec, LearnerSpec, RolloutSpec
from vaco.schema.lifecycle import EvaluationSpec, ReturnGoal, StopSpec
from vaco.schema.metadata import Metadata
from vaco.schema.policy import CnnNetwork, Core, MlpNetwork, Network, PolicySpec
from vaco.schema.spec import VACOJobSpec
from vaco.schema.status import (
    AccuracyStatus,
    ActorsStatus,
    Condition,
    ConditionType,
    EvaluationStatus,
    LagStatus,
    LedgerStatus,
    Phase,
    ScalingStatus,
    VACOJobStatus,
)
from vaco.schema.task import GymnasiumTask, TaskSpec, Wrapper

__all__ = [
    "API_VERSION",
    "KIND",
    "AccuracyStatus",
    "ActorsSpec",
    "ActorsStatus",
    "AlgorithmBase",
    "AlgorithmSpec",
    "AutoscalingSpec",
    "CheckpointSpec",
    "CnnNetwork",
    "Condition",
    "ConditionType",
    "Core",
    "EvaluationSpec",
    "EvaluationStatus",
    "GymnasiumTask",
    "ImpalaAlgorithm",
    "LagStatus",
    "LearnerSpec",
    "LedgerStatus",
    "Metadata",
    "MlpNetwork",
    "Network",
    "Phase",
    "PolicySpec",
    "PpoAlgorithm",
    "PpoKlAlgorithm",
    "ReturnGoal",
    "RolloutSpec",
    "ScaleDownRule",
    "ScaleRule",
    "ScalingStatus",
    "SpoAlgorithm",
    "StopSpec",
    "TargetLag",
    "TaskSpec",
    "VACOJob",
    "VACOJobSpec",
    "VACOJobStatus",
    "VacoAlgorithm",
    "Wrapper",
]

API_VERSION: Final = "training.vaco.dev/v1alpha1"
KIND: Final = "VACOJob"


class VACOJob(Part):
    """An elastic training run of one policy on one task."""

    api_version: Literal["training.vaco.dev/v1alpha1"] = Field(
        description="Version of this schema."
    )
    kind: Literal["VACOJob"] = Field(description="Kind of this document.")
    metadata: Metadata = Field(description="Name and identity of the job.")
    spec: VACOJobSpec = Field(description="The job as it is wished for.")
    status: VACOJobStatus | None = Field(
        default=None, description="The job as last observed; never written by hand."
    )
