"""A policy's weights as bytes, and back.

The payload is safetensors: names, shapes and numbers, and nothing that could be executed. What
comes from the wire or the disk is checked whole against the policy at hand before any of it is
taken over, so a bad payload leaves the policy as it was. It is checked and copied where it lies:
beyond the payload and the policy, no memory is needed that grows with them.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from vaco.errors import UserError
from vaco.weights import Payload

from vaco_policy.normaliser import RunningNormaliser
from vaco_policy.payload import (
    WEIGHTS_DTYPES,
    NotSafetensorsError,
    PayloadLayout,
    Place,
    WeightsDtype,
    distinct,
    read_places,
    tensor_at,
)

__all__ = ["PayloadWriter", "WeightsDtype", "load_payload", "payload_bound", "to_payload"]

_HEADER_BYTES: Final = 1 << 20
_HEADER_BYTES_PER_TENSOR: Final = 512


class PayloadWriter:
    """Writes a policy's weights, as they are then, into buffers.

    Args:
        policy: Whose `state_dict` is written; tied weights once.
        dtype: Of the float32 tensors in the payload. The normalisers' float64 statistics are
            always written exactly.

    Attributes:
        size: Bytes of a payload.

    """

    def __init__(self, policy: nn.Module, dtype: WeightsDtype = "float32") -> None:
        self._policy = policy
        self._layout = PayloadLayout(distinct(policy.state_dict()), dtype)
        self.size = self._layout.size

    @torch.no_grad()
    def write(self, buffer: memoryview) -> None:
        """Write the payload into `buffer`, of `size` bytes; nothing else is allocated."""
        self._layout.write(self._policy.state_dict(), buffer)


def to_payload(policy: nn.Module, dtype: WeightsDtype = "float32") -> bytes:
    """Return the policy's weights, as `PayloadWriter` writes them."""
    writer = PayloadWriter(policy, dtype)
    payload = bytearray(writer.size)
    writer.write(memoryview(payload))
    return bytes(payload)


def payload_bound(policy: nn.Module) -> int:
    """Return the bytes beyond which nothing can be this policy's payload."""
    return _bound(policy.state_dict())


def load_payload(policy: nn.Module, payload: Payload) -> None:
    """Take over the weights in `payload`, in place.

    Raises:
        UserError: It is not safetensors, or its names, shapes or dtypes are not the policy's, or
            it holds a number that is not finite. The policy is then unchanged.

    """
    state = policy.state_dict()
    bound = _bound(state)
    if len(payload) > bound:
        raise _refused(f"{len(payload)} bytes are more than this policy's {bound}")
    try:
        places = read_places(payload)
    except NotSafetensorsError as error:
        raise _refused(f"not safetensors ({error})") from error
    own = distinct(state)
    _check_names(own, places)
    for name, tensor in own.items():
        _check(tensor, payload, places[name])
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensor_at(payload, places[name]))
    for module in policy.modules():
        if isinstance(module, RunningNormaliser):
            module.refresh()


def _bound(state: Mapping[str, Tensor]) -> int:
    numbers = sum(t.numel() * max(t.itemsize, torch.float32.itemsize) for t in state.values())
    return numbers + _HEADER_BYTES + _HEADER_BYTES_PER_TENSOR * len(state)


def _check_names(own: Mapping[str, Tensor], places: Mapping[str, Place]) -> None:
    if own.keys() != places.keys():
        missing, unknown = sorted(own.keys() - places.keys()), sorted(places.keys() - own.keys())
        raise _refused(f"missing {missing[:3]}, unknown {unknown[:3]}")


def _check(tensor: Tensor, payload: Payload, place: Place) -> None:
    if place.shape != tuple(tensor.shape):
        raise _refused(f"{place.name} has shape {place.shape}, not {tuple(tensor.shape)}")
    either = tuple(WEIGHTS_DTYPES.values())
    allowed = either if tensor.dtype in either else (tensor.dtype,)
    if place.dtype not in allowed:
        raise _refused(f"{place.name} has dtype {place.dtype}, not {tensor.dtype}")
    if not _is_finite(tensor_at(payload, place)):
        raise _refused(f"{place.name} has a number that is not finite")


def _is_finite(tensor: Tensor) -> bool:
    """Look at the extremes, which are NaN if any number is: one pass, and no memory."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))


def _refused(problem: str) -> UserError:
    return UserError("weights", problem, "Use weights that were written for this very policy.")
