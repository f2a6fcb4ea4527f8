"""Where a learner begins: at version 0, or at the newest complete checkpoint."""

from dataclasses import dataclass
from typing import Final

from vaco.checkpoints import checkpoint_name
from vaco.errors import UserError
from vaco.job import StopSpec

from vaco_learner.checkpoint import Checkpoint, CheckpointStore
from vaco_learner.claims import Claim, Claims, FencedError, HighWater
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.progress import Progress, Standing
from vaco_learner.state import LearnerState
from vaco_learner.windows import ReturnWindow

_DEFAULT_RETURN_EPISODES: Final = 100
_ATTEMPTS: Final = 16
"""Learners that may begin in one directory at the same moment, which a replaced one can do."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What this incarnation of the learner begins with.

    Attributes:
        claim: to the run directory.
        lineage: its own incarnation is the last.
        version: under which it publishes what it begins with; above all that was published.
        checkpoint_version: of the checkpoint it begins with; None: with fresh weights.
        state: what the checkpoint has beside its tensors.

    """

    claim: Claim
    lineage: Lineage
    version: int
    checkpoint_version: int | None
    state: LearnerState | None


def begin(
    store: CheckpointStore, claims: Claims, least: int = 1
) -> tuple[Beginning, Checkpoint | None]:
    """Claim the run directory, and read the newest checkpoint.

    Args:
        store: of the checkpoints.
        claims: to the directory.
        least: the new incarnation's number at least.

    Returns:
        What the learner begins with, and the checkpoint's tensors, which nobody needs any more once
        the policy has them: they are larger than the policy.

    Raises:
        UserError: no checkpoint is whole though there are some; the newest, or a claim, is another
            job's or cannot be read.
        FencedError: other learners take the directory again and again.

    """
    known = max(least - 1, store.newest_incarnation())
    for _ in range(_ATTEMPTS):
        earlier = claims.newest() or HighWater(0, 0)
        try:
            claim = claims.stake(max(known, earlier.incarnation) + 1)
        except FileExistsError:
            continue
        # Read after the claim is made: from now on an earlier learner adds nothing.
        beginning, checkpoint = _read(claim, store, claims.newest() or HighWater(0, 0))
        claim.release(beginning.version)
        claims.tidy()
        return beginning, checkpoint
    raise FencedError(f"{_ATTEMPTS} other learners began in this run directory just now")


def earlier_returns(beginning: Beginning, stop: StopSpec) -> ReturnWindow:
    """Return the window of the last episodes' returns, with those that the checkpoint kept."""
    episodes = stop.return_.episodes if stop.return_ is not None else _DEFAULT_RETURN_EPISODES
    state = beginning.state
    if state is None:
        return ReturnWindow(episodes)
    return ReturnWindow(episodes, state.returns, state.episodes)


def note_beginning(beginning: Beginning, returns: ReturnWindow, progress: Progress) -> None:
    """Let `progress` begin where the learner does, so that nobody ever sees it fall back."""
    standing = Standing(
        version=beginning.version,
        episodes=returns.ended,
        return_mean=returns.mean,
        return_episodes=returns.episodes,
    )
    incarnation, state = beginning.lineage.current.number, beginning.state
    if beginning.checkpoint_version is None or state is None:
        progress.restored(incarnation, standing, 0.0, None, None)
        return
    progress.restored(incarnation, standing, state.train_seconds, state.evaluation, state.accuracy)
    progress.checkpointed(beginning.checkpoint_version)


def _read(
    claim: Claim, store: CheckpointStore, mark: HighWater
) -> tuple[Beginning, Checkpoint | None]:
    checkpoint = store.newest()
    if checkpoint is None:
        # Of what was published before a crash, if anything was, nothing is known any more.
        version = mark.version + 1 if mark.version > 0 else 0
        lineage = Lineage((Incarnation(claim.number, 0, version),))
        return Beginning(claim, lineage, version, None, None), None
    try:
        state = LearnerState.from_document(checkpoint.state)
    except UserError as error:
        where = f"checkpoints/{checkpoint_name(checkpoint.version)}/{error.path}"
        raise UserError(where, error.problem, error.cure) from error
    restored = state.version
    # A checkpoint of the newest published version is that version: no number is skipped.
    version = restored if mark.version <= restored else mark.version + 1
    lineage = state.lineage.restarted(claim.number, restored, version)
    store.set_aside_damaged()
    return Beginning(claim, lineage, version, checkpoint.version, state), checkpoint
