"""The networks between observations and heads.

`Mlp` for vectors; for images the three convolutions of Mnih et al. (2015, "Nature") or the residual
blocks of Espeholt et al. (2018, "IMPALA"), followed by one fully connected layer that the vector
part of the observation joins. Weights start orthogonal, biases at zero.
"""

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vaco.errors import UserError
from vaco.job import CnnNetwork, MlpNetwork

from vaco_policy.activations import ACTIVATIONS
from vaco_policy.features import Features, ImageLayout, Inputs

HIDDEN_GAIN = math.sqrt(2.0)
_IMPALA_CHANNELS = (16, 32, 32)
_NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel, stride

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


class Mlp(nn.Module):
    """Fully connected layers with an activation after each; [..., D] to [..., output_size]."""

    def __init__(self, config: MlpNetwork, features: Features, generator: torch.Generator) -> None:
        super().__init__()
        if features.images:
            name = next(iter(features.images))
            raise UserError(
                "spec.policy.network",
                f"type mlp does not take the observation {name!r}, which is an image",
                "Use {type: cnn}.",
            )
        sizes = [features.vector_size, *config.hidden_sizes]
        layers = [
            linear(inputs, outputs, HIDDEN_GAIN, generator)
            for inputs, outputs in itertools.pairwise(sizes)
        ]
        self.layers = nn.ModuleList(layers)
        self.output_size = sizes[-1]
        self._activation = ACTIVATIONS[config.activation]
        # In an actor's step, a module call per layer would cost as much as the layer itself.
        self._weights = [(layer.weight, layer.bias) for layer in layers]

    def forward(self, inputs: Inputs) -> Tensor:
        """Return hidden features [..., output_size]."""
        hidden = inputs.vector
        for weight, bias in self._weights:
            hidden = self._activation(F.linear(hidden, weight, bias))
        return hidden


class Cnn(nn.Module):
    """A convolutional stack per image, then one layer that the observation's vector joins."""

    def __init__(self, config: CnnNetwork, features: Features, generator: torch.Generator) -> None:
        super().__init__()
        if not features.images:
            raise UserError(
                "spec.policy.network",
                "type cnn needs an image (uint8 with two to four dimensions), "
                "and the environment's observation has none",
                "Use {type: mlp}.",
            )
        self._activation = ACTIVATIONS[config.activation]
        self.stacks = nn.ModuleList(
            self._stack(config, name, layout, generator) for name, layout in features.images.items()
        )
        flat = features.vector_size + sum(
            _output_size(stack, layout)
            for stack, layout in zip(self.stacks, features.images.values(), strict=True)
        )
        self.output = linear(flat, config.hidden_size, HIDDEN_GAIN, generator)
        self.output_size = config.hidden_size

    def _stack(
        self, config: CnnNetwork, name: str, layout: ImageLayout, generator: torch.Generator
    ) -> nn.Module:
        if config.architecture == "impala":
            channels = tuple(config.channels or _IMPALA_CHANNELS)
            return Impala(layout.channels, channels, self._activation, generator)
        smallest = 36
        if min(layout.height, layout.width) < smallest:
            raise UserError(
                "spec.policy.network.architecture",
                f"nature needs images of at least {smallest}x{smallest}, "
                f"and {name!r} has {layout.height}x{layout.width}",
                "Use impala.",
            )
        return Nature(layout.channels, self._activation, generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return hidden features [..., output_size]."""
        lead = inputs.images[0].shape[:-3]
        parts = [
            stack(image.reshape(-1, *image.shape[-3:])).flatten(1)
            for stack, image in zip(self.stacks, inputs.images, strict=True)
        ]
        if inputs.vector.shape[-1]:
            parts.append(inputs.vector.reshape(-1, inputs.vector.shape[-1]))
        hidden = self._activation(self.output(torch.cat(parts, -1) if len(parts) > 1 else parts[0]))
        return hidden.reshape(*lead, self.output_size)


class Nature(nn.Module):
    """The three convolutions of the DQN paper; [N, C, H, W] to [N, 64, h, w]."""

    def __init__(
        self,
        channels: int,
        activation: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._activation = activation
        self.layers = nn.ModuleList()
        for outputs, kernel, stride in _NATURE:
            self.layers.append(convolution(channels, outputs, kernel, stride, 0, generator))
            channels = outputs

    def forward(self, image: Tensor) -> Tensor:
        """Return feature maps."""
        for layer in self.layers:
            image = self._activation(layer(image))
        return image


class Impala(nn.Module):
    """The IMPALA paper's deep network: per block a convolution, a pooling, two residual units."""

    def __init__(
        self,
        channels: int,
        block_channels: tuple[int, ...],
        activation: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._activation = activation
        self.entries = nn.ModuleList()
        self.residuals = nn.ModuleList()
        for outputs in block_channels:
            self.entries.append(convolution(channels, outputs, 3, 1, 1, generator))
            self.residuals.extend(
                convolution(outputs, outputs, 3, 1, 1, generator) for _ in range(4)
            )
            channels = outputs

    def forward(self, image: Tensor) -> Tensor:
        """Return feature maps; each block halves height and width, rounded up."""
        for block, entry in enumerate(self.entries):
            image = F.max_pool2d(entry(image), 3, stride=2, padding=1)
            for unit in (4 * block, 4 * block + 2):
                inner = self.residuals[unit](self._activation(image))
                image = image + self.residuals[unit + 1](self._activation(inner))
        return self._activation(image)


def make_network(
    config: MlpNetwork | CnnNetwork, features: Features, generator: torch.Generator
) -> Mlp | Cnn:
    """Build the network of `spec.policy.network`.

    Raises:
        UserError: The network does not fit the observations.

    """
    if isinstance(config, CnnNetwork):
        return Cnn(config, features, generator)
    return Mlp(config, features, generator)


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with orthogonal weights and zero biases."""
    return _start(nn.Linear(inputs, outputs), gain, generator)


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, generator: torch.Generator
) -> nn.Conv2d:
    """Return a convolution with orthogonal weights and zero biases."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    return _start(layer, HIDDEN_GAIN, generator)


def _start(layer: _Layer, gain: float, generator: torch.Generator) -> _Layer:
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def _output_size(stack: nn.Module, layout: ImageLayout) -> int:
    image = torch.zeros(1, layout.channels, layout.height, layout.width)
    return int(stack(image).numel())
