"""Least squares: what is redundant goes without a trace, what is not costs less than before, nothing else moves."""

import copy
import threading

import pytest
import torch
from networks import SelfAttention, randomise_norms, scaled
from torch import nn
from torchvision import models

from secateur.calibration.sites import find_sites
from secateur.errors import DataError, TraceError
from secateur.pipeline.compensation import COMPENSATIONS, Removal
from secateur.pipeline.compensation.least_squares import LeastSquares
from secateur.pipeline.compensation.lockstep import leading
from secateur.pipeline.structure import Plan, cut, trace
from secateur.workloads.classification import resnet20

EXACT = LeastSquares(ridge=1e-12)


def removal_of(module, shape, keep=0.5, seed=0, num=8):
    """Return a removal of half of all channels at random, in double precision."""
    torch.manual_seed(0)
    module, x = module.double().eval(), torch.randn(num, *shape, dtype=torch.float64)
    structure = trace(module, (x[:2],))
    plan = Plan.random(structure, keep=keep, seed=seed)
    batches = [(part, torch.zeros(len(part))) for part in x.split(3)]
    return Removal(module=module, structure=structure, keep=plan.kept, samples=batches), x


def distance(module, other, x):
    with torch.no_grad():
        return float((module(x) - other(x)).norm() / other(x).norm())


def doubled(first, second, *between):
    """Return a network whose channels come in pairs that differ in their outgoing weights only."""
    with torch.no_grad():
        first.weight.copy_(first.weight[: len(first.weight) // 2].repeat_interleave(2, 0))
        if first.bias is not None:
            first.bias.copy_(first.bias[: len(first.bias) // 2].repeat_interleave(2, 0))
    return nn.Sequential(first, *between, second)


PAIRS = {
    "convolutions": (
        lambda: doubled(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, padding=1, stride=2), nn.ReLU()), (3, 9, 9)
    ),
    "without a bias": (
        lambda: doubled(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False), nn.ReLU()), (3, 9, 9)
    ),
    "before a norm": (
        lambda: nn.Sequential(
            doubled(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, bias=False), nn.Tanh()), nn.BatchNorm2d(4), nn.ReLU()
        ), (3, 9, 9),
    ),
    "one axis": (lambda: doubled(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3, dilation=2), nn.ReLU()), (3, 20)),
    "three axes": (lambda: doubled(nn.Conv3d(2, 8, 3), nn.Conv3d(8, 4, 2), nn.ReLU()), (2, 6, 6, 6)),
    "linear": (lambda: doubled(nn.Linear(5, 8), nn.Linear(8, 4), nn.GELU()), (7, 5)),
    "flattened": (lambda: doubled(nn.Conv2d(3, 8, 3), nn.Linear(32, 4), nn.ReLU(), nn.Flatten()), (3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_one_of_each_pair_of_channels_goes_without_a_trace(name):
    build, shape = PAIRS[name]
    removal, x = removal_of(build(), shape, num=64)
    (group,) = removal.structure.groups
    removal = Removal(
        module=removal.module, structure=removal.structure, keep={group.name: torch.arange(0, 8, 2)},
        samples=removal.samples,
    )  # fmt: skip
    bare = cut(removal.module, removal.structure, removal.keep)
    assert distance(bare, removal.module, x) > 1e-2
    assert distance(EXACT(removal), removal.module, x) < 1e-6


def test_the_mean_of_a_constant_channel_goes_into_the_running_mean():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5))
    with torch.no_grad():
        module[0].weight[2], module[0].bias[2] = 0, 0.7
    removal, x = removal_of(module, (3, 8, 8), num=32)
    keep = {removal.structure.groups[0].name: torch.tensor([0, 1, 3])}
    removal = Removal(module=module, structure=removal.structure, keep=keep, samples=removal.samples)
    fitted = EXACT(removal)
    assert distance(fitted, module, x) < 1e-6
    assert not torch.equal(fitted[3].running_mean, module[3].running_mean)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_channel_does_not_keep_a_depth_wise_layer_from_being_fitted(value):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)
    )
    with torch.no_grad():
        module[2].weight[4], module[2].bias[4] = 0, value
    removal, x = removal_of(module, (3, 10, 10), num=16)
    wide = next(group for group in removal.structure.groups if group.num_channels == 8)
    removal = Removal(
        module=module, structure=removal.structure, keep={wide.name: torch.arange(5)}, samples=removal.samples
    )
    fitted = LeastSquares()(removal)
    changed = (fitted[4].weight - module[4].weight).flatten(1).norm(dim=1) > 1e-3
    assert changed.tolist() == [True, True, True, True, False, True]
    assert torch.equal(fitted[4].weight[4], module[4].weight[4])
    assert distance(fitted, module, x) < distance(cut(module, removal.structure, removal.keep), module, x)


