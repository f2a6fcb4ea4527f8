"""A learner's state beyond its tensors, and its JSON in a checkpoint.

The document's digest is checked before it is read, so what is malformed here was written by
another version of vaco.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vaco.errors import UserError

from vaco_learner.deliveries import DeliveryRecord
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.ledger import LedgerCounts, LedgerError
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.progress import Accuracy
from vaco_learner.roster import ActorRecord


@dataclass(frozen=True, slots=True)
class LearnerState:
    """What a restarted learner goes on with.

    Attributes:
        version: of the weights.
        lineage: how they came about.
        counts: the ledger without what was queued.
        actors: their deliveries.
        contract: of the job: see `vaco_learner.contract_gate`.
        episodes: ended so far.
        returns: of the last of them, oldest first.
        train_seconds: so far.
        evaluation: the most recent one.
        accuracy: of all of them; None: the task has no right answers, or none was asked for yet.
        trainer: the trainer's own document.

    """

    version: int
    lineage: Lineage
    counts: LedgerCounts
    actors: tuple[ActorRecord, ...]
    contract: str
    episodes: int
    returns: tuple[float, ...]
    train_seconds: float
    evaluation: EvaluationOutcome | None
    accuracy: Accuracy | None
    trainer: Mapping[str, Any]

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "version": self.version,
            "incarnation": self.lineage.current.number,
            "lineage": [asdict(life) for life in self.lineage.incarnations],
            "ledger": asdict(self.counts),
            "actors": [asdict(actor) for actor in self.actors],
            "contract": self.contract,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "trainSeconds": self.train_seconds,
            "evaluation": None if self.evaluation is None else asdict(self.evaluation),
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "trainer": dict(self.trainer),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "LearnerState":
        """Read what `to_document` wrote.

        Raises:
            UserError: it is not that.

        """
        try:
            evaluation, accuracy = document["evaluation"], document["accuracy"]
            return cls(
                version=int(document["version"]),
                lineage=Lineage(tuple(Incarnation(**life) for life in document["lineage"])),
                counts=LedgerCounts(**document["ledger"]),
                actors=tuple(_actor(actor) for actor in document["actors"]),
                contract=str(document["contract"]),
                episodes=int(document["episodes"]),
                returns=tuple(map(float, document["returns"])),
                train_seconds=float(document["trainSeconds"]),
                evaluation=None if evaluation is None else EvaluationOutcome(**evaluation),
                accuracy=None if accuracy is None else Accuracy(**accuracy),
                trainer=document["trainer"],
            )
        except (KeyError, TypeError, ValueError, LedgerError) as error:
            cure = "Go on with the version of vaco that wrote it, or in a new run directory."
            raise UserError("state.json", f"cannot be read ({error!r})", cure) from error


def _actor(document: Mapping[str, Any]) -> ActorRecord:
    deliveries = document["deliveries"]
    record = DeliveryRecord(deliveries["last"], tuple(deliveries["undecided"]))
    return ActorRecord(**{**document, "deliveries": record})
