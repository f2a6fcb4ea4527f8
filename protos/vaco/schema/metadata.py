"""Who the job is: the part of Kubernetes' ObjectMeta that a manifest may carry."""

from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from vaco.schema.base import Integer, Part, problem, refuse

MAX_NAME: Final = 52
"""Children are named after the job, and Kubernetes bounds a Service's name to 63 characters."""

_WRITTEN_BY_KUBERNETES: Final = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    }
)

Name = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]


class Metadata(Part):
    """Name and identity of the job, as Kubernetes' ObjectMeta has them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    name: Name = Field(
        description="Name of the job: lower-case letters, digits and hyphens, at most 52 characters. "
        "A local run is kept in `runs/<name>`; on a cluster all children are named after it."
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
    generation: Integer | None = Field(
        default=None, ge=0, description="Counts the changes of `spec`; written by the API server."
    )
    labels: dict[str, str] = Field(default={}, description="Labels of the job, as in Kubernetes.")
    annotations: dict[str, str] = Field(
        default={}, description="Annotations of the job, as in Kubernetes."
    )

    @model_validator(mode="after")
    def _known_to_kubernetes(self) -> Self:
        unknown = [name for name in self.__pydantic_extra__ if name not in _WRITTEN_BY_KUBERNETES]
        refuse(
            self,
            [
                problem(
                    (name,),
                    "unknown field",
                    f"`metadata` has {', '.join(type(self).model_fields)}.",
                    self.__pydantic_extra__[name],
                )
                for name in unknown
            ],
        )
        return self
