"""Fragments of environments: builds them and the policy, rolls out, and plays evaluations."""

import threading
from collections.abc import Callable

from vaco.errors import UserError
from vaco.framing import MAX_FRAGMENT_BYTES
from vaco.job import VACOJob
from vaco.trajectory import Fragment
from vaco.v1 import trajectory_pb2 as pb
from vaco.weights import Weights
from vaco_policy.policy import Policy
from vaco_policy.seeding import derive

from vaco_actor.environments import make_vector_env
from vaco_actor.given_up import Lost
from vaco_actor.identity import ActorIdentity
from vaco_actor.mailbox import Mailbox
from vaco_actor.play import MAX_ENVIRONMENTS, play
from vaco_actor.rollout import Rollout, RolloutSettings
from vaco_actor.vector_environment import VectorEnvironment


class EnvironmentProducer:
    """Implements `vaco_actor.producer.Producer` for gymnasium's environments.

    The environments are made here, before any thread is: some fork worker processes.

    Args:
        job: With `metadata.uid`.
        identity: Of this actor.
        mailbox: Where newer weights appear.
        stepped: Called after every step.

    Raises:
        UserError: The environment or the policy cannot be built.

    """

    def __init__(
        self,
        job: VACOJob,
        identity: ActorIdentity,
        mailbox: Mailbox,
        stepped: Callable[[], None],
    ) -> None:
        parts, rollout = job.spec.control, job.spec.rollout
        self._task = parts.task
        self._threads = job.spec.actors.threads
        self._stepped = stepped
        self._environment = make_vector_env(
            parts.task,
            rollout.environments_per_actor,
            derive(job.spec.seed, "actor", identity.index, identity.incarnation, "environments"),
            threads=self._threads,
        )
        try:
            _check_size(self._environment, rollout.fragment_length)
            self._policy = Policy(parts.policy, self._environment.spaces)
            settings = _rollout_settings(identity, job)
            self._rollout = Rollout(self._environment, self._policy, mailbox, settings, stepped)
        except BaseException:
            self.close()
            raise

    @property
    def contract(self) -> str:
        """The spaces."""
        return self._environment.spaces.to_json()

    @property
    def task(self) -> str:
        """The environment's id."""
        return self._task.environment

    @property
    def acting(self) -> Weights | None:
        """The weights that act; None before the first."""
        return self._rollout.acting

    @property
    def ready(self) -> int:
        """None: a fragment is made when it is collected."""
        return 0

    @property
    def given_up(self) -> Lost:
        """Nothing: a fragment is cut where `stop` finds it."""
        return Lost()

    def collect(self, stop: threading.Event) -> Fragment | None:
        """Roll out the next fragment; see `Rollout.collect`."""
        return self._rollout.collect(stop)

    def evaluate(
        self, request: pb.EvaluationRequest, stop: threading.Event
    ) -> pb.EvaluationResult | None:
        """Play episodes with the policy's most likely actions, in environments of their own."""
        weights = self._rollout.adopt_weights()
        task = self._task
        if task.vectorisation == "async":
            # Worker processes are forked, which gRPC's threads do not survive.
            task = task.model_copy(update={"vectorisation": "sync"})
        count = min(request.episodes, MAX_ENVIRONMENTS)
        with make_vector_env(task, count, request.seed, threads=self._threads) as environment:
            played = play(
                environment, self._policy, request.episodes, stop, lambda _: self._stepped()
            )
        if played is None:
            return None
        return pb.EvaluationResult(
            request_id=request.request_id,
            version=weights.version,
            returns=played.returns,
            lengths=played.lengths,
        )

    def close(self) -> None:
        """Close the environments."""
        self._environment.close()


def _check_size(environment: VectorEnvironment, length: int) -> None:
    """Refuse fragments that would be too large for the wire, before any is made."""
    one = environment.observation_buffers()
    size = (length + 1) * sum(values.nbytes for values in one.values())
    if size > MAX_FRAGMENT_BYTES:
        raise UserError(
            "spec.rollout",
            f"the observations of one fragment take {size} bytes, over {MAX_FRAGMENT_BYTES}",
            "Lower `fragmentLength` or `environmentsPerActor`.",
        )


def _rollout_settings(identity: ActorIdentity, job: VACOJob) -> RolloutSettings:
    parts = job.spec.control
    return RolloutSettings(
        job_uid=job.metadata.uid or "",
        actor_id=identity.actor_id,
        actor_incarnation=identity.incarnation,
        fragment_length=job.spec.rollout.fragment_length,
        gamma=parts.algorithm.gamma,
        reward_bound=parts.task.reward_bound,
        seed=derive(job.spec.seed, "actor", identity.index, identity.incarnation, "actions"),
    )
