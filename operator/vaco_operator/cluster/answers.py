"""What is kept of a learner's answer: the image that gives it is the user's, the memory is ours.

Of every job the newest answer is kept. So it is cut down to what a plan looks at, and to accounts
of actors whose pods there are, of which quotas bound the number.
"""

from collections.abc import Callable
from typing import Final

from vaco.v1 import learner_pb2 as pb

from vaco_operator.status import MAX_MESSAGE

MAX_UID: Final = 64
"""Characters; a longer one is no job's."""


def cut_down(told: pb.GetStatusResponse, is_actor: Callable[[str], bool]) -> pb.GetStatusResponse:
    """Return what is kept of an answer, which is used up.

    Args:
        told: as it came.
        is_actor: whether there is a pod of this name.

    """
    accounts = {each.actor_id: each for each in told.actors if is_actor(each.actor_id)}
    actors = [
        pb.ActorAccount(actor_id=name, connected=each.connected, lag_p95=each.lag_p95)
        for name, each in accounts.items()
    ]
    del told.actors[:]
    told.actors.extend(actors)
    told.job_uid = told.job_uid[:MAX_UID]
    told.message = told.message[:MAX_MESSAGE]
    told.ClearField("metrics_address")
    told.ClearField("stuck")
    told.DiscardUnknownFields()
    # A message holds on to the memory of what was taken out of it.
    return pb.GetStatusResponse.FromString(told.SerializeToString())
