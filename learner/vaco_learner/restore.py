"""Where a learner begins: at version 0, or at the newest complete checkpoint."""

from dataclasses import dataclass

from vaco.errors import UserError
from vaco.job import StopSpec

from vaco_learner.checkpoint import Checkpoint, CheckpointStore
from vaco_learner.high_water import HighWater, HighWaterFile
from vaco_learner.lineage import Lineage
from vaco_learner.progress import Progress, Standing
from vaco_learner.state import LearnerState
from vaco_learner.windows import ReturnWindow

_DEFAULT_RETURN_EPISODES = 100


@dataclass(frozen=True, slots=True)
class Beginning:
    """What this incarnation of the learner begins with.

    Attributes:
        lineage: its own incarnation is the last.
        version: under which it publishes what it begins with; above all that was published.
        checkpoint: the tensors; None: fresh ones.
        state: the rest of the checkpoint.

    """

    lineage: Lineage
    version: int
    checkpoint: Checkpoint | None
    state: LearnerState | None


def begin(store: CheckpointStore, high_water: HighWaterFile) -> Beginning:
    """Read the newest checkpoint, and make this incarnation's number its own, on the disk.

    Raises:
        UserError: the checkpoint or the high-water mark is another job's, or cannot be read.

    """
    mark = high_water.read()
    checkpoint = store.newest()
    if checkpoint is None and mark is None:
        beginning = Beginning(Lineage.first(), 0, None, None)
    else:
        beginning = _again(checkpoint, mark or HighWater(0, 0))
    number = beginning.lineage.current.number
    high_water.write(HighWater(number, beginning.version))
    return beginning


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
    if beginning.checkpoint is None or state is None:
        progress.restored(incarnation, standing, 0.0, None)
        return
    progress.restored(incarnation, standing, state.train_seconds, state.evaluation)
    progress.checkpointed(beginning.checkpoint.version)


def _again(checkpoint: Checkpoint | None, mark: HighWater) -> Beginning:
    if checkpoint is None:
        # Nothing was saved before the crash; the seed makes the same version 0 again.
        lineage, restored, state = Lineage.first(), 0, None
    else:
        try:
            state = LearnerState.from_document(checkpoint.state)
        except UserError as error:
            where = f"checkpoints/v{checkpoint.version:09d}/{error.path}"
            raise UserError(where, error.problem, error.cure) from error
        lineage, restored = state.lineage, state.version
    number = max(mark.incarnation, lineage.current.number) + 1
    # A checkpoint of the newest published version is that version: no number is skipped.
    version = restored if mark.version <= restored else mark.version + 1
    return Beginning(lineage.restarted(number, restored, version), version, checkpoint, state)
