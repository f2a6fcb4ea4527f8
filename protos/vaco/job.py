"""The VACOJob: one manifest that describes a training run, on one machine and on a cluster.

All programs read the same models: the command line validates with them, the learner and the actors
take their settings from them, the operator generates the custom resource's schema from them. The
parts live in `vaco.schema`, one module per part, and are re-exported here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from vaco.schema import loading
from vaco.schema.actors import ActorsSpec, AutoscalingSpec, ScaleDownRule, ScaleRule, TargetLag
from vaco.schema.algorithm import (
    ActorCriticAlgorithm,
    AlgorithmSpec,
    ImpalaAlgorithm,
    PpoAlgorithm,
    PpoKlAlgorithm,
    SpoAlgorithm,
    VacoAlgorithm,
)
from vaco.schema.base import Part
from vaco.schema.language_algorithm import (
    DppoAlgorithm,
    GrpoAlgorithm,
    LanguageAlgorithm,
    TisAlgorithm,
    VacoLmAlgorithm,
)
from vaco.schema.language_policy import (
    LanguageModelPolicy,
    LoraSpec,
    SamplingSpec,
    TinyDecoder,
    WarmStart,
)
from vaco.schema.language_task import (
    ArithmeticData,
    HubData,
    JsonlData,
    LanguageModelTask,
    MathReward,
    PythonReward,
    RegexReward,
)
from vaco.schema.learner import CheckpointSpec, LearnerSpec, RolloutSpec, StorageSpec
from vaco.schema.lifecycle import EvaluationSpec, ReturnGoal, StopSpec
from vaco.schema.metadata import Metadata
from vaco.schema.optimisation import Optimisation
from vaco.schema.overrides import apply_overrides
from vaco.schema.policy import (
    ActorCriticPolicy,
    CnnNetwork,
    Core,
    MlpNetwork,
    Network,
    PolicySpec,
)
from vaco.schema.problems import FieldError, JobError
from vaco.schema.spec import ControlParts, LanguageParts, VACOJobSpec
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
    "ActorCriticAlgorithm",
    "ActorCriticPolicy",
    "ActorsSpec",
    "ActorsStatus",
    "AlgorithmSpec",
    "ArithmeticData",
    "AutoscalingSpec",
    "CheckpointSpec",
    "CnnNetwork",
    "Condition",
    "ConditionType",
    "ControlParts",
    "Core",
    "DppoAlgorithm",
    "EvaluationSpec",
    "EvaluationStatus",
    "FieldError",
    "GrpoAlgorithm",
    "GymnasiumTask",
    "HubData",
    "ImpalaAlgorithm",
    "JobError",
    "JsonlData",
    "LagStatus",
    "LanguageAlgorithm",
    "LanguageModelPolicy",
    "LanguageModelTask",
    "LanguageParts",
    "LearnerSpec",
    "LedgerStatus",
    "LoraSpec",
    "MathReward",
    "Metadata",
    "MlpNetwork",
    "Network",
    "Optimisation",
    "Phase",
    "PolicySpec",
    "PpoAlgorithm",
    "PpoKlAlgorithm",
    "PythonReward",
    "RegexReward",
    "ReturnGoal",
    "RolloutSpec",
    "SamplingSpec",
    "ScaleDownRule",
    "ScaleRule",
    "ScalingStatus",
    "SpoAlgorithm",
    "StopSpec",
    "StorageSpec",
    "TargetLag",
    "TaskSpec",
    "TinyDecoder",
    "TisAlgorithm",
    "VACOJob",
    "VACOJobSpec",
    "VACOJobStatus",
    "VacoAlgorithm",
    "VacoLmAlgorithm",
    "WarmStart",
    "Wrapper",
    "apply_overrides",
    "dump_job",
    "load_job",
    "parse_job",
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


def load_job(path: Path | str, overrides: Iterable[str] = ()) -> VACOJob:
    """Read a manifest.

    Relative paths of Python files in `spec.task.imports` become absolute, so that the job can be
    written elsewhere.

    Args:
        path: A YAML file with one VACOJob.
        overrides: Assignments such as `algorithm.epochs=2`; see `apply_overrides`.

    Raises:
        UserError: If the file cannot be read or an override is malformed.
        JobError: For all that is wrong with the manifest, at once.

    """
    return loading.load(VACOJob, Path(path), overrides)


def parse_job(document: Mapping[str, Any], source: str = "VACOJob") -> VACOJob:
    """Validate a manifest that is already read.

    Args:
        document: The manifest in plain values, named as in YAML.
        source: Where it comes from, for errors.

    Raises:
        JobError: For all that is wrong with it, at once.

    """
    return loading.parse(VACOJob, document, source)


def dump_job(job: VACOJob) -> str:
    """Write a job as YAML with all its defaults; `load_job` reads the same job from it."""
    return loading.dump(job)
