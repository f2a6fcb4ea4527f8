"""Containers of a pod, as far as a manifest's pod templates are checked.

Kubernetes knows more fields of a container than anyone wants to repeat. Those that people set on
training pods are described here; the others pass through as they are.
"""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from vaco.schema.base import RULE_BROKEN, Part
from vaco.schema.problems import shown

QUANTITY: Final = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$"
MAX_QUANTITY: Final = 32


def _quantity(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and len(value) <= MAX_QUANTITY and re.fullmatch(QUANTITY, value):
        return value
    words = {
        "problem": f"{shown(value)} is no quantity",
        "cure": "Give a whole number, or text such as 500m, 2.5 or 8Gi.",
    }
    raise PydanticCustomError(RULE_BROKEN, "{problem}", words)


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maxLength": MAX_QUANTITY,
            "pattern": QUANTITY,
        }
    ),
]
"""An amount of something, as Kubernetes writes it: 2, 500m, 8Gi."""

Image = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^\S+$")]
Text = Annotated[str, Field(max_length=32768)]
ShortName = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]


class OpenPart(Part):
    """A part of which Kubernetes knows more fields than are described here."""

    model_config = ConfigDict(extra="allow")


class Resources(OpenPart):
    """What a container may and must have."""

    requests: dict[str, Quantity] = Field(
        default={},
        max_length=32,
        description="What the scheduler sets aside, by resource, such as `cpu: 500m`, "
        "`memory: 2Gi`.",
    )
    limits: dict[str, Quantity] = Field(
        default={},
        max_length=32,
        description="What the container never gets more of, by resource; devices stand here, such "
        "as `nvidia.com/gpu: 1`.",
    )


class EnvironmentVariable(OpenPart):
    """A variable of a container's environment."""

    name: str = Field(min_length=1, max_length=1024, description="Name of the variable.")
    value: Text = Field(default="", description="Its value, as text.")


class VolumeMount(OpenPart):
    """Where a container sees a volume."""

    name: ShortName = Field(description="Name of one of the pod's volumes.")
    mount_path: str = Field(
        min_length=1, max_length=4096, description="Path at which the container sees it."
    )
    read_only: bool = Field(default=False, description="Whether it can only be read there.")
    sub_path: Text = Field(default="", description="Path inside of the volume; empty: its root.")


class ContainerPort(OpenPart):
    """A port that a container listens at."""

    container_port: int = Field(ge=1, le=65535, description="Number of the port.")
    name: str = Field(default="", max_length=15, description="Name of the port, for Services.")
    protocol: Literal["TCP", "UDP", "SCTP"] = Field(default="TCP", description="Protocol.")


class Container(OpenPart):
    """A container of the pod: merged into the operator's own of that name, or beside it."""

    name: ShortName = Field(
        description="Name of the container: `learner` or `actor` for the program itself, any other "
        "for a container beside it."
    )
    image: Image | None = Field(
        default=None,
        description="Image; null for the program: the one that the operator was installed with.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None,
        description="When the image is pulled; null: as Kubernetes decides by its tag.",
    )
    command: list[Text] = Field(
        default=[], max_length=256, description="Program and arguments, in place of the image's."
    )
    args: list[Text] = Field(default=[], max_length=256, description="Arguments of the program.")
    env: list[EnvironmentVariable] = Field(
        default=[], max_length=256, description="Environment; merged by `name`."
    )
    resources: Resources = Field(
        default=Resources(), description="CPU, memory and devices of the container."
    )
    volume_mounts: list[VolumeMount] = Field(
        default=[], max_length=64, description="Volumes that it sees; merged by `mountPath`."
    )
    ports: list[ContainerPort] = Field(
        default=[], max_length=64, description="Ports; merged by `containerPort`."
    )