NETWORKS = {
    "resnet20": (lambda: randomise_norms(resnet20()), (3, 32, 32)),
    "mobilenet_v2": (lambda: randomise_norms(models.mobilenet_v2(width_mult=0.25)), (3, 64, 64)),
    "squeezenet1_1": (lambda: models.squeezenet1_1(), (3, 64, 64)),
    "attention": (
        lambda: nn.Sequential(nn.Linear(6, 12), SelfAttention(scaled), nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4)),
        (5, 6),
    ),
    "densenet": (lambda: randomise_norms(models.DenseNet(8, (2, 2), 16)), (3, 64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_nearer_than_those_of_the_bare_cut(name):
    build, shape = NETWORKS[name]
    removal, x = removal_of(build(), shape, keep=0.75)
    before = copy.deepcopy(removal.module.state_dict())
    state = torch.random.get_rng_state()
    fitted = LeastSquares()(removal)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in removal.module.state_dict().items())
    bare = cut(removal.module, removal.structure, removal.keep)
    assert distance(fitted, removal.module, x) < 0.8 * distance(bare, removal.module, x)
    assert {k: v.shape for k, v in fitted.state_dict().items()} == {k: v.shape for k, v in bare.state_dict().items()}


def test_where_nothing_goes_nothing_changes():
    removal, x = removal_of(randomise_norms(resnet20()), (3, 32, 32), keep=1.0)
    assert distance(LeastSquares()(removal), removal.module, x) < 1e-10


def test_what_is_applied_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(self.b(self.a(self.a(x).relu()).relu()))

    module = Twice().eval()
    sites = find_sites(module, (torch.randn(2, 4),))
    assert list(sites) == ["b.weight"]
    assert sites["b.weight"].running_mean is module.norm.running_mean


def test_a_norm_behind_something_that_writes_in_place_is_not_the_layers_own():
    def behind(*between):
        return nn.Sequential(nn.Conv2d(3, 4, 1), *between, nn.BatchNorm2d(4)).eval()

    x = torch.randn(2, 3, 4, 4)
    own = behind()
    assert find_sites(own, (x,))["0.weight"].running_mean is own[1].running_mean
    for between in (nn.ReLU(inplace=True), nn.ReLU(), nn.MaxPool2d(1)):
        (site,) = find_sites(behind(between), (x,)).values()
        assert site.running_mean is None
        assert site.num_bytes == x.nbytes + x.nbytes * 4 // 3


@pytest.mark.parametrize(("wanted", "found"), [("2.weight", "0.weight"), ("0.weight", "the end")])
def test_networks_that_run_other_layers_are_refused_and_no_thread_stays(wanted, found):
    module, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(3, 4)
    names = {id(module[0].weight): "0.weight", id(module[2].weight): "2.weight"} if found != "the end" else {}
    threads = threading.active_count()
    message = f"compensation, {wanted}: found {found} in the uncut network; wanted the same layers"
    with pytest.raises(TraceError, match=message), leading(module, names, (x,)) as leader, leader.outputs_of(wanted):
        pass
    assert threading.active_count() == threads


def test_errors_of_the_uncut_network_come_through():
    module, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(3, 4)
    module[1].register_forward_hook(lambda *_: 1 / 0)
    threads = threading.active_count()
    with leading(module, {id(module[0].weight): "0.weight", id(module[2].weight): "2.weight"}, (x,)) as leader:
        with leader.outputs_of("0.weight") as outputs:
            torch.testing.assert_close(outputs, module[0](x))
        with pytest.raises(ZeroDivisionError), leader.outputs_of("2.weight"):
            pass
    assert threading.active_count() == threads


def test_memory_limits_the_samples():
    removal, _ = removal_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), (3, 5, 5))
    seen = list[int]()
    removal.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    widest = 8 * 25 * (4 + 4)  # what the second layer, cut to half its inputs, reads and makes of a sample
    for layer_bytes, num in ((5 * widest, 5), (5 * widest - 1, 4), (1, 2), (1 << 30, 8)):
        LeastSquares(layer_bytes=layer_bytes)(removal)
        assert seen.pop() == num


def test_no_samples_are_refused():
    removal, _ = removal_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (4,))
    bare = Removal(module=removal.module, structure=removal.structure, keep=removal.keep, samples=[])
    with pytest.raises(DataError, match="least squares: found no samples"):
        COMPENSATIONS["least-squares"](bare)
