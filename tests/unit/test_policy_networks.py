import pytest
import torch
from vaco.job import CnnNetwork, MlpNetwork
from vaco_policy.activations import ACTIVATIONS, tanh
from vaco_policy.features import Features, image_layout
from vaco_policy.networks import HIDDEN_GAIN, Cnn, Mlp
from vaco_policy.spaces import Box


@pytest.mark.parametrize("elements", [100, 1 << 13, 1 << 15, 1 << 17])
@pytest.mark.parametrize("gradient", [False, True])
def test_tanh_is_tanh_whichever_way_it_is_computed(elements: int, gradient: bool) -> None:
    x = torch.linspace(-20, 20, elements, requires_grad=gradient)
    y = tanh(x)
    truth = x.detach().double().tanh()
    torch.testing.assert_close(y.detach().double(), truth, atol=3e-7, rtol=0)
    assert y.detach().abs().max() <= 1
    if gradient:
        weights = torch.linspace(-1, 1, elements)
        (given,) = torch.autograd.grad((y * weights).sum(), x)
        expected = weights * (1 - truth.square())
        torch.testing.assert_close(given.double(), expected.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "channels_height_width"),
    [
        ((84, 80), (1, 84, 80)),
        ((84, 80, 4), (4, 84, 80)),
        ((4, 84, 80), (4, 84, 80)),
        ((210, 160, 3), (3, 210, 160)),
        ((3, 5, 3), (3, 3, 5)),
        ((4, 84, 80, 3), (12, 84, 80)),
        ((4, 3, 84, 80), (12, 84, 80)),
        ((4, 84, 80, 1), (4, 84, 80)),
    ],
)
def test_the_channel_axis_is_found(
    shape: tuple[int, ...], channels_height_width: tuple[int, int, int]
) -> None:
    layout = image_layout(shape)
    assert (layout.channels, layout.height, layout.width) == channels_height_width
    assert sorted(layout.axes) == list(range(len(shape)))
    permuted = [shape[axis] for axis in layout.axes]
    assert (permuted[-2], permuted[-1]) == channels_height_width[1:]


def test_nature_is_the_network_of_its_paper() -> None:
    features = Features({"observation": Box((84, 84, 4), "uint8")})
    network = Cnn(CnnNetwork(), features, torch.Generator())
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    weights = [shape for name, shape in shapes.items() if name.endswith("weight")]
    assert weights == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)]


def test_impala_is_the_network_of_its_paper() -> None:
    features = Features({"observation": Box((72, 96, 3), "uint8")})
    network = Cnn(CnnNetwork(architecture="impala", hidden_size=256), features, torch.Generator())
    stack = network.stacks[0]
    maps = stack(torch.zeros(1, 3, 72, 96))
    assert maps.shape == (1, 32, 9, 12)
    assert sum(1 for name, _ in stack.named_parameters() if name.endswith("weight")) == 15
    # With its residual units silenced, a block is a convolution and a pooling.
    with torch.no_grad():
        for residual in stack.residuals:
            residual.weight.zero_()
        image = torch.rand(1, 3, 72, 96, generator=torch.Generator().manual_seed(0))
        expected = image
        for entry in stack.entries:
            expected = torch.max_pool2d(entry(expected), 3, stride=2, padding=1)
        torch.testing.assert_close(stack(image), expected.relu())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_its_formula(activation: str) -> None:
    features = Features({"observation": Box((5,))})
    config = MlpNetwork(hidden_sizes=[8, 3], activation=activation)
    network = Mlp(config, features, torch.Generator().manual_seed(0))
    function = getattr(torch.nn.functional, activation)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    hidden = x
    for layer in network.layers:
        hidden = function(hidden @ layer.weight.T + layer.bias)
    torch.testing.assert_close(network(features.read({"observation": x}, None)), hidden)


def test_layers_start_orthogonal_without_bias() -> None:
    features = Features({"observation": Box((5,))})
    network = Mlp(MlpNetwork(hidden_sizes=[16, 8]), features, torch.Generator().manual_seed(0))
    wide, narrow = (layer.weight for layer in network.layers)
    torch.testing.assert_close(wide.T @ wide, HIDDEN_GAIN**2 * torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(narrow @ narrow.T, HIDDEN_GAIN**2 * torch.eye(8), atol=1e-5, rtol=0)
    assert not any(layer.bias.any() for layer in network.layers)
