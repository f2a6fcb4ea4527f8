"""VACO: align the advantage once, then filter by total variation (arXiv 2603.01365)."""

from __future__ import annotations

from torch import Tensor
from vaco.job import VacoAlgorithm

from vaco_learner.algorithms.base import Algorithm, Minibatch, PolicyLoss
from vaco_learner.align import Aligned, Steps, gae, normalise_kept, vtrace
from vaco_learner.filter import Filtered, filter_fragments, filter_minibatch


class Vaco(Algorithm):
    """L = -mean(keep * A * pi/beta), the mean being over dropped samples too."""

    def __init__(self, spec: VacoAlgorithm) -> None:
        super().__init__(spec.gamma, spec.lam)
        self._spec = spec
        self.realign = spec.realign
        self._threshold = spec.delta / 2 if spec.threshold == "halfDelta" else spec.delta
        self.threshold = self._threshold if spec.filter_ else None
        self.normalises = spec.normalise_advantages and spec.filter_ and spec.normalise_after_filter

    def align(self, steps: Steps, log_rho_TB: Tensor) -> Aligned:
        """Align by V-trace; take GAE where `realign` is `never`."""
        spec = self._spec
        if spec.realign == "never":
            return gae(steps, gamma=spec.gamma, lam=spec.lam)
        return vtrace(
            steps,
            log_rho_TB,
            gamma=spec.gamma,
            lam=spec.lam,
            rho_bar=spec.rho_bar,
            c_bar=spec.c_bar,
            form=spec.advantage,
        )

    def policy_loss(self, minibatch: Minibatch) -> PolicyLoss:
        """Return the importance-weighted surrogate of what the filter keeps."""
        advantage_N = minibatch.advantage_N
        if not self._spec.filter_:
            return PolicyLoss(-(advantage_N * minibatch.ratio_N).mean())
        filtered = self._filter(minibatch)
        if self.normalises:
            advantage_N = normalise_kept(advantage_N, filtered.keep_N)
        return PolicyLoss(-(filtered.keep_N * advantage_N * minibatch.ratio_N).mean(), filtered)

    def _filter(self, minibatch: Minibatch) -> Filtered:
        logps, advantage_N, anchor = minibatch.logps, minibatch.advantage_N, self._spec.tv_anchor
        if self._spec.filter_scope == "minibatch":
            return filter_minibatch(logps, advantage_N, anchor, self._threshold)
        return filter_fragments(
            logps,
            advantage_N,
            anchor,
            self._threshold,
            minibatch.fragment_N,
            minibatch.fragments,
        )
