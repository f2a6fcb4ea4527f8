"""Puts the training side together, once the contract is known. Imports torch."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from vaco.errors import UserError
from vaco.job import LearnerSpec, VACOJob
from vaco.vital import Pulse
from vaco.weights_volume import weights_volume

from vaco_learner.admission import Admission
from vaco_learner.batch_source import BatchSource
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.checkpoint import Checkpoint, CheckpointStore
from vaco_learner.contract_gate import ContractGate
from vaco_learner.control import Control
from vaco_learner.credits import Capacity
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.hub import Intake
from vaco_learner.journal import Journal
from vaco_learner.ledger import Ledger
from vaco_learner.loop import Surroundings, TrainingLoop
from vaco_learner.metrics import Board, NoBoard, TensorBoard
from vaco_learner.progress import WAITS_FOR_ACTORS, Progress
from vaco_learner.publisher import Publisher
from vaco_learner.restore import Beginning
from vaco_learner.roster import Roster
from vaco_learner.server import LearnerServer
from vaco_learner.status import StatusSource
from vaco_learner.trainer import Trainer, TrainerState
from vaco_learner.windows import ReturnWindow


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there before the policy."""

    job: VACOJob
    contract: str | None
    gate: ContractGate
    run_dir: Path
    beginning: Beginning
    checkpoint: Checkpoint | None
    capacity: Capacity
    ledger: Ledger
    returns: ReturnWindow
    store: CheckpointStore
    journal: Journal
    progress: Progress
    status: StatusSource
    server: LearnerServer
    control: Control
    pulse: Pulse
    outcomes: deque[EvaluationOutcome]


@dataclass(frozen=True, slots=True)
class Assembled:
    """The loop, and what is to be closed after it, in this order."""

    loop: TrainingLoop
    closers: Sequence[Callable[[], None]]


def assemble(parts: Parts) -> Assembled:
    """Build or restore the policy, open the doors to actors, and return the training loop.

    Raises:
        UserError: the policy does not fit the spaces, the device is not there, or the checkpoint
            is not of this policy.

    """
    spec, beginning = parts.job.spec, parts.beginning
    torch.set_num_threads(spec.learner.threads)
    device = _device(spec.learner)
    trainer = make_trainer(parts.job, parts.contract, device)
    parts.gate.settle(trainer.contract)
    _restore(parts, trainer)
    publisher = Publisher(
        beginning.claim,
        trainer.contract,
        parts.server.announce,
        parts.control.crash,
        parts.server.snapshots,
        weights_volume(spec.learner.weights_transport, parts.job.metadata.uid or ""),
    )
    buffer = FragmentBuffer(
        parts.capacity.queue,
        parts.capacity.max_fragments,
        parts.capacity.in_flight * trainer.experience.max_bytes,
        parts.server.room_made,
    )
    roster = Roster(beginning.state.actors if beginning.state is not None else ())
    admission = Admission(
        job_uid=parts.job.metadata.uid or "",
        spec=trainer.experience,
        lineage=beginning.lineage,
        published=lambda: publisher.version,
        ledger=parts.ledger,
        roster=roster,
        buffer=buffer,
    )
    board: Board = (
        TensorBoard(parts.run_dir / "tensorboard") if spec.learner.tensorboard else NoBoard()
    )
    batches = BatchSource(
        buffer,
        admission,
        beginning.lineage,
        parts.capacity.batch,
        spec.learner.max_policy_lag,
        parts.server.acknowledge,
    )
    around = Surroundings(
        batches=batches,
        admission=admission,
        ledger=parts.ledger,
        publisher=publisher,
        server=parts.server,
        claim=beginning.claim,
        store=parts.store,
        journal=parts.journal,
        board=board,
        progress=parts.progress,
        control=parts.control,
        pulse=parts.pulse,
        outcomes=parts.outcomes,
    )
    loop = TrainingLoop(spec, trainer, beginning.lineage, beginning.version, parts.returns, around)
    parts.status.set_roster(roster)
    publisher.start()
    parts.server.open(Intake(admission, beginning.claim.number, beginning.version))
    return Assembled(loop, (board.close, publisher.stop))


def _restore(parts: Parts, trainer: Trainer) -> None:
    """Give the trainer what the checkpoint kept, or have it do what comes before the first one."""
    checkpoint, state = parts.checkpoint, parts.beginning.state
    if checkpoint is None or state is None:
        trainer.begin(lambda: _still_wanted(parts), parts.progress.prepares)
        parts.progress.prepares(WAITS_FOR_ACTORS)
        return
    trainer.load_state(
        TrainerState(
            policy=checkpoint.policy,
            optimizer=safetensors.torch.load(checkpoint.optimizer),
            document=dict(state.trainer),
        )
    )


def _still_wanted(parts: Parts) -> None:
    """Say that the training thread moves; raise if it shall not go on."""
    parts.pulse.beat()
    parts.control.check()


def _device(spec: LearnerSpec) -> torch.device:
    available = torch.cuda.is_available()
    if spec.device == "cuda" and not available:
        cure = "Use `auto` or `cpu`, or run the learner where there is a GPU."
        raise UserError("spec.learner.device", "cuda, but there is no GPU here", cure)
    return torch.device("cuda" if available and spec.device != "cpu" else "cpu")


def make_trainer(job: VACOJob, contract: str | None, device: torch.device) -> Trainer:
    """Build the trainer that the job's task asks for.

    Args:
        job: resolved.
        contract: what actors and checkpoint brought; None: the trainer makes it.
        device: where the policy lives.

    Raises:
        UserError: the policy cannot be built, or does not fit.

    """
    # Each imports what only its own kind of task needs.
    if job.spec.is_language:
        from vaco_learner.language.trainer import LanguageTrainer

        return LanguageTrainer(job, device)
    from vaco_learner.environment_trainer import EnvironmentTrainer

    return EnvironmentTrainer(job, contract or "", device)
