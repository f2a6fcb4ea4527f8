"""When training is complete. Pure."""

from vaco.job import ReturnGoal, StopSpec

from vaco_learner.windows import ReturnWindow


def stop_reason(
    stop: StopSpec,
    env_steps: int,
    returns: ReturnWindow,
    train_seconds: float,
    samples: str = "environment steps",
) -> str | None:
    """Return which stop condition holds, as a sentence; None: none does.

    Args:
        stop: the conditions; any one is enough.
        env_steps: trained.
        returns: of the last `stop.return.episodes` episodes.
        train_seconds: since the first fragment was admitted.
        samples: what `env_steps` counts.

    """
    goal, mean = stop.return_, returns.mean
    if goal is not None and mean is not None and returns.full and mean >= goal.mean:
        return f"the mean return of {goal.episodes} episodes is {mean:.1f}, of {goal.mean:g} wanted"
    seconds = stop.wall_clock_seconds
    if stop.env_steps is not None and env_steps >= stop.env_steps:
        spent = f"{env_steps} of {stop.env_steps} {samples} are trained"
    elif seconds is not None and train_seconds >= seconds:
        spent = f"{seconds:g} seconds of training have passed"
    else:
        return None
    return spent if goal is None else f"{_missed(goal, returns)}: {spent}"


def _missed(goal: ReturnGoal, returns: ReturnWindow) -> str:
    """Say by how much a goal was missed."""
    if returns.mean is None:
        return f"the return goal of {goal.mean:g} was missed, as no episode ended"
    told = f"the return goal of {goal.mean:g} was missed, at {returns.mean:.1f}"
    return told if returns.full else f"{told} over {returns.episodes} of {goal.episodes} episodes"
