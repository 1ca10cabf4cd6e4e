"""Dead channels are found where they were planted and nowhere else; their means go on in the biases."""

import copy
from collections.abc import Callable

import pytest
import torch
from networks import randomise_norms
from torch import Tensor, nn

from secateur.artifacts import DeadChannels
from secateur.calibration.activations import collect_activations
from secateur.errors import TraceError
from secateur.pipeline.fold_means import cut_to_means
from secateur.pipeline.redundancy.dead import FindDead
from secateur.pipeline.structure import Structure, cut, trace

torch.set_num_threads(1)

ZERO, CONSTANT, UNREAD = (1, 4), (2, 9), (6, 7, 11)


def convolution(kind: type[nn.Module] = nn.Conv2d, *, bias: bool = True, **options: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), kind(12, 8, 3, bias=bias, **options), nn.Softplus(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def normalised() -> nn.Module:
    """Readers without bias before batch norms."""
    return randomise_norms(nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, bias=False),
        nn.BatchNorm2d(8), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ))  # fmt: skip


class Summed(nn.Module):
    """Two readers without bias whose sum is normalised, and a third that reads a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.one, self.two = nn.Conv2d(12, 8, 1, bias=False), nn.Conv2d(12, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head, self.side = nn.Linear(8, 4), nn.Linear(12 * 4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = nn.functional.softplus(self.norm(self.one(x) + self.two(x))).mean((2, 3))
        return self.head(y) + self.side(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bias": convolution,
    "no bias": lambda: convolution(bias=False),
    "groups": lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.Softplus(), nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ),
    "transposed": lambda: convolution(lambda *a, **k: nn.ConvTranspose2d(a[0], a[1], 1, **k)),
    "batch norm": normalised,
    "a sum before batch norm": lambda: randomise_norms(Summed()),
}  # fmt: skip
network = pytest.mark.parametrize("name", NETWORKS)


def planted(name: str) -> tuple[nn.Module, Structure]:
    """A network whose first group has channels that never fire, fire always alike, and are not read."""
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    structure = trace(module, (torch.randn(2, 3, 9, 9),))
    group = structure.groups[0]
    assert group.num_channels == 12
    stem = module.get_submodule(group.name)
    norm = next((layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)), None)
    normed = norm if norm is not None and norm.num_features == 12 else None
    with torch.no_grad():
        stem.weight[list(ZERO + CONSTANT)] = 0
        biases = stem.bias if normed is None else normed.bias
        biases[list(ZERO)], biases[list(CONSTANT)] = -1.0, 0.7
        if normed is not None:
            normed.running_mean[list(ZERO + CONSTANT)] = 0
        for reader in group.readers:
            weight = module.get_parameter(reader.weight)
            axis = 0 if name == "transposed" else 1
            weight.index_fill_(axis, torch.from_numpy(reader.positions[list(UNREAD)].ravel()), 0)
    return module, structure


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(n, 3, 9, 9, generator=generator), torch.zeros(n)) for n in (20, 13, 31)]


def without(structure: Structure, dead: dict[str, DeadChannels]) -> dict[str, Tensor]:
    keep = {}
    for group in structure.groups:
        mask = torch.ones(group.num_channels, dtype=torch.bool)
        mask[list(dead[group.name].all)] = False
        keep[group.name] = mask
    return keep


def apart(one: nn.Module, other: nn.Module) -> float:
    inputs = torch.randn(40, 3, 9, 9, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float((one(inputs) - other(inputs)).abs().max())


@network
def test_exactly_the_planted_channels_are_found(name: str) -> None:
    module, structure = planted(name)
    found = FindDead()(module, structure, collect_activations(module, structure.groups, batches()))
    first, *others = structure.groups
    assert found[first.name] == DeadChannels(zero=ZERO, constant=CONSTANT, unread=UNREAD)
    assert all(found[group.name] == DeadChannels() for group in others)


@network
def test_dead_channels_go_without_a_trace_if_their_means_are_carried_on(name: str) -> None:
    module, structure = planted(name)
    activations = collect_activations(module, structure.groups, batches())
    keep = without(structure, FindDead()(module, structure, activations))
    before = copy.deepcopy(module.state_dict())
    assert apart(module, cut_to_means(module, structure, keep, activations)) < 1e-5
    assert apart(module, cut(module, structure, keep)) > 1e-3
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_a_reader_that_is_cut_too_keeps_the_right_outputs() -> None:
    module, structure = planted("no bias")
    activations = collect_activations(module, structure.groups, batches())
    keep = without(structure, FindDead()(module, structure, activations))
    keep["2"] = torch.tensor([True, False, True, True, False, True, True, True])
    with torch.no_grad():
        reference = copy.deepcopy(module)
        reference[6].weight[:, ~keep["2"]] = 0
    small = cut_to_means(module, structure, keep, activations)
    with torch.no_grad():  # the head carries on the means of the second group: take them off again
        small[6].bias.copy_(module[6].bias)
    assert small[2].bias.shape == (6,)
    assert apart(reference, small) < 1e-5


def test_a_batch_norm_takes_over_so_that_no_tensor_is_new() -> None:
    module, structure = planted("batch norm")
    activations = collect_activations(module, structure.groups, batches())
    keep = without(structure, FindDead()(module, structure, activations))
    small = cut_to_means(module, structure, keep, activations)
    assert small.state_dict().keys() == module.state_dict().keys()
    assert not torch.equal(small[4].running_mean, module[4].running_mean)
    summed, structure = planted("a sum before batch norm")
    activations = collect_activations(summed, structure.groups, batches())
    keep = without(structure, FindDead()(summed, structure, activations))
    small = cut_to_means(summed, structure, keep, activations)
    assert torch.equal(small.norm.running_mean, summed.norm.running_mean)
    assert {"one.bias", "two.bias", "side.bias"} <= small.state_dict().keys()


def test_padding_with_zeros_leaves_a_rest_at_the_borders_and_padding_alike_none() -> None:
    for mode, exact in (("zeros", False), ("replicate", True)):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1, padding_mode=mode), nn.ReLU(),
            nn.Conv2d(5, 2, 1),
        ).eval()  # fmt: skip
        structure = trace(module, (torch.randn(2, 3, 9, 9),))
        with torch.no_grad():
            module[0].weight[2], module[0].bias[2] = 0, 0.7
        activations = collect_activations(module, structure.groups, batches())
        keep = {"0": torch.tensor([True, True, False, True, True, True])}
        small = cut_to_means(module, structure, keep, activations)
        inputs = torch.randn(4, 3, 9, 9)
        with torch.no_grad():
            rest = (module(inputs) - small(inputs)).abs()
        assert float(rest[:, :, 1:-1, 1:-1].max()) < 1e-5
        assert (float(rest.max()) < 1e-5) == exact


def test_a_kernel_outside_of_a_convolution_module_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3)
            self.kernel = nn.Parameter(torch.randn(5, 6, 3, 3))
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(nn.functional.conv2d(torch.relu(self.stem(x)), self.kernel)).mean((2, 3)))

    module = Bare().eval()
    structure = trace(module, (torch.randn(2, 3, 9, 9),))
    activations = collect_activations(module, structure.groups, batches())
    name = structure.groups[0].name
    with pytest.raises(TraceError, match="means carried on, kernel: found a kernel of Bare; wanted a kernel of a conv"):
        cut_to_means(module, structure, {name: torch.arange(1, 6)}, activations)
