"""Admission: every fragment that arrives gets its place in the ledger, or its fate at once.

The questions, in this order, and the first that decides ends it:

1. Is it of this job and of the actor whose stream it came on?     no: rejected
2. Was it had before?                                              yes: duplicate
3. Is it well-formed, and can it be trained on (shape, NaN, ...)?   no: rejected
4. Were its weights published?                                     no: rejected
5. Do the weights being trained descend from its weights?          no: stale
6. It waits in the buffer.

A duplicate of a fragment that still waits gets no answer of its own: the actor must keep it until
the fate of the first copy is final, or a crash of the learner would lose it.

When training is complete, admission closes. What comes later is not looked at: it counts as not
received, and its actor is about to be sent home.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vaco.experience import Experience, ExperienceSpec, IncomingExperience
from vaco.trajectory import FragmentId, MalformedFragment

from vaco_learner.buffer import FragmentBuffer
from vaco_learner.deliveries import Delivery
from vaco_learner.ledger import Fate, Ledger, LedgerCounts
from vaco_learner.lineage import Lineage
from vaco_learner.roster import Actor, ActorRecord, Roster


@dataclass(frozen=True, slots=True)
class Settlement:
    """The final fate of a fragment, for the actor to hear.

    Attributes:
        actor_id: whose.
        incarnation: of the actor.
        sequence: of the fragment.
        fate: what became of it.
        reason: why it was not trained; empty if it was.

    """

    actor_id: str
    incarnation: int
    sequence: int
    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Ledger and deliveries of one moment."""

    counts: LedgerCounts
    actors: tuple[ActorRecord, ...]


