"""The actors, and how many of them there are."""

from typing import Literal

from pydantic import Field

from vaco.schema.base import Broken, Cel, Part, Rule
from vaco.schema.pod_template import PodTemplate

MAX_ACTORS = 4096


def _room_for_all(earlier: dict[str, int]) -> int:
    return max(earlier["replicas"], earlier["min_replicas"])


def _ordered(actors: "ActorsSpec") -> Broken | None:
    if actors.min_replicas > actors.max_replicas:
        return Broken(
            f"{actors.min_replicas} is more than maxReplicas, which is {actors.max_replicas}",
            "Lower `minReplicas` or raise `maxReplicas`.",
        )
    return None


class ActorsSpec(Part):
    """The processes that play: they may come and go while the job runs."""

    replicas: int = Field(
        default=1,
        # Autoscalers may ask for none; like any other number it is then held between the bounds.
        ge=0,
        le=MAX_ACTORS,
        description="Actors to start with; afterwards what scaling asks for (`kubectl scale`, "
        "`vaco scale`). Held between `minReplicas` and `maxReplicas`.",
    )
    min_replicas: int = Field(
        default=1, ge=1, le=MAX_ACTORS, description="Actors that scaling never goes below."
    )
    max_replicas: int = Field(
        default_factory=_room_for_all,
        ge=1,
        le=MAX_ACTORS,
        description="Actors that scaling never goes above. When left out, the larger of `replicas` "
        "and `minReplicas`.",
    )
    threads: int = Field(
        default=1, ge=1, le=1024, description="CPU threads of one actor's computations."
    )
    drain_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds an actor has, when told to leave, until all that it made is in the "
        "learner's hands.",
    )
    pod_template: PodTemplate = Field(
        default={},
        description="Kubernetes pod template that is merged into the actors' own; has no meaning "
        "for a local run.",
    )

    rules = (
        Rule(
            ("min_replicas", "max_replicas"),
            ("minReplicas",),
            _ordered,
            Cel(
                "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "{self.minReplicas} is more than maxReplicas, which is {self.maxReplicas}. "
                "Lower `minReplicas` or raise `maxReplicas`.",
            ),
        ),
    )


class TargetLag(Part):
    """Lag above which scaling takes actors away, however many the learner could use."""

    versions: float | None = Field(
        default=None, gt=0, description="95th percentile of the lag in versions; null: no target."
    )
    tv: float | None = Field(
        default=None,
        gt=0,
        le=2,
        description="Total variation of the data against the anchor; null: no target.",
    )


class ScaleRule(Part):
    """How fast the number of actors may change in one direction, as in a pod autoscaler."""

    stabilization_window_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="Seconds of recommendations of which the most cautious one counts.",
    )
    max_change: int = Field(
        default=4,
        ge=1,
        le=MAX_ACTORS,
        description="Actors added or taken away per period at most.",
    )
    period_seconds: float = Field(
        default=15.0, gt=0, le=1800, description="Length of the period of `maxChange` in seconds."
    )


class ScaleDownRule(ScaleRule):
    """How fast actors may be taken away: slower than they are added, unless said otherwise."""

    stabilization_window_seconds: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="Seconds of recommendations of which the most cautious one counts.",
    )
    max_change: int = Field(
        default=1, ge=1, le=MAX_ACTORS, description="Actors taken away per period at most."
    )


class AutoscalingSpec(Part):
    """How the number of actors follows what the learner can use."""

    mode: Literal["auto", "external", "fixed"] = Field(
        default="auto",
        description="`auto`: supply follows demand, between `actors.minReplicas` and "
        "`actors.maxReplicas`; `external`: someone else (a pod autoscaler, KEDA) sets "
        "`actors.replicas`; `fixed`: it changes only by hand.",
    )
    interval_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="Seconds between two decisions."
    )
    headroom: float = Field(
        default=1.1,
        ge=1,
        le=4,
        description="Supply aimed at, as a multiple of what the learner could train.",
    )
    target_lag: TargetLag = Field(
        default=TargetLag(), description="Lag above which actors are taken away."
    )
    signal_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Age in seconds beyond which the learner's signals are not believed any more; "
        "the number of actors is then held.",
    )
    scale_up: ScaleRule = Field(default=ScaleRule(), description="Bounds of the way up.")
    scale_down: ScaleDownRule = Field(
        default=ScaleDownRule(), description="Bounds of the way down."
    )
