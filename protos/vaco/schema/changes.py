"""When a field of `spec` may change once the job is there, on a cluster.

Some fields are wishes that the operator follows while the job runs. What the running programs were
started with changes only while the job is suspended, so that all of them always train the same way.
What the checkpoint was made for never changes: with another task, policy or seed it would be
another job.
"""

from typing import Final, Literal

Change = Literal["any time", "while suspended", "never"]

_WHEN: Final[dict[str, Change]] = {
    "seed": "never",
    "synchronous": "never",
    "suspend": "any time",
    "task": "never",
    "policy": "never",
    "algorithm": "while suspended",
    "algorithm.name": "never",
    "rollout": "while suspended",
    "sampling": "while suspended",
    "learner": "while suspended",
    "learner.storage": "never",
    "learner.storage.size": "any time",
    "learner.podTemplate": "any time",
    "actors": "any time",
    "actors.threads": "while suspended",
    "actors.drainSeconds": "while suspended",
    "autoscaling": "any time",
    "evaluation": "while suspended",
    "stop": "any time",
    "ttlSecondsAfterFinished": "any time",
    "cleanPodPolicy": "any time",
    "startDeadlineSeconds": "any time",
    "activeDeadlineSeconds": "any time",
    "backoffLimit": "any time",
}


def change_of(path: str) -> Change | None:
    """Tell when a field may change.

    Args:
        path: Below `spec`, such as `algorithm.delta`.

    Returns:
        None if the fields below it say it, each for itself.

    Raises:
        KeyError: If nobody has decided it.

    """
    if any(decided.startswith(f"{path}.") for decided in _WHEN):
        return None
    return presence_of(path)


def presence_of(path: str) -> Change:
    """Tell when a field may come or go, whatever is decided of the fields below it.

    Raises:
        KeyError: If nobody has decided it.

    """
    steps = path.split(".")
    upwards = (".".join(steps[:n]) for n in range(len(steps), 0, -1))
    return next((_WHEN[each] for each in upwards if each in _WHEN), None) or _WHEN[path]
