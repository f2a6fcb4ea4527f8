"""Group-relative advantages: how much better a completion is than the others of its prompt."""

from __future__ import annotations

import torch
from torch import Tensor

_DEVIATION_FLOOR = 1e-6


@torch.no_grad()
def group_advantages(
    reward_S: Tensor, group_S: Tensor, groups: int, *, size: int, scale: bool
) -> Tensor:
    """Return reward minus the group's mean, [S] float32 (GRPO, arXiv 2402.03300, without its sign).

    Completions without tokens count: they earned their reward too. A group that is not whole has
    advantage 0: what an actor that has to leave hands over of a group are the completions that
    ended early, and their mean would be the mean of short ones.

    Args:
        reward_S: of each completion.
        group_S: int64, its group, in 0..groups-1.
        groups: how many there are.
        size: completions of a whole group.
        scale: whether to divide by the group's standard deviation (of the group as it is, not
            estimated for a larger one); a group without any has advantage 0.

    """
    # Sums of float32 numbers are exact in float64 here: equal rewards give exactly 0.
    exact_S = reward_S.double()
    zeros_G = exact_S.new_zeros(groups)
    count_G = zeros_G.index_add(0, group_S, torch.ones_like(exact_S)).clamp(min=1)
    centred_S = exact_S - (zeros_G.index_add(0, group_S, exact_S) / count_G)[group_S]
    if scale:
        variance_G = zeros_G.index_add(0, group_S, centred_S.square()) / count_G
        centred_S = centred_S / (variance_G.sqrt() + _DEVIATION_FLOOR)[group_S]
    centred_S = torch.where((count_G >= size)[group_S], centred_S, 0.0)
    return centred_S.float()
