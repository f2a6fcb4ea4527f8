"""From an environment's observations to what networks take in: one vector, and images.

Float and integer boxes are flattened and concatenated, in the order of their names, into the
continuous part of the vector, which alone is normalised; one-hot codes of `Discrete` and the bits
of `MultiBinary` follow. A uint8 box of two to four dimensions is an image.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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


class Features:
    """Turns observations [..., *shape] by name into `Inputs`.

    Attributes:
        images: Layouts of the images, by name.
        continuous_size: Length of the part of the vector that can be normalised.
        vector_size: Length of the vector.

    """

    def __init__(self, spaces: Mapping[str, Box | Discrete | MultiBinary]) -> None:
        self.images: dict[str, ImageLayout] = {}
        self._boxes: dict[str, Box] = {}
        self._codes: dict[str, Discrete | MultiBinary] = {}
        for name, space in spaces.items():
            if not isinstance(space, Box):
                self._codes[name] = space
            elif is_image(space):
                self.images[name] = image_layout(space.shape)
            else:
                self._boxes[name] = space
        self.continuous_size = sum(space.size for space in self._boxes.values())
        self.vector_size = self.continuous_size + sum(space.n for space in self._codes.values())
        # The commonest observation, one float32 vector, is taken as it is.
        self._whole = self._vector_alone() if len(spaces) == 1 else None

    def _vector_alone(self) -> str | None:
        for name, space in self._boxes.items():
            if space.dtype == "float32" and len(space.shape) == 1:
                return name
        return None

    def read(
        self, observations: Mapping[str, Tensor], normalise: Callable[[Tensor], Tensor] | None
    ) -> Inputs:
        """Return the inputs of the networks for observations with any leading dimensions."""
        vector = self.continuous(observations)
        if normalise is not None:
            vector = normalise(vector)
        if self._codes:
            codes = [_code(space, observations[name]) for name, space in self._codes.items()]
            vector = torch.cat([vector, *codes], -1)
        if not self.images:
            return Inputs(vector, ())
        images = (_image(layout, observations[name]) for name, layout in self.images.items())
        return Inputs(vector, tuple(images))

    def continuous(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return float32 [..., continuous_size]: what the normaliser sees."""
        if self._whole is not None:
            return observations[self._whole]
        parts = [_flat(space, observations[name]) for name, space in self._boxes.items()]
        return torch.cat(parts, -1) if parts else self._nothing(observations)

    def _nothing(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return an empty vector with the observations' leading dimensions."""
        if self.images:
            name, layout = next(iter(self.images.items()))
            rank = len(layout.axes)
        else:
            name, space = next(iter(self._codes.items()))
            rank = 0 if isinstance(space, Discrete) else 1
        values = observations[name]
        return torch.empty(*values.shape[: values.dim() - rank], 0, device=values.device)


def _flat(space: Box, values: Tensor) -> Tensor:
    rank = len(space.shape)
    if rank != 1:
        values = values.unsqueeze(-1) if rank == 0 else values.flatten(values.dim() - rank)
    if values.dtype == torch.float32:
        return values
    floats = values.float()
    return floats * _BYTE if space.dtype == "uint8" else floats


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
