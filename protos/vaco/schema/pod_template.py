"""What a manifest may add to the pods that the operator makes.

A template is checked where the manifest is read, with the path of what is wrong, instead of by a
pod that never starts. It is then merged as it was written: no default is filled in, because what a
template does not say is the operator's to say.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, JsonValue
from pydantic_core import CoreSchema

from vaco.schema.base import Part
from vaco.schema.container import Container, OpenPart, ShortName, Text
from vaco.schema.metadata import ObjectName

AS_WRITTEN: Final = "x-as-written"
"""Marks a field in the JSON schema below which defaults are not filled in."""

LabelValue = Annotated[
    str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
]


class Volume(OpenPart):
    """A volume of the pod."""

    name: ShortName = Field(description="Name, to which the containers' mounts refer.")


class Toleration(OpenPart):
    """A taint of a node that the pod puts up with."""

    key: Text = Field(default="", description="Key of the taint; empty: any.")
    operator: Text = Field(
        default="Equal", description="How `value` is compared; `Exists`: it does not matter."
    )
    value: Text = Field(default="", description="Value of the taint.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="", description="Effect of the taint; empty: any."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=-(2**63),
        le=2**63 - 1,
        description="Seconds that the pod stays after a `NoExecute` taint has come; null: for "
        "ever.",
    )


class SecretName(OpenPart):
    """A Secret, by its name."""

    name: ObjectName = Field(description="Name of the Secret.")


class PodSpec(OpenPart):
    """What the pod is made of, and where it runs."""

    containers: list[Container] = Field(
        default=[], max_length=32, description="Containers; merged by `name`."
    )
    init_containers: list[Container] = Field(
        default=[], max_length=32, description="Containers that end before the program starts."
    )
    volumes: list[Volume] = Field(
        default=[], max_length=64, description="Volumes; merged by `name`."
    )
    node_selector: dict[str, LabelValue] = Field(
        default={}, max_length=64, description="Labels that a node must have to get the pod."
    )
    tolerations: list[Toleration] = Field(
        default=[], max_length=64, description="Taints put up with; added to the operator's own."
    )
    affinity: dict[str, JsonValue] = Field(
        default={}, description="Which nodes and which company the pod prefers or needs."
    )
    priority_class_name: ObjectName | None = Field(
        default=None,
        description="PriorityClass of the pod: who yields when a node is full; null: "
        "the namespace's default.",
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="RuntimeClass of the pod, such as `nvidia`; null: none."
    )
    scheduler_name: ObjectName | None = Field(
        default=None, description="Scheduler in charge of the pod; null: the cluster's own."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount of the pod. Its token is not mounted: the programs never talk "
        "to the API server.",
    )
    image_pull_secrets: list[SecretName] = Field(
        default=[], max_length=32, description="Secrets for the image registry; merged by `name`."
    )


class PodMetadata(Part):
    """Labels and annotations of the pods."""

    labels: dict[str, LabelValue] = Field(
        default={},
        max_length=64,
        description="Labels beside the operator's own, which cannot be changed.",
    )
    annotations: dict[str, Text] = Field(
        default={}, max_length=64, description="Annotations beside the operator's own."
    )


class PodTemplateFields(Part):
    """Kubernetes pod template that is merged into the operator's own, as `kubectl patch` does."""

    metadata: PodMetadata = Field(default=PodMetadata(), description="Labels and annotations.")
    spec: PodSpec = Field(default=PodSpec(), description="Containers, volumes and where to run.")


def _checked(template: dict[str, JsonValue]) -> dict[str, JsonValue]:
    PodTemplateFields.model_validate(template, by_alias=True, by_name=False)
    return template


class _AsPodTemplate:
    """Describes a plain mapping by the fields that it is checked against."""

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(PodTemplateFields.__pydantic_core_schema__), AS_WRITTEN: True}


PodTemplate = Annotated[dict[str, JsonValue], AfterValidator(_checked), _AsPodTemplate()]
"""A pod template as the manifest has it: it is merged as it was written, without defaults."""
