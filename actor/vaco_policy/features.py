"""From an environment's observations to what networks take in: one vector, and images.

Float and integer boxes are flattened and concatenated, in the order of their names, into the
continuous part of the vector, which alone is normalised; one-hot codes of `Discrete` and the bits
of `MultiBinary` follow. A uint8 box of two to four dimensions is an image.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaco_policy.normaliser import RunningNormaliser
from vaco_policy.spaces import Box, Discrete, MultiBinary

_BYTE = 1.0 / 255.0


class Inputs(NamedTuple):
    """What a network takes in.

    Attributes:
        vector: float32 [..., D]; D may be 0.
        images: float32 [..., C, H, W] each, in the order of `Features.images`.
    """

    vector: Tensor
    images: tuple[Tensor, ...]


class ImageLayout(NamedTuple):
    """How an observed array becomes [C, H, W]: permute its axes, merge all but the last two."""

    channels: int
    height: int
    width: int
    axes: tuple[int, ...]


def is_image(space: Box | Discrete | MultiBinary) -> bool:
    """Tell whether an observation is an image (uint8 with two to four dimensions)."""
    return isinstance(space, Box) and space.dtype == "uint8" and 2 <= len(space.shape) <= 4


def image_layout(shape: tuple[int, ...]) -> ImageLayout:
    """Find the channel axis of an image.

    [H, W] has one channel. [H, W, C] is told from [C, H, W] by its last axis being no longer than
    its first. A fourth axis in front is a stack of frames, whose channels follow each other.
    """
    if len(shape) == 2:
        return ImageLayout(1, *shape, axes=(0, 1))
    lead = len(shape) - 3
    frames = math.prod(shape[:lead])
    stack = tuple(range(lead))
    first, second, last = shape[lead:]
    if last <= first:
        return ImageLayout(frames * last, first, second, (*stack, lead + 2, lead, lead + 1))
    return ImageLayout(frames * first, second, last, (*stack, lead, lead + 1, lead + 2))


class Features(nn.Module):
    """Turns observations [..., *shape] by name into `Inputs`.

    Args:
        spaces: The observation space, by name.
        normalise: Whether the continuous part of the vector is normalised.
    """

    def __init__(self, spaces: Mapping[str, Box | Discrete | MultiBinary], normalise: bool) -> None:
        super().__init__()
        self._boxes = {
            name: space
            for name, space in spaces.items()
            if isinstance(space, Box) and not is_image(space)
        }
        self._codes = {name: space for name, space in spaces.items() if not isinstance(space, Box)}
        self.images = {
            name: image_layout(space.shape)
            for name, space in spaces.items()
            if isinstance(space, Box) and is_image(space)
        }
        continuous = sum(space.size for space in self._boxes.values())
        self.vector_size = continuous + sum(space.n for space in self._codes.values())
        self.normaliser = RunningNormaliser(continuous) if normalise and continuous else None
        name, space = next(iter(spaces.items()))
        self._any_name = name
        self._any_rank = len(space.shape) if isinstance(space, Box) else _code_rank(space)

    def forward(self, observations: Mapping[str, Tensor]) -> Inputs:
        """Return the inputs of the networks for observations with any leading dimensions."""
        vector = self.continuous(observations)
        if self.normaliser is not None:
            vector = self.normaliser(vector)
        if self._codes:
            codes = [_code(space, observations[name]) for name, space in self._codes.items()]
            vector = torch.cat([vector, *codes], -1)
        if not self.images:
            return Inputs(vector, ())
        return Inputs(
            vector,
            tuple(_image(layout, observations[name]) for name, layout in self.images.items()),
        )

    def continuous(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return float32 [..., D]: what the normaliser sees."""
        parts = [_flat(space, observations[name]) for name, space in self._boxes.items()]
        if len(parts) == 1:
            return parts[0]
        if parts:
            return torch.cat(parts, -1)
        anything = observations[self._any_name]
        lead = anything.shape[: anything.dim() - self._any_rank]
        return torch.empty(*lead, 0, device=anything.device)


def _flat(space: Box, values: Tensor) -> Tensor:
    rank = len(space.shape)
    if rank != 1:
        values = values.unsqueeze(-1) if rank == 0 else values.flatten(values.dim() - rank)
    if values.dtype == torch.float32:
        return values
    floats = values.float()
    return floats * _BYTE if space.dtype == "uint8" else floats


def _code_rank(space: Discrete | MultiBinary) -> int:
    return 0 if isinstance(space, Discrete) else 1


def _code(space: Discrete | MultiBinary, values: Tensor) -> Tensor:
    if isinstance(space, MultiBinary):
        return values.float()
    return F.one_hot(values.long(), space.n).float()


def _image(layout: ImageLayout, values: Tensor) -> Tensor:
    lead = values.dim() - len(layout.axes)
    axes = (*range(lead), *(lead + axis for axis in layout.axes))
    pixels = values.permute(axes)
    pixels = pixels.reshape(*values.shape[:lead], layout.channels, layout.height, layout.width)
    return pixels.float() * _BYTE
