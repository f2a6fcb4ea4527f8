"""The algorithms that `spec.algorithm.name` chooses from."""

from __future__ import annotations

from vaco.job import (
    ActorCriticAlgorithm,
    ImpalaAlgorithm,
    PpoAlgorithm,
    PpoKlAlgorithm,
    SpoAlgorithm,
    VacoAlgorithm,
)

from vaco_learner.algorithms.base import Algorithm, Minibatch, PolicyLoss, kl_from_behaviour
from vaco_learner.algorithms.impala import Impala
from vaco_learner.algorithms.ppo import Ppo
from vaco_learner.algorithms.ppo_kl import PpoKl
from vaco_learner.algorithms.spo import Spo
from vaco_learner.algorithms.vaco import Vaco

__all__ = ["Algorithm", "Minibatch", "PolicyLoss", "kl_from_behaviour", "make_algorithm"]


def make_algorithm(spec: ActorCriticAlgorithm) -> Algorithm:
    """Build the algorithm that a job asks for."""
    match spec:
        case VacoAlgorithm():
            return Vaco(spec)
        case PpoAlgorithm():
            return Ppo(spec)
        case PpoKlAlgorithm():
            return PpoKl(spec)
        case SpoAlgorithm():
            return Spo(spec)
        case ImpalaAlgorithm():
            return Impala(spec)
        case _:
            raise TypeError(f"{type(spec).__name__} has no implementation")
