"""A policy's weights as bytes, and back.

The payload is safetensors: names, shapes and numbers, and nothing that could be executed. What
comes from the wire or the disk is checked whole against the policy at hand before any of it is
taken over, so a bad payload leaves the policy as it was.
"""

from typing import Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from vaco.errors import UserError

from vaco_policy.normaliser import RunningNormaliser

WeightsDtype = Literal["float32", "bfloat16"]

_DTYPES: Final[dict[WeightsDtype, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}
_HEADER_BYTES: Final = 1 << 20


def to_payload(policy: nn.Module, dtype: WeightsDtype = "float32") -> bytes:
    """Return the policy's weights, safetensors.

    Args:
        policy: Whose `state_dict` is written.
        dtype: Of the float32 tensors in the payload. The normalisers' float64 statistics are
            always written exactly.

    """
    tensors = {
        name: (tensor.to(_DTYPES[dtype]) if tensor.dtype == torch.float32 else tensor)
        .detach()
        .cpu()
        .contiguous()
        for name, tensor in policy.state_dict().items()
    }
    return save(tensors)


def load_payload(policy: nn.Module, payload: bytes) -> None:
    """Take over the weights in `payload`, in place.

    Raises:
        UserError: It is not safetensors, or its names, shapes or dtypes are not the policy's, or
            it holds a number that is not finite. The policy is then unchanged.

    """
    own = policy.state_dict()
    bound = sum(tensor.nbytes for tensor in own.values()) + _HEADER_BYTES
    if len(payload) > bound:
        raise _refused(f"{len(payload)} bytes are more than this policy's {bound}")
    try:
        given = load(payload)
    except SafetensorError as error:
        raise _refused(f"not safetensors ({error})") from error
    _check(own, given)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
    for module in policy.modules():
        if isinstance(module, RunningNormaliser):
            module.refresh()


def _check(own: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    if own.keys() != given.keys():
        missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        raise _refused(f"missing {missing[:3]}, unknown {unknown[:3]}")
    for name, tensor in own.items():
        other = given[name]
        if other.shape != tensor.shape:
            raise _refused(f"{name} has shape {tuple(other.shape)}, not {tuple(tensor.shape)}")
        allowed = tuple(_DTYPES.values()) if tensor.dtype == torch.float32 else (tensor.dtype,)
        if other.dtype not in allowed:
            raise _refused(f"{name} has dtype {other.dtype}, not {tensor.dtype}")
        if not bool(other.isfinite().all()):
            raise _refused(f"{name} has a number that is not finite")


def _refused(problem: str) -> UserError:
    return UserError(
        "weights", problem, "Use weights that were written for this policy and these spaces."
    )
