"""The number of actors of a running job: decided by `scaling`, or asked for by hand.

A `Scaler` is a value: whoever holds one replaces it with the one that each step hands back. So the
operator's plan, which must have no effects, can step it as well as the local runner's loop.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

from vaco.job import VACOJobSpec

from vaco_operator.scaling import ScalingPolicy, ScalingState, Signals, decide


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the desired number of actors."""

    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scaler:
    """What is desired, and why.

    Attributes:
        policy: the job's rules.
        interval: seconds between two decisions.
        desired: the number of actors there should be.
        events: changes so far.
        reason: why it is `desired`.
        limit: what keeps it from being another number (`scaling.Decision.limit`).
        state: what earlier decisions left behind.
        due: monotonic seconds of the next decision.

    """

    policy: ScalingPolicy
    interval: float
    desired: int
    events: int
    reason: str
    limit: str
    state: ScalingState = field(default_factory=ScalingState)
    due: float = -math.inf

    @classmethod
    def begin(cls, spec: VACOJobSpec, desired: int, events: int, room: int | None = None) -> Self:
        """Begin with `desired`, clamped to the bounds, and `events` changes counted before.

        `room` is what the machine has for actors, if they all share one (`ScalingPolicy.room`).
        """
        policy = ScalingPolicy.from_spec(spec, room)
        allowed, limit = policy.clamp(desired)
        reason = _asked(policy, desired) if limit else "as the job asks for"
        return cls(policy, spec.autoscaling.interval_seconds, allowed, events, reason, limit)

    def governed_by(self, spec: VACOJobSpec) -> Self:
        """Go on under the rules of `spec`; if they are others, the next decision is due at once."""
        policy = ScalingPolicy.from_spec(spec, self.policy.room)
        interval = spec.autoscaling.interval_seconds
        if (policy, interval) == (self.policy, self.interval):
            return self
        return replace(self, policy=policy, interval=interval, due=-math.inf)

    def review(self, ready: int, signals: Signals | None, now: float) -> tuple[Self, Change | None]:
        """Decide again, if it is time; returns what changed, too."""
        if now < self.due:
            return self, None
        decision = decide(self.policy, self.desired, ready, signals, self.state, now)
        told = replace(self, state=decision.state, due=now + self.interval)
        return told._set(decision.desired, decision.reason, decision.limit)

    def ask(self, replicas: int, now: float) -> tuple[Self, Change | None]:
        """Take a number asked for by hand, clamped to the bounds; returns what changed, too.

        Under `autoscaling.mode: auto` it holds for `scaleDown.stabilizationWindowSeconds`.
        """
        allowed, limit = self.policy.clamp(replicas)
        reason = _asked(self.policy, replicas)
        if self.policy.mode == "auto":
            reason += f"; autoscaling goes on in {self.policy.down.stabilization_window:g} s"
        told = replace(self, state=self.state.asked(allowed, now, self.policy))
        return told._set(allowed, reason, limit)

    def _set(self, desired: int, reason: str, limit: str) -> tuple[Self, Change | None]:
        told = replace(self, reason=reason, limit=limit) if reason else self
        if desired == self.desired:
            return told, None
        changed = replace(told, desired=desired, events=self.events + 1)
        return changed, Change(self.desired, desired, reason)


def _asked(policy: ScalingPolicy, replicas: int) -> str:
    """Say what was asked for, and what became of it."""
    allowed, limit = policy.clamp(replicas)
    if not limit:
        return f"asked for {replicas}"
    bounds = f"actors.minReplicas is {policy.minimum}, maxReplicas {policy.maximum}"
    return f"asked for {replicas}, limited to {allowed}: {bounds}"
