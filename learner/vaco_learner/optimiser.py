"""The gradient step: Adam behind a bound on the gradient's norm and a check that it is finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vaco.errors import UserError
from vaco.job import AlgorithmBase

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class NonFiniteUpdate(ArithmeticError):  # noqa: N818
    """A loss or a gradient is NaN or infinite. The step was not applied; the weights are finite."""


class Optimiser:
    """Adam over all of a policy's parameters.

    Args:
        policy: on the device where it will stay.
        spec: `adamEpsilon` and `maxGradientNorm` are used.
    """

    def __init__(self, policy: nn.Module, spec: AlgorithmBase) -> None:
        self._parameters = dict(policy.named_parameters())
        self._max_norm = spec.max_gradient_norm
        self._adam = torch.optim.Adam(
            self._parameters.values(), lr=spec.learning_rate, eps=spec.adam_epsilon, fused=True
        )

    def step(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Apply one step that lowers `loss`.

        Returns:
            The gradient's norm before it was bounded, a scalar.

        Raises:
            NonFiniteUpdate: the loss or a gradient is not finite; nothing was applied.
        """
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._max_norm)
        # One read: the device has to be waited for here, or a bad step could not be held back.
        if not math.isfinite(float(loss.detach() + norm)):
            self._adam.zero_grad(set_to_none=True)
            raise NonFiniteUpdate(f"loss {float(loss):g}, gradient norm {float(norm):g}")
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Copies of Adam's moments, by `<moment>.<parameter>`; empty before the first step."""
        return {
            f"{moment}.{name}": self._adam.state[parameter][moment].clone()
            for name, parameter in self._parameters.items()
            if parameter in self._adam.state
            for moment in _MOMENTS
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            UserError: the moments are not those of this policy.
        """
        self._adam.state.clear()
        if not state:
            return
        expected = {f"{moment}.{name}" for moment in _MOMENTS for name in self._parameters}
        if differing := sorted(expected ^ state.keys()):
            raise UserError("optimizer", f"the policy's parameters do not match: {differing[0]}")
        for name, parameter in self._parameters.items():
            moments = {moment: state[f"{moment}.{name}"] for moment in _MOMENTS}
            if moments["exp_avg"].shape != parameter.shape:
                raise UserError(
                    f"optimizer.{name}",
                    f"shape {tuple(moments['exp_avg'].shape)} is not the parameter's",
                )
            self._adam.state[parameter] = {
                moment: tensor.to(parameter.device, copy=True) for moment, tensor in moments.items()
            }
