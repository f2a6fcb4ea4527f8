"""Functions after a layer, by their names in `spec.policy.network.activation`.

torch's tanh takes three times as long on a CPU as its sigmoid, and in the small networks of control
tasks it takes as long as the matrix products. So large tensors go by
tanh(x) = 2 sigmoid(2x) - 1, which is as accurate (3e-7) as anything downstream can tell.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements from which the detour pays for its additional passes (and, with gradient, for a
# backward step in Python).
_PAYS: Final = 1 << 13
_PAYS_WITH_GRADIENT: Final = 1 << 15


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent of `x`."""
    if torch.compiler.is_exporting() or x.numel() < _PAYS or x.is_cuda:
        return torch.tanh(x)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _by_sigmoid(x)
    if x.numel() < _PAYS_WITH_GRADIENT:
        return torch.tanh(x)
    y: Tensor = _Tanh.apply(x)  # type: ignore[no-untyped-call]
    return y


def _by_sigmoid(x: Tensor) -> Tensor:
    return torch.add(x, x).sigmoid_().mul_(2.0).sub_(1.0)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _by_sigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, y)  # type: ignore[no-any-return]


ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "tanh": tanh,
    "relu": torch.relu,
    "silu": F.silu,
    "elu": F.elu,
}
