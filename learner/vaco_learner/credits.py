"""Credits: how many fragments each actor may have in flight.

What may be in flight is shared evenly. An actor that is silent keeps its share, so the others can
have all of theirs in flight and still no batch: whoever is then at its limit gets one credit more,
again and again, until a batch is queued. So one actor alone that produces fills every batch.
"""

from dataclasses import dataclass

from vaco.job import VACOJobSpec
from vaco.schema.actors import MAX_ACTORS


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the learner takes at a time and holds.

    Attributes:
        batch: samples of one phase, at least.
        queue: bound of the buffer, samples.
        in_flight: fragments that must be allowed in flight: what is queued, and one batch in
            training, whose fragments are not yet acknowledged.
        max_fragments: bound of the buffer, fragments.

    """

    batch: int
    queue: int
    in_flight: int
    max_fragments: int

    @classmethod
    def of(cls, spec: VACOJobSpec) -> "Capacity":
        """Return what a job asks for."""
        batch, batches = spec.learner.batch_size, spec.learner.buffer_batches
        rollout = spec.rollout
        fragment = (
            spec.language.sampling.group_size
            if spec.is_language
            else rollout.environments_per_actor * rollout.fragment_length
        )
        # Environments that reset in a step of their own make at least every second step a sample;
        # two batches of steps hold a batch of samples then. One more evens out the rounding.
        in_flight = -(-(batches + 1) * batch // fragment) + 1
        return cls(batch, batches * batch, in_flight, in_flight + MAX_ACTORS)

    def share(self, actors: int) -> int:
        """Return each actor's share of what may be in flight when so many are connected.

        The shares add up to at least `in_flight`; where they add up to more, the buffer's bound
        holds and the streams wait.
        """
        return max(1, -(-self.in_flight // max(1, actors)))


def credits_due(held: int, in_flight: int, share: int, *, starving: bool) -> int:
    """Return the credits of an actor that holds some.

    Args:
        held: its credits.
        in_flight: its fragments that are not answered.
        share: its share of what may be in flight.
        starving: whether training waits for fragments that there would be room for.

    """
    if starving and in_flight >= held:
        return in_flight + 1
    return share if in_flight < share else held
