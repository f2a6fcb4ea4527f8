"""What a row's file has to be, for nobody to stumble over it later."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vaco_lab.measures import Point


class _Kept(BaseModel):
    """Fields that the laboratory reads; those of other versions may stand beside them."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Row(_Kept):
    outcome: Literal["complete", "diverged"]
    env_steps: int
    updates: int
    seconds: float
    evaluation_seconds: float
    tv_mean: float | None
    tv_max: float | None
    tv_behaviour_mean: float | None
    tv_start_mean: float | None
    filtered_share: float | None
    over_threshold_share: float | None
    ess_mean: float | None
    kl_mean: float | None
    lag_p50: float
    lag_p95: float
    lag_max: float


class _Provenance(_Kept):
    commit: str
    dirty: bool
    machine: str
    workers: int
    command: str
    date: Annotated[str, Field(min_length=len("2026-01-31"))]


class _Document(_Kept):
    row: _Row
    evaluations: Annotated[list[tuple[int, float]], Field(min_length=1)]
    curve: list[Point]
    tv_by_step: list[tuple[float, float]]
    provenance: _Provenance


def parse_row(text: str) -> dict[str, Any]:
    """Return the document that a row's file has, as it is written.

    Raises:
        ValueError: It is damaged, or something else; says in a line where and how.

    """
    try:
        _Document.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise ValueError(f"{place}: {first['msg']}") from error
    document: dict[str, Any] = json.loads(text)
    return document
