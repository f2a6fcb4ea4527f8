"""The number of actors of a running job: decided by `scaling`, or asked for by hand."""

from dataclasses import dataclass

from vaco.job import VACOJob

from vaco_operator.scaling import ScalingPolicy, ScalingState, Signals, decide


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the desired number of actors."""

    before: int
    after: int
    reason: str


class Scaler:
    """Holds what is desired, and why.

    Args:
        job: whose actors they are.
        desired: the number to begin with; clamped to the job's bounds.
        events: changes counted in earlier runs of the same directory.

    """

    def __init__(self, job: VACOJob, desired: int, events: int) -> None:
        self._policy = ScalingPolicy.from_spec(job.spec)
        self._interval = job.spec.autoscaling.interval_seconds
        self._state = ScalingState()
        self._due = float("-inf")
        self.desired, self.limit = self._policy.clamp(desired)
        self.events = events
        self.reason = "as the job asks for"

    def review(self, ready: int, signals: Signals | None, now: float) -> Change | None:
        """Decide again, if it is time; returns what changed."""
        if now < self._due:
            return None
        self._due = now + self._interval
        decision = decide(self._policy, self.desired, ready, signals, self._state, now)
        self._state = decision.state
        return self._set(decision.desired, decision.reason, decision.limit)

    def ask(self, replicas: int, now: float) -> Change | None:
        """Take a number asked for by hand, clamped to the bounds; returns what changed.

        Under `autoscaling.mode: auto` it holds for `scaleDown.stabilizationWindowSeconds`.
        """
        allowed, limit = self._policy.clamp(replicas)
        reason = f"asked for {replicas}"
        if limit:
            bounds = (
                f"actors.minReplicas is {self._policy.minimum}, maxReplicas {self._policy.maximum}"
            )
            reason += f", limited to {allowed}: {bounds}"
        if self._policy.mode == "auto":
            reason += f"; autoscaling goes on in {self._policy.down.stabilization_window:g} s"
        self._state = self._state.asked(allowed, now, self._policy)
        return self._set(allowed, reason, limit)

    def _set(self, desired: int, reason: str, limit: str) -> Change | None:
        before, self.desired = self.desired, desired
        if reason:
            self.reason, self.limit = reason, limit
        if desired == before:
            return None
        self.events += 1
        return Change(before, desired, reason)