class Admission:
    """Decides what arrives, and books what becomes of it.

    Thread-safe: ingest offers, the training thread decides; both under the ledger's lock.

    Args:
        job_uid: fragments of another job are rejected.
        spec: what a fragment must look like.
        lineage: of the weights being trained.
        published: returns the newest version that this learner published; -1: none yet.
        ledger: the totals.
        roster: the actors.
        buffer: where admitted fragments wait.

    """

    def __init__(
        self,
        job_uid: str,
        spec: ExperienceSpec,
        lineage: Lineage,
        published: Callable[[], int],
        ledger: Ledger,
        roster: Roster,
        buffer: FragmentBuffer,
    ) -> None:
        self._job_uid = job_uid
        self._spec = spec
        self._lineage = lineage
        self._published = published
        self._ledger = ledger
        self._roster = roster
        self._buffer = buffer
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether a fragment may be offered."""
        return self._buffer.has_room

    @property
    def queued(self) -> int:
        """Samples that wait for training."""
        return self._buffer.samples

    def connect(self, actor_id: str, incarnation: int) -> Actor:
        """Take in an actor that opened a stream.

        Raises:
            ActorRefusedError: it must not connect.

        """
        with self._ledger.lock:
            return self._roster.connect(actor_id, incarnation)

    def disconnect(self, actor: Actor) -> None:
        """Note that an actor's last stream is closed."""
        with self._ledger.lock:
            actor.connected = False

    def offer(self, actor: Actor, incoming: IncomingExperience) -> Settlement | None:
        """Take a fragment that arrived on the stream of `actor`; the buffer must have room.

        Called by one thread only, so that what is new stays new while it is examined.

        Returns:
            Its fate, or None if that is still open; always None once admission is closed.

        """
        if self._closed:
            return None
        try:
            sequence = self._identify(actor, incoming).sequence
        except MalformedFragment as error:
            return self._arrived(actor, incoming, Fate.REJECTED, str(error))
        with self._ledger.lock:
            state = actor.log.state_of(sequence)
        if state is Delivery.DECIDED:
            return self._arrived(actor, incoming, Fate.DUPLICATE, "decided before")
        if state is Delivery.QUEUED:
            self._arrived(actor, incoming, Fate.DUPLICATE, "queued")
            return None
        return self._offer_new(actor, incoming)

    def trained(
        self, fragments: Sequence[Experience], lags: Sequence[float], filtered: int
    ) -> list[Settlement]:
        """Book a batch that was trained.

        Args:
            fragments: taken from the buffer.
            lags: of each, in versions.
            filtered: how many of their samples gave no policy gradient at some steps.

        Raises:
            LedgerError: they were not queued.

        """
        with self._ledger.lock:
            actors = self._decide(fragments, Fate.TRAINED)
            for actor, fragment, lag in zip(actors, fragments, lags, strict=True):
                if actor is not None:
                    actor.trained += fragment.samples
                    actor.lags.append(lag)
            self._ledger.filtered(filtered)
        return [_settlement(fragment.id, Fate.TRAINED, "") for fragment in fragments]

    def stale(self, fragments: Sequence[Experience], reason: str) -> list[Settlement]:
        """Book fragments that were taken from the buffer and are too old to be trained.

        Raises:
            LedgerError: they were not queued.

        """
        with self._ledger.lock:
            self._decide(fragments, Fate.STALE)
        return [_settlement(fragment.id, Fate.STALE, reason) for fragment in fragments]

    def close(self) -> None:
        """Take in no more: from now on the ledger changes by what becomes of the queued only."""
        with self._ledger.lock:
            self._closed = True

    def snapshot(self) -> Snapshot:
        """Return what a checkpoint keeps: the ledger without what is queued, and the actors."""
        with self._ledger.lock:
            return Snapshot(self._ledger.counts().without_queued(), self._roster.records())

    def _identify(self, actor: Actor, incoming: IncomingExperience) -> FragmentId:
        identity = FragmentId.from_proto(incoming.head.id)
        for field, expected, found in (
            ("job_uid", self._job_uid, identity.job_uid),
            ("actor_id", actor.actor_id, identity.actor_id),
            ("actor_incarnation", actor.incarnation, identity.actor_incarnation),
        ):
            if found != expected:
                raise MalformedFragment(f"id.{field}", f"{found}, but the stream is {expected}'s")
        return identity

    def _decide(self, fragments: Sequence[Experience], fate: Fate) -> list[Actor | None]:
        """Book fragments that were queued; return whose each is."""
        self._ledger.decided(sum([fragment.samples for fragment in fragments]), fate)
        actors = [self._roster.find(fragment.id.actor_id) for fragment in fragments]
        for actor, fragment in zip(actors, fragments, strict=True):
            if actor is not None and actor.incarnation == fragment.id.actor_incarnation:
                actor.log.settle(fragment.id.sequence)
        return actors

    def _offer_new(self, actor: Actor, incoming: IncomingExperience) -> Settlement | None:
        try:
            fragment = self._spec.decode(incoming)
            self._check_versions(fragment)
        except MalformedFragment as error:
            return self._refused(actor, incoming, Fate.REJECTED, str(error))
        if not self._lineage.reached(fragment.weights_incarnation, fragment.max_version):
            return self._refused(actor, incoming, Fate.STALE, self._fenced(fragment))
        with self._ledger.lock:
            if self._closed:
                return None
            self._buffer.put(fragment)
            actor.log.queue(fragment.id.sequence)
            self._ledger.arrived(fragment.samples)
            actor.rejections = 0
            self._roster.received(actor, fragment.samples, fragment.rollout_seconds)
        return None

    def _refused(
        self, actor: Actor, incoming: IncomingExperience, fate: Fate, reason: str
    ) -> Settlement | None:
        with self._ledger.lock:
            if self._closed:
                return None
            actor.log.settle(incoming.head.id.sequence)
            return self._arrived(actor, incoming, fate, reason)

    def _check_versions(self, fragment: Experience) -> None:
        current = self._lineage.current.number
        if fragment.weights_incarnation > current:
            problem = f"{fragment.weights_incarnation}, but the learner's is {current}"
            raise MalformedFragment("weights_incarnation", problem)
        newest = self._published()
        # Of an older incarnation's versions, those that exist no more are fenced, not future.
        if fragment.weights_incarnation == current and fragment.max_version > newest:
            problem = f"{fragment.max_version} was not published yet, the newest is {newest}"
            raise MalformedFragment("max_version", problem)

    def _fenced(self, fragment: Experience) -> str:
        return (
            f"weights {fragment.max_version} of learner incarnation {fragment.weights_incarnation}"
            f" are not among the ancestors of incarnation {self._lineage.current.number}'s"
        )

    def _arrived(
        self, actor: Actor, incoming: IncomingExperience, fate: Fate, reason: str
    ) -> Settlement | None:
        # What is not decoded is believed only as far as one fragment can go.
        samples = min(incoming.claimed_samples, self._spec.max_samples)
        with self._ledger.lock:
            if self._closed:
                return None
            self._ledger.arrived(samples, fate)
            self._roster.received(actor, samples)
            actor.rejections += fate is Fate.REJECTED
        return Settlement(
            actor.actor_id, actor.incarnation, incoming.head.id.sequence, fate, reason
        )


def _settlement(identity: FragmentId, fate: Fate, reason: str) -> Settlement:
    return Settlement(
        identity.actor_id, identity.actor_incarnation, identity.sequence, fate, reason
    )
