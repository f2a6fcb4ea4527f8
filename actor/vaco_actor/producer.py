"""What makes an actor's fragments, whatever the task; the program around it is the same for all."""

import threading
from collections.abc import Callable
from typing import Protocol

from vaco.experience import Experience
from vaco.job import VACOJob
from vaco.v1 import trajectory_pb2 as pb
from vaco.weights import Weights

from vaco_actor.given_up import Lost
from vaco_actor.identity import ActorIdentity
from vaco_actor.mailbox import Mailbox


class Producer(Protocol):
    """Acts with the newest weights of a mailbox, which has some before anything is called."""

    @property
    def contract(self) -> str:
        """What learner and actor must agree on, as JSON: the environment's spaces, or the model."""

    @property
    def task(self) -> str:
        """What it acts on, in a word or two, for errors."""

    @property
    def acting(self) -> Weights | None:
        """The weights that act; None before the first."""

    @property
    def ready(self) -> int:
        """How many fragments `collect` has to return even if `stop` is set."""

    @property
    def given_up(self) -> Lost:
        """What was begun and not complete when `stop` was set, so that no fragment has it."""

    def collect(self, stop: threading.Event) -> Experience | None:
        """Make the next fragment, or what there is of it when `stop` is set; None: nothing.

        Raises:
            UserError: what must not reach the learner, and would come again.

        """

    def evaluate(
        self, request: pb.EvaluationRequest, stop: threading.Event
    ) -> pb.EvaluationResult | None:
        """Evaluate the newest weights; None if `stop` was set meanwhile."""

    def close(self) -> None:
        """Let go of environments and processes."""


def make_producer(
    job: VACOJob, identity: ActorIdentity, mailbox: Mailbox, stepped: Callable[[], None]
) -> Producer:
    """Build the producer that the job's task asks for.

    Args:
        job: With `metadata.uid`.
        identity: Of this actor.
        mailbox: Where newer weights appear.
        stepped: Called after every step, or token.

    Raises:
        UserError: What a restart would not mend.

    """
    # Each imports what only its own kind of task needs.
    if job.spec.is_language:
        from vaco_actor.language.producer import LanguageProducer

        return LanguageProducer(job, identity, mailbox, stepped)
    from vaco_actor.environment_producer import EnvironmentProducer

    return EnvironmentProducer(job, identity, mailbox, stepped)
