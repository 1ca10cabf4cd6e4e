"""Gaze networks on published backbones: the counts that were published for them, and what they return."""

import math

import pytest
import torch
from torch import Tensor, nn

from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.structure import cut, trace
from secateur.workloads.gaze.backbones import BACKBONES, DEEP_INPUT_SIZE, DeepGaze

# Theis et al. 2018: feature maps that can be pruned, the readout's among them, and 1e9 operations of the backbone.
PUBLISHED_MAPS = {"fastgaze-vgg11": 2803, "densegaze": 7219}
PUBLISHED_OPERATIONS = {
    "fastgaze-vgg11": (DEEP_INPUT_SIZE, 58.69),
    "densegaze": (DEEP_INPUT_SIZE, 20.61),
    "deepgaze-vgg19": ((480, 640), 238.97),
}


def on_meta(name: str, grid: tuple[int, int]) -> DeepGaze:
    with torch.device("meta"):
        return BACKBONES[name](log_prior=torch.zeros(grid)).eval()


@pytest.mark.parametrize("name", PUBLISHED_MAPS)
def test_networks_have_the_published_number_of_feature_maps(name: str) -> None:
    layers = [layer for layer in on_meta(name, (48, 64)).modules() if isinstance(layer, nn.Conv2d)]
    assert sum(layer.out_channels for layer in layers) == PUBLISHED_MAPS[name]


@pytest.mark.parametrize("name", PUBLISHED_OPERATIONS)
def test_backbones_take_the_published_number_of_operations(name: str) -> None:
    """Multiplication, addition and bias count: H W C_out (2 C_in K^2 + 1) of every convolution (equation 10)."""
    (height, width), published = PUBLISHED_OPERATIONS[name]
    network, operations = on_meta(name, (height // 8, width // 8)), list[int]()

    def count(layer: nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        operations.append(output[0].numel() * (2 * layer.in_channels * math.prod(layer.kernel_size) + 1))

    for layer in network.trunk.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(torch.zeros(1, 3, height, width, device="meta"))
    assert sum(operations) / 1e9 == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("name", ["fastgaze-vgg11", "densegaze", "squeezegaze"])
def test_outputs_are_log_densities_on_the_grid_of_the_prior(name: str) -> None:
    torch.manual_seed(0)
    network = BACKBONES[name](log_prior=torch.randn(8, 12).flatten().log_softmax(0).view(8, 12)).eval()
    with torch.no_grad():
        log_density = network(torch.rand(2, 3, 64, 96))
    assert log_density.shape == (2, 8, 12)
    torch.testing.assert_close(log_density.exp().sum((1, 2)), torch.ones(2))


def test_taps_see_what_their_layers_made() -> None:
    """Layers behind a tap must not write over what it kept."""
    torch.manual_seed(0)
    trunk = BACKBONES["deepgaze-vgg19"]().trunk.eval()
    seen: dict[int, Tensor] = {}
    for number in trunk.taps:
        trunk[number].register_forward_hook(lambda _, __, output, number=number: seen.update({number: output.clone()}))
    with torch.no_grad():
        found = trunk(torch.rand(1, 3, 32, 32))
    assert found.shape[1] == 2560
    torch.testing.assert_close(found, torch.cat([seen[number] for number in trunk.taps], dim=1))
    assert bool((found[:, :512] < 0).any())


def test_a_network_is_cut_to_a_budget() -> None:
    torch.manual_seed(0)
    network = BACKBONES["squeezegaze"](log_prior=torch.zeros(8, 8)).eval()
    pictures = torch.rand(2, 3, 64, 64)
    structure = trace(network, (pictures,))
    cost = structure.cost_terms("macs")
    scores = {group.name: torch.rand(group.num_channels) for group in structure.groups}
    keep = ALLOCATORS["uniform"](scores, cost, structure.macs() // 3, structure.groups, {})
    small = cut(network, structure, keep)
    assert trace(small, (pictures,)).macs() <= structure.macs() // 3
    torch.testing.assert_close(small(pictures).exp().sum((1, 2)), torch.ones(2))
