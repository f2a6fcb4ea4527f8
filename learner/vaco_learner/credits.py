"""Credits: how many fragments each actor may have in flight."""

from dataclasses import dataclass

from vaco.job import VACOJobSpec

from vaco_learner.roster import MAX_ACTORS


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
        fragment = spec.rollout.environments_per_actor * spec.rollout.fragment_length
        # Environments that reset in a step of their own make at least every second step a sample;
        # two batches of steps hold a batch of samples then. One more evens out the rounding.
        in_flight = -(-(batches + 1) * batch // fragment) + 1
        return cls(batch, batches * batch, in_flight, in_flight + MAX_ACTORS)

    def credits(self, actors: int) -> int:
        """Return each actor's share of what may be in flight when so many are connected.

        The shares add up to at least `in_flight`, so a batch always comes together; where they add
        up to more, the buffer's bound holds and the streams wait.
        """
        return max(1, -(-self.in_flight // max(1, actors)))
