"""Likelihood ratios that cannot overflow.

A single action that one policy finds e^100 times likelier than the other would turn a float32 batch
into infinities. Log-ratios are therefore held within +-20, far beyond any ratio that carries
information.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0


def bounded(log_ratio: Tensor) -> Tensor:
    """Hold a log-ratio within the bound, and let its gradient pass also beyond it.

    A plain clamp has no gradient beyond its bound, which would silence exactly the samples that
    have drifted furthest.
    """
    free = log_ratio.detach()
    excess = free - free.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return log_ratio - excess


def likelihood_ratio(log_ratio: Tensor) -> Tensor:
    """Return exp of the bounded log-ratio; its gradient is the ratio times the log-ratio's."""
    return torch.exp(bounded(log_ratio))
