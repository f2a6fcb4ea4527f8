"""The gradient step: Adam behind a bound on the gradient's norm and a check that it is finite.

Adam is called as a function, with its moments kept here: building a `torch.optim` optimizer imports
torch's compiler, which costs a learner seconds at its start, and the moments can be checkpointed by
the names of their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from vaco.errors import UserError
from vaco.job import Optimisation

_BETA1, _BETA2 = 0.9, 0.999
_MEAN, _SQUARE, _STEP = "exp_avg", "exp_avg_sq", "step"


class NonFiniteUpdate(ArithmeticError):  # noqa: N818 - it names the update, as callers speak of it
    """A loss or a gradient is NaN or infinite. The step was not applied; the weights are finite."""


class Optimiser:
    """Adam (Kingma and Ba, 2015) over all of a policy's parameters that are trained.

    Args:
        policy: on the device where it will stay.
        spec: `adamEpsilon` and `maxGradientNorm` are used.

    """

    def __init__(self, policy: nn.Module, spec: Optimisation) -> None:
        trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        self._names = list(trained)
        self._parameters: list[Tensor] = list(trained.values())
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), device=p.device) for p in self._parameters]
        self._epsilon = spec.adam_epsilon
        self._max_norm = spec.max_gradient_norm

    def step(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Apply one step that lowers `loss`.

        Returns:
            The gradient's norm before it was bounded, a scalar.

        Raises:
            NonFiniteUpdate: the loss or a gradient is not finite; nothing was applied.

        """
        self.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        return self.apply(loss.detach(), learning_rate)

    def clear(self) -> None:
        """Forget gradients: those of a step that may come in several backward passes."""
        for parameter in self._parameters:
            parameter.grad = None

    def apply(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Apply one step along the gradients that have gathered since `clear`.

        Args:
            loss: what they are the gradients of, a scalar without gradient.
            learning_rate: of this step.

        Returns:
            The gradient's norm before it was bounded, a scalar.

        Raises:
            NonFiniteUpdate: the loss or a gradient is not finite; nothing was applied.

        """
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        # One read: the device has to be waited for here, or a bad step could not be held back.
        if not math.isfinite(float(loss + norm)):
            raise NonFiniteUpdate(f"loss {float(loss):g}, gradient norm {float(norm):g}")
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        self._apply(gradients, learning_rate)
        return norm

    @torch.no_grad()
    def _apply(self, gradients: list[Tensor], learning_rate: float) -> None:
        adam(
            self._parameters,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=learning_rate,
            weight_decay=0.0,
            eps=self._epsilon,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Return copies of Adam's moments on the CPU, by `<moment>.<parameter>`."""
        return {name: moment.to("cpu", copy=True) for name, moment in self._moments().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            UserError: the moments are not those of this policy; nothing was loaded.

        """
        own = self._moments()
        if differing := sorted(own.keys() ^ state.keys()):
            raise UserError("optimizer", f"not this policy's moments: {differing[0]}")
        for name, moment in own.items():
            if moment.shape != state[name].shape:
                problem = f"shape {tuple(state[name].shape)}, expected {tuple(moment.shape)}"
                raise UserError(f"optimizer.{name}", problem)
        for name, moment in own.items():
            moment.copy_(state[name])

    def _moments(self) -> dict[str, Tensor]:
        kinds = {_MEAN: self._means, _SQUARE: self._squares, _STEP: self._steps}
        return {
            f"{kind}.{name}": moment
            for kind, moments in kinds.items()
            for name, moment in zip(self._names, moments, strict=True)
        }


def scheduled_rate(spec: Optimisation, samples: int, total_samples: int | None) -> float:
    """Return a phase's learning rate: constant, or on its way to zero at `stop.envSteps`.

    Args:
        spec: `learningRate` and its schedule are used.
        samples: trained on so far.
        total_samples: `stop.envSteps`.

    """
    if spec.learning_rate_schedule == "constant" or total_samples is None:
        return spec.learning_rate
    return spec.learning_rate * max(0.0, 1.0 - samples / total_samples)
