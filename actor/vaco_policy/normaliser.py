"""Running normalisation of observations and of rewards.

Both are modules whose statistics are float64 buffers, so they are part of the weights: learned in
one place (the learner, once per phase, from valid samples only), versioned, published to all actors
exactly (never as bfloat16), and checkpointed with everything else.
"""

import torch
from torch import Tensor, nn

_EPSILON = 1e-8
CLIP = 10.0
"""Normalised observations and rewards stay within plus and minus this."""


class RunningNormaliser(nn.Module):
    """Brings each of D features to mean 0 and standard deviation 1 over all data seen so far.

    Before any data it changes nothing but the clip.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    _shift: Tensor
    _scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # What `forward` uses, in its own precision: derived, so not part of the weights.
        self.register_buffer("_shift", torch.zeros(size), persistent=False)
        self.register_buffer("_scale", torch.ones(size), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 `features` [..., D] normalised and clipped."""
        return torch.addcmul(self._shift, features, self._scale).clamp_(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in more data, [..., D]; an empty batch changes nothing.

        Two sets of data are merged by the parallel form of Welford's algorithm (Chan, Golub and
        LeVeque, 1979), so the result does not depend on how the data was cut into batches.
        """
        batch = features.reshape(-1, self.mean.shape[0]).double()
        if batch.shape[0] == 0:
            return
        var, mean = torch.var_mean(batch, dim=0, correction=0)
        _merge(self.mean, self.var, self.count, mean, var, batch.shape[0])
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Derive what `forward` uses from the statistics, after they were loaded or changed."""
        scale = (self.var + _EPSILON).rsqrt()
        self._scale.copy_(scale)
        self._shift.copy_(-self.mean * scale)


class ReturnNormaliser(nn.Module):
    """Divides rewards by the standard deviation of their discounted sums.

    Rewards are not centred: that would change what is optimal. The sums run forward in time,
    R_t = r_t + gamma * R_{t-1}, and start anew with each episode, as in gymnasium's
    `NormalizeReward` and its predecessor in OpenAI's baselines.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("var", torch.ones((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(
        self,
        rewards_TB: Tensor,
        done_TB: Tensor,
        valid_TB: Tensor,
        carry_B: Tensor,
        gamma: float,
    ) -> None:
        """Take in the discounted sums of one batch.

        Args:
            rewards_TB: float32 [T, B], as the environment gave them.
            done_TB: bool [T, B]: the episode ended with this step.
            valid_TB: bool [T, B]: steps that are samples; the others are passed over.
            carry_B: float32 [B]: the discounted sum before step 0.
            gamma: Discount per step.

        """
        sums = discounted_sums(rewards_TB, done_TB, valid_TB, carry_B, gamma)[valid_TB]
        if sums.numel() == 0:
            return
        var, mean = torch.var_mean(sums, correction=0)
        _merge(self.mean, self.var, self.count, mean, var, sums.numel())

    def scale(self) -> Tensor:
        """Return the float32 scalar that rewards are multiplied with; 1 before any data."""
        return (self.var + _EPSILON).rsqrt().float()

    def forward(self, rewards: Tensor) -> Tensor:
        """Return rewards of any shape scaled and clipped."""
        return (rewards * self.scale()).clamp_(-CLIP, CLIP)


def discounted_sums(
    rewards_TB: Tensor, done_TB: Tensor, valid_TB: Tensor, carry_B: Tensor, gamma: float
) -> Tensor:
    """Return float64 R [T, B]: R_t = r_t + gamma * R_{t-1}, zero before an episode's first step.

    An invalid step repeats what was carried before it.
    """
    reward = torch.where(valid_TB, rewards_TB, 0.0).double()
    discount = torch.where(valid_TB, torch.full_like(reward, gamma), 1.0)
    keep = (~(done_TB & valid_TB)).double()
    sums, carry = torch.empty_like(reward), carry_B.double()
    for t in range(reward.shape[0]):
        torch.addcmul(reward[t], discount[t], carry, out=sums[t])
        carry = sums[t] * keep[t]
    return sums


def _merge(mean: Tensor, var: Tensor, count: Tensor, m: Tensor, v: Tensor, n: int) -> None:
    """Merge (m, v, n) into (mean, var, count), in place."""
    total = count + n
    delta = m - mean
    squares = var * count + v * n + delta.square() * (count * n / total)
    mean.add_(delta * (n / total))
    var.copy_(squares / total)
    count.copy_(total)
