"""When training is complete. Pure."""

from vaco.job import StopSpec

from vaco_learner.windows import ReturnWindow


def stop_reason(
    stop: StopSpec, env_steps: int, returns: ReturnWindow, train_seconds: float
) -> str | None:
    """Return which stop condition holds, as a sentence; None: none does.

    Args:
        stop: the conditions; any one is enough.
        env_steps: trained.
        returns: of the last `stop.return.episodes` episodes.
        train_seconds: since the first fragment was admitted.

    """
    if stop.env_steps is not None and env_steps >= stop.env_steps:
        return f"{env_steps} of {stop.env_steps} environment steps are trained"
    goal, mean = stop.return_, returns.mean
    if goal is not None and mean is not None and returns.full and mean >= goal.mean:
        return f"the mean return of {goal.episodes} episodes is {mean:.1f}, of {goal.mean:g} wanted"
    seconds = stop.wall_clock_seconds
    if seconds is not None and train_seconds >= seconds:
        return f"{seconds:g} seconds of training have passed"
    return None
