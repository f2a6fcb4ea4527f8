"""How many actors: supply against demand, held back by windows and a rate limit.

The learner reports how many samples per second it could train if it never waited (demand) and how
many one actor produces when nothing holds it back (supply). The wish is
``ceil(demand / supply * headroom)``, pulled down while the measured lag is over its target. What
becomes of a wish follows the Kubernetes horizontal pod autoscaler (v2 ``behavior``): within a
stabilisation window the most cautious wish wins, and no direction moves by more than ``maxChange``
actors per period.

`decide` is pure and knows neither processes nor pods: the local runner and the operator both call
it, and both keep the `ScalingState` it hands back for the next call. Where all actors share the
cores of one machine, no more are added than it has room for: a cluster finds them other nodes.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaco.job import VACOJobSpec

LAG_TOLERANCE = 0.1
"""Within this share below the lag's target the count may not grow: it would only be taken back."""
LEAST_ROOM = 2
"""Even beside a learner on two cores a second actor pays: none of them computes all of the time."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How fast one direction may move; times in seconds, changes in actors."""

    stabilization_window: float
    max_change: int
    period: float


def room_beside_learner(spec: "VACOJobSpec", cores: int) -> int:
    """Return how many actors a machine of so many cores has room for, its learner left alone."""
    return max(LEAST_ROOM, (cores - spec.learner.threads) // spec.actors.threads)


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """What the manifest says about the number of actors.

    `room` is how many of them the machine has room for, which bounds what is added by itself, and
    neither `minimum` nor what a person asks for; None: it is as good as boundless.
    """

    mode: str
    minimum: int
    maximum: int
    headroom: float
    signal_timeout: float
    up: Rules
    down: Rules
    target_lag_versions: float | None = None
    target_lag_tv: float | None = None
    room: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"actors must be bounded by 1 <= {self.minimum} <= {self.maximum}")

    @classmethod
    def from_spec(cls, spec: "VACOJobSpec", room: int | None = None) -> "ScalingPolicy":
        """Read ``spec.actors`` and ``spec.autoscaling``; `room` is the machine's."""
        scaling = spec.autoscaling
        up, down = scaling.scale_up, scaling.scale_down
        return cls(
            mode=scaling.mode,
            minimum=spec.actors.min_replicas,
            maximum=spec.actors.max_replicas,
            headroom=scaling.headroom,
            signal_timeout=scaling.signal_timeout_seconds,
            up=Rules(up.stabilization_window_seconds, up.max_change, up.period_seconds),
            down=Rules(down.stabilization_window_seconds, down.max_change, down.period_seconds),
            target_lag_versions=scaling.target_lag.versions,
            target_lag_tv=scaling.target_lag.tv,
            room=room,
        )

    def clamp(self, replicas: int) -> tuple[int, str]:
        """Return the nearest allowed count, and which bound it hit (empty: none)."""
        if replicas < self.minimum:
            return self.minimum, "MinReplicas"
        if replicas > self.maximum:
            return self.maximum, "MaxReplicas"
        return replicas, ""


