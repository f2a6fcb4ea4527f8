"""Groups of completions, made in batches of prompts, for the learner; and held-out evaluations."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from vaco.completions import CompletionGroup
from vaco.identity import FragmentId
from vaco.job import VACOJob
from vaco.v1 import trajectory_pb2 as pb
from vaco.weights import Weights
from vaco_policy.language.model import LanguageModel
from vaco_policy.language.problems import EncodedProblem
from vaco_policy.parameters import load_payload, payload_bound
from vaco_policy.seeding import derive

from vaco_actor.given_up import Lost
from vaco_actor.identity import ActorIdentity
from vaco_actor.language.generate import Backend, Completion, Hooks, TransformersBackend
from vaco_actor.language.held_out import Judge, answer, chosen
from vaco_actor.language.prepare import prepare
from vaco_actor.mailbox import Mailbox


class LanguageProducer:
    """Implements `vaco_actor.producer.Producer` for language models.

    Args:
        job: With `metadata.uid`.
        identity: Of this actor.
        mailbox: Where newer weights appear.
        stepped: Called after every token, and after every reward.

    Raises:
        UserError: The model, the problems or the reward are not what the manifest says.

    """

    def __init__(
        self,
        job: VACOJob,
        identity: ActorIdentity,
        mailbox: Mailbox,
        stepped: Callable[[], None],
    ) -> None:
        parts = job.spec.language
        seed = derive(job.spec.seed, "actor", identity.index, identity.incarnation)
        self._identity = identity
        self._job_uid = job.metadata.uid or ""
        self._sampling = parts.sampling
        self._mailbox = mailbox
        self._stepped = stepped
        ready = prepare(job)
        self._model, self._held_out = ready.model, ready.held_out
        self._judge = Judge(ready.model, ready.reward, stepped)
        self._problems = _endless(ready.training, derive(seed, "problems"))
        self._contract = self._model.contract()
        mailbox.max_bytes = payload_bound(self._model.published)
        self._backend = _backend(job, self._model, derive(seed, "tokens"))
        self._prompts = _prompts_at_once(job)
        self._loaded: Weights | None = None
        self._sequence = 0
        self._ready: deque[CompletionGroup] = deque()
        self._given_up = Lost()

    @property
    def contract(self) -> str:
        """The model's: vocabulary, tokenizer, names and shapes of the weights."""
        return self._contract

    @property
    def task(self) -> str:
        """The model's name."""
        return f"the language model {self._model.name}"

    @property
    def acting(self) -> Weights | None:
        """The weights that act; None before the first."""
        return self._loaded

    @property
    def ready(self) -> int:
        """Groups that were made together with the last one."""
        return len(self._ready)

    @property
    def given_up(self) -> Lost:
        """Completions that were not complete when `stop` was set, and the groups they are of."""
        return self._given_up

    def collect(self, stop: threading.Event) -> CompletionGroup | None:
        """Return the next group; None: there is none, and `stop` is set.

        When `stop` is set meanwhile, the completions that are complete then make groups of fewer,
        and the others are lost. Groups that are ready are still returned, one at each call.

        Raises:
            UserError: A reward that must not reach the learner.
            LookupError: There are no weights yet.

        """
        while not self._ready and not stop.is_set():
            self._ready.extend(self._make(stop))
        return self._ready.popleft() if self._ready else None

    def evaluate(
        self, request: pb.EvaluationRequest, stop: threading.Event
    ) -> pb.EvaluationResult | None:
        """Answer held-out problems with the likeliest tokens.

        They are the first `request.episodes` in an order that `request.seed` decides, or all, if
        there are fewer. A return is a reward, and a length counts tokens.
        """
        weights = self._adopt_weights()
        answers = answer(
            chosen(self._held_out, request.episodes, request.seed),
            self._backend,
            self._judge,
            Hooks(lambda: weights.version, stop, self._stepped),
            self._sampling.prompts * self._sampling.group_size,
        )
        if answers is None:
            return None
        return pb.EvaluationResult(
            request_id=request.request_id,
            version=weights.version,
            returns=answers.rewards,
            lengths=answers.lengths,
        )

    def close(self) -> None:
        """There is nothing to let go of."""

    def _make(self, stop: threading.Event) -> Iterator[CompletionGroup]:
        """Complete the next prompts, and yield their groups."""
        began = time.perf_counter()
        self._adopt_weights()
        asked = [next(self._problems) for _ in range(self._prompts)]
        hooks = Hooks(self._version, stop, self._stepped)
        prompts = [each.prompt for each in asked]
        answered = self._backend.complete(prompts, self._sampling.group_size, hooks)
        missing = [self._sampling.group_size - len(each) for each in answered]
        self._given_up = Lost(sum(missing), sum(map(bool, missing)))
        rewards = [self._judge(*each) for each in zip(asked, answered, strict=True)]
        seconds = (time.perf_counter() - began) / len(asked)
        for problem, completions, earned in zip(asked, answered, rewards, strict=True):
            if completions:
                yield self._group(problem, completions, earned, seconds)

    def _group(
        self,
        problem: EncodedProblem,
        completions: Sequence[Completion],
        rewards: Sequence[float],
        seconds: float,
    ) -> CompletionGroup:
        assert self._loaded is not None  # noqa: S101 - there are no tokens without weights
        self._sequence += 1
        identity = self._identity
        return CompletionGroup(
            id=FragmentId(self._job_uid, identity.actor_id, identity.incarnation, self._sequence),
            weights_incarnation=self._loaded.incarnation,
            problem=problem.number,
            prompt=problem.prompt,
            tokens=np.concatenate([each.tokens for each in completions]),
            lengths=np.asarray([len(each.tokens) for each in completions], np.int32),
            behaviour_logp=np.concatenate([each.logp for each in completions]),
            versions=np.concatenate([each.versions for each in completions]),
            rewards=np.asarray(rewards, np.float32),
            finished=np.asarray([each.finished for each in completions], np.bool_),
            rollout_seconds=seconds,
        )

    def _version(self) -> int:
        """Return the version that makes the next token, after taking it over if that is wished.

        All of a group is of one incarnation of the learner: another's weights wait.
        """
        acting, newest = self._loaded, self._mailbox.newest
        if acting is None:
            raise LookupError("there are no weights to act with yet")
        if (
            self._sampling.weights_change == "inFlight"
            and newest is not None
            and newest.incarnation == acting.incarnation
        ):
            acting = self._load(newest)
        return acting.version

    def _adopt_weights(self) -> Weights:
        newest = self._mailbox.newest
        if newest is None:
            raise LookupError("there are no weights to act with yet")
        return self._load(newest)

    def _load(self, weights: Weights) -> Weights:
        if weights is not self._loaded:
            load_payload(self._model.published, weights.payload)
            self._backend.weights_changed()
            self._loaded = weights
            self._mailbox.loaded(weights)
        return weights


def _endless(problems: Sequence[EncodedProblem], seed: int) -> Iterator[EncodedProblem]:
    """Yield all problems in a random order, and then again in another."""
    generator = np.random.default_rng(seed)
    while True:
        for index in generator.permutation(len(problems)):
            yield problems[index]


def _backend(job: VACOJob, model: LanguageModel, seed: int) -> Backend:
    parts = job.spec.language
    budget = parts.task.max_completion_tokens
    if parts.sampling.backend == "vllm":
        from vaco_actor.language.vllm_backend import VllmBackend

        return VllmBackend(parts, model, seed, job.spec.learner.precision)
    return TransformersBackend(model, parts.sampling, budget, seed)


def _prompts_at_once(job: VACOJob) -> int:
    """Return how many prompts are completed at once.

    In lock-step, a batch of prompts must not reach over the end of the learner's batch: its last
    groups would be trained when there are newer weights.
    """
    sampling = job.spec.language.sampling
    if not job.spec.synchronous:
        return sampling.prompts
    groups = math.ceil(job.spec.learner.batch_size / sampling.group_size)
    return max(count for count in range(1, sampling.prompts + 1) if groups % count == 0)
