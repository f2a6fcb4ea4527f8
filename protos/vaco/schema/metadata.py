"""Who the job is: the part of Kubernetes' ObjectMeta that a manifest may carry."""

from typing import Annotated, Final

from pydantic import Field, JsonValue

from vaco.schema.base import Part

MAX_NAME: Final = 52
"""Children are named after the job, and Kubernetes bounds a Service's name to 63 characters, the
first of which is a letter."""

_NOT_OURS: Final = "Written and read by Kubernetes only."

Name = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
]

ObjectName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""Name of another Kubernetes object: small letters, digits, hyphens and dots."""


class Metadata(Part):
    """Name and identity of the job, as Kubernetes' ObjectMeta has them."""

    name: Name = Field(
        description="Name of the job: small letters, digits and hyphens, first a letter, at most "
        "52 characters. A local run is kept in `runs/<name>`; on a cluster all children are named "
        "after it."
    )
    namespace: str | None = Field(
        default=None,
        max_length=63,
        description="Kubernetes namespace; has no meaning for a local run.",
    )
    uid: str | None = Field(
        default=None,
        max_length=64,
        description="Identity of this very job, given by the API server or by `vaco run`. "
        "Fragments and checkpoints of another identity are refused.",
    )
    generation: int | None = Field(
        default=None, ge=0, description="Counts the changes of `spec`; written by the API server."
    )
    labels: dict[str, str] = Field(default={}, description="Labels of the job, as in Kubernetes.")
    annotations: dict[str, str] = Field(
        default={}, description="Annotations of the job, as in Kubernetes."
    )
    resource_version: str | None = Field(default=None, description=_NOT_OURS)
    creation_timestamp: str | None = Field(default=None, description=_NOT_OURS)
    deletion_timestamp: str | None = Field(default=None, description=_NOT_OURS)
    deletion_grace_period_seconds: int | None = Field(default=None, description=_NOT_OURS)
    generate_name: str | None = Field(default=None, description=_NOT_OURS)
    self_link: str | None = Field(default=None, description=_NOT_OURS)
    finalizers: list[str] | None = Field(default=None, description=_NOT_OURS)
    owner_references: list[JsonValue] | None = Field(default=None, description=_NOT_OURS)
    managed_fields: list[JsonValue] | None = Field(default=None, description=_NOT_OURS)