@dataclass(frozen=True, slots=True)
class Signals:
    """What the learner measured: samples/s, versions, TV, seconds; a rate of 0 is not known yet."""

    demand: float
    supply_per_actor: float
    lag_versions: float
    tv: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What earlier decisions left behind: wishes for the windows, changes for the rate limit.

    `lows` and `highs` are monotonic queues of (time, count), oldest first: only those wishes that
    can still be the least or the greatest of a window. Their counts differ, so they are never
    longer than the number of allowed counts, whatever the window and the interval. `held_until` is
    how long a count that a person asked for is left alone.
    """

    lows: tuple[tuple[float, int], ...] = ()
    highs: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int], ...] = ()
    held_until: float = -math.inf

    def wished(self, count: int, now: float, policy: ScalingPolicy) -> "ScalingState":
        """Add a wish, and forget what no window or period can see any more."""
        since_up = now - policy.up.stabilization_window
        since_down = now - policy.down.stabilization_window
        longest = max(policy.up.period, policy.down.period)
        return replace(
            self,
            lows=(*((t, c) for t, c in self.lows if c < count and t > since_up), (now, count)),
            highs=(*((t, c) for t, c in self.highs if c > count and t > since_down), (now, count)),
            changes=tuple((t, d) for t, d in self.changes if t > now - longest),
        )

    def asked(self, count: int, now: float, policy: ScalingPolicy) -> "ScalingState":
        """Take note that a person asked for `count`: it is held for the window of scaling down."""
        held_until = now + policy.down.stabilization_window
        return replace(self.wished(count, now, policy), held_until=held_until)

    def room(self, rules: Rules, sign: int, now: float) -> int:
        """Return by how many actors the count may still move in direction `sign` (+1 or -1)."""
        used = sum(d * sign for t, d in self.changes if d * sign > 0 and t > now - rules.period)
        return max(0, rules.max_change - used)


@dataclass(frozen=True, slots=True)
class Decision:
    """The count to have, why, and what to remember.

    Without a `reason` nothing was decided, as a person or another program decides: what was said
    before stands.

    `limit` names what keeps the count from the wish: MinReplicas, MaxReplicas, Cores, RateLimit,
    or nothing. A stabilisation window is no limit: it is part of the wish.
    """

    desired: int
    reason: str
    state: ScalingState
    limit: str = ""


def decide(
    policy: ScalingPolicy,
    current: int,
    ready: int,
    signals: Signals | None,
    state: ScalingState,
    now: float,
) -> Decision:
    """Decide how many actors there should be.

    Args:
        policy: the manifest's rules.
        current: the count desired until now.
        ready: how many of them are connected and producing.
        signals: the learner's newest measurement; None if it has none or does not answer.
        state: what the decision before this one returned.
        now: monotonic seconds.

    """
    bounded, limit = policy.clamp(current)
    if bounded != current:
        reason = f"{current} is outside of {policy.minimum} to {policy.maximum}"
        return Decision(bounded, reason, state.wished(bounded, now, policy), limit)
    if policy.mode != "auto":
        return Decision(current, "", state)
    if now < state.held_until:
        return Decision(current, "", state.wished(current, now, policy))
    if signals is None or (problem := _unusable(policy, signals)):
        reason = f"held: {problem}" if signals else "held: the learner has measured nothing yet"
        return Decision(current, reason, state.wished(current, now, policy))
    wish, reason = _wish(policy, current, ready, signals)
    wish, limit = policy.clamp(wish)
    fitting = max(policy.minimum, current, policy.room or policy.maximum)
    if wish > fitting:
        wish, limit = fitting, "Cores"
        reason += f", but the cores of this machine have room for {policy.room}"
    if not state.highs:
        state = state.wished(current, now, policy)
    return _move(policy, current, state.wished(wish, now, policy), limit, reason, now)


def _unusable(policy: ScalingPolicy, signals: Signals) -> str:
    """Say why the signals cannot be decided on, or return an empty string."""
    numbers = (
        signals.demand,
        signals.supply_per_actor,
        signals.lag_versions,
        signals.tv,
        signals.age_seconds,
    )
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return "the learner's signals are not numbers to decide on"
    if signals.age_seconds > policy.signal_timeout:
        return f"the signals are {signals.age_seconds:.0f} s old"
    if signals.demand == 0:
        return "demand is not measured yet"
    if signals.supply_per_actor == 0:
        return "supply per actor is not measured yet"
    return ""


def _wish(policy: ScalingPolicy, current: int, ready: int, signals: Signals) -> tuple[int, str]:
    """Return the count the signals ask for, before windows, rate and bounds, and why."""
    ratio = signals.demand / signals.supply_per_actor * policy.headroom
    # Beyond the maximum every wish means the same, and ceil() must not see an infinite ratio.
    wish = max(1, math.ceil(min(ratio, policy.maximum + 1.0) - 1e-9))
    reason = (
        f"demand {signals.demand:,.0f}/s over {signals.supply_per_actor:,.0f}/s per actor"
        f" x {policy.headroom:g} asks for"
        f" {'more than ' if wish > policy.maximum else ''}{min(wish, policy.maximum)}"
    )
    lag, target, name = _worst_lag(policy, signals)
    if lag > target:
        lowered = max(1, min(wish, current - 1, math.floor(current * target / lag)))
        return lowered, f"lag {lag:.3g} {name} is over its target {target:g}"
    if wish > current and lag > target * (1 - LAG_TOLERANCE):
        return current, f"lag {lag:.3g} {name} is too near its target {target:g} to add actors"
    if wish > current and ready < current:
        return current, f"{reason}, but only {ready} of {current} actors are ready"
    return wish, reason


def _worst_lag(policy: ScalingPolicy, signals: Signals) -> tuple[float, float, str]:
    """Return (lag, target, unit) of whichever target is closest to being missed."""
    lags = [
        (lag, target, name)
        for lag, target, name in (
            (signals.lag_versions, policy.target_lag_versions, "versions"),
            (signals.tv, policy.target_lag_tv, "TV"),
        )
        if target is not None
    ]
    return max(lags, key=lambda lag: lag[0] / lag[1], default=(0.0, math.inf, ""))


def _move(
    policy: ScalingPolicy, current: int, state: ScalingState, limit: str, reason: str, now: float
) -> Decision:
    """Go from the current count towards the newest wish, as far as windows and rates let it."""
    least, greatest = state.lows[0][1], state.highs[0][1]
    target = least if current < least else min(current, greatest)
    wish = state.highs[-1][1]
    if target == current:
        if wish != current:
            window = policy.up if wish > current else policy.down
            reason += f", if it still does so within {window.stabilization_window:g} s"
        return Decision(current, reason, state, limit)
    sign, rules = (1, policy.up) if target > current else (-1, policy.down)
    step = min(abs(target - current), state.room(rules, sign, now))
    if step < abs(target - current):
        limit = "RateLimit"
        reason += f"; at most {rules.max_change} per {rules.period:g} s"
    if step:
        state = replace(state, changes=(*state.changes, (now, sign * step)))
    return Decision(current + sign * step, reason, state, limit)
