"""One cell of a matrix: one training run, and what tells it from all others."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from vaco.job import VACOJob, VACOJobSpec
from vaco.schema.base import Part, yaml_name

from vaco_lab.evaluation import EvaluationPlan

ASYNC: Final = "async"
Lag = int | Literal["async"]

RESULTS: Final = 1
"""What runs give, as a number: to be raised when a change of the code, or of a default in the
schema, has the same cell give something else. All cells are then run anew."""

LABELS: Final = ("environment", "algorithm", "switch", "lag", "seed")
"""A cell's place in its matrix."""

DECIDING: Final = ("task", "policy", "algorithm", "rollout")
"""Parts of `spec` that decide what a run gives, besides its length."""
DECIDING_LEARNER: Final = ("batch_size", "precision")
"""Of `spec.learner` the fields that decide it where lag is imposed."""
DECIDING_REAL: Final = ("learner", "actors", "autoscaling", "synchronous")
"""What of `spec` decides it besides in a real run."""

_TAGS: Final = ("type", "name")


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        environment: Label, like the next ones.
        algorithm: Of the algorithm.
        lag: K, the versions that fragments draw from; or `async`, a real run.
        switch: Of the variant.
        seed: Of everything that draws at random.
        job: With all of that in it.
        evaluation: When and on how much it is evaluated.
        low: Return that counts as 0, which a run that diverged gets; None if nobody said.

    """

    environment: str
    algorithm: str
    lag: Lag
    switch: str
    seed: int
    job: VACOJob
    evaluation: EvaluationPlan
    low: float | None = None

    @property
    def budget(self) -> int:
        """Steps that it is trained for."""
        return self.job.spec.stop.env_steps or 0

    @cached_property
    def key(self) -> str:
        """Its name in a file system: a digest of all that decides its result, and of nothing else.

        Labels do not. Nor does what has its default: a field that is new in the schema, or a
        default that is written out, leaves the key as it is.
        """
        plan = self.evaluation
        # A real run is evaluated at its end alone.
        evaluated = [1 if self.lag == ASYNC else plan.points, plan.episodes]
        job = _deciding(self.job.spec, self.lag)
        decides = json.dumps([RESULTS, job, self.lag, self.seed, evaluated], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        switch = f" {self.switch}" if self.switch != "-" else ""
        return f"{self.environment} {self.algorithm}{switch} K={self.lag} seed {self.seed}"


def _deciding(spec: VACOJobSpec, lag: Lag) -> dict[str, Any]:
    """Return the parts of a job that decide what a run gives; of a real one that is nearly all."""
    parts = {name: _plain(getattr(spec, name)) for name in DECIDING}
    parts["task"] |= {"imports": [_content(name) for name in spec.control.task.imports]}
    parts["envSteps"] = spec.stop.env_steps
    if lag != ASYNC:
        learner = {yaml_name(name): getattr(spec.learner, name) for name in DECIDING_LEARNER}
        return parts | learner
    return parts | {name: _plain(getattr(spec, name)) for name in DECIDING_REAL}


def _said(part: Part) -> dict[str, Any]:
    """Return a part's fields that differ from their defaults, and those that say what it is."""
    return {
        yaml_name(name): _plain(getattr(part, name))
        for name, field in type(part).model_fields.items()
        if name in _TAGS or getattr(part, name) != field.default
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return _said(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _content(name: str) -> str:
    """Return the name of an imported module, or a digest of an imported file: not where it is."""
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        return name
    return hashlib.sha256(path.read_bytes()).hexdigest()
