"""Channels come last where the network runs like that, and nothing else changes."""

import torch
from torch import Tensor, nn

from secateur.pipeline.finetune.memory_layout import channels_last


class Viewing(nn.Module):
    """Views its activations in the standard order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(len(x), -1))


def test_values_stay_and_channels_come_last() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    inputs = torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = network(inputs)
    assert channels_last(network, (inputs,)) is network
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert network.training
    torch.testing.assert_close(network(inputs), expected)


def test_a_network_that_views_keeps_its_layout() -> None:
    network, inputs = Viewing(), torch.randn(2, 3, 8, 8)
    expected = network(inputs)
    channels_last(network, (inputs,))
    assert network.first.weight.is_contiguous()
    assert torch.equal(network(inputs), expected)
