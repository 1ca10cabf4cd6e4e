"""Numbers of channels that modules keep: set where a trial cut proves what they count, else the channels are pinned."""

import pytest
import torch
from torch import nn

from secateur.errors import LoadError
from secateur.pipeline.structure import Plan, cut, load, save, trace

X = torch.randn(2, 3, 8, 8)


class Partial(nn.Module):
    """Work on some of the channels; ``way`` says how the number of these is kept."""

    def __init__(self, way):
        super().__init__()
        self.way, self.worked, self.rest = way, 4, 12
        self.sizes = [4, 12]
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        if self.way == "slices":
            return torch.cat((self.conv(x[:, : self.worked]), x[:, self.worked :]), 1)
        if self.way == "frozen":
            return torch.cat((self.conv(x[:, :4]), x[:, 4:]), 1)
        sizes = self.sizes if self.way == "list" else [self.worked, self.rest]
        one, two = torch.split(x, sizes, dim=1)
        return torch.cat((self.conv(one), two), 1)


class Gates(nn.Module):
    """Two gates of one list of sizes, as equal as the value they multiply."""

    def __init__(self):
        super().__init__()
        self.sizes = (6, 6, 2)
        self.make, self.out = nn.Conv2d(16, 14, 1), nn.Conv2d(6, 16, 1)

    def forward(self, x):
        value, gate, few = self.make(x).split(self.sizes, 1)
        return self.out(value * gate.sigmoid() * few.mean(1, keepdim=True))


class Scaled(nn.Module):
    """Multiply by a factor a channel, brought into a shape that was noted."""

    def __init__(self):
        super().__init__()
        self.shape, self.factor = (16, 1, 1), nn.Parameter(torch.rand(16))

    def forward(self, x):
        return x * self.factor.view(self.shape)


class Counted(Scaled):
    """Keep a number that is as large as the width and counts something else."""

    def __init__(self):
        super().__init__()
        self.longest = 16

    def forward(self, x):
        return super().forward(x)[..., : self.longest]


def around(middle, norm=None):
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm or nn.BatchNorm2d(16), nn.ReLU(), middle,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))  # fmt: skip


@pytest.mark.parametrize("way", ["slices", "attributes", "list"])
def test_parts_are_cut_apart_where_their_sizes_are_kept(way, lawful):
    structure = lawful(around(Partial(way)), X)
    assert sorted(structure.widths.values()) == [4, 4, 12]
    assert [p.reason for p in structure.pinned] == ["output of the network"]


def test_a_bound_in_the_code_pins_what_is_in_front_of_it(lawful):
    structure = lawful(around(Partial("frozen")), X)
    assert structure.widths == {"0": 12, "3.conv": 4}
    assert "a slice has a fixed bound among channels" in [p.reason for p in structure.pinned]


def test_equal_sizes_in_a_list_are_told_apart_by_their_place(lawful):
    structure = lawful(around(Gates()), X)
    assert structure.widths == {"0": 16, "3.make": 6, "3.out": 16}
    assert {p.num_channels for p in structure.pinned} == {2, 4}


def test_a_shape_that_was_noted_follows(lawful):
    module = around(Scaled())
    structure = lawful(module, X)
    assert structure.widths == {"0": 16}
    assert cut(module, structure, {"0": torch.arange(5)})[3].shape == (5, 1, 1)
    assert module[3].shape == (16, 1, 1)


def test_a_number_that_need_not_follow_is_left_alone(lawful):
    module = around(Counted())
    structure = lawful(module, X)
    small = cut(module, structure, {"0": torch.arange(5)})[3]
    assert (small.shape, small.longest) == ((5, 1, 1), 16)


def test_a_norm_without_tensors_knows_its_number(lawful):
    module = around(nn.Identity(), nn.InstanceNorm2d(16))
    structure = lawful(module, X)
    assert cut(module, structure, {"0": torch.arange(5)})[1].num_features == 5


class Fractions(nn.Module):
    """Divide at three eighths of the width: a plan that cuts both parts alike would not show it."""

    def forward(self, x):
        bound = x.shape[1] * 3 // 8
        return torch.cat((x[:, :bound].relu(), x[:, bound:].tanh()), 1)


def test_bounds_that_are_fractions_of_the_width_are_found_out(lawful):
    structure = lawful(around(Fractions()), X)
    assert structure.widths == {}


@pytest.mark.parametrize("build", [lambda: around(Partial("list")), lambda: around(Scaled())])
def test_numbers_come_back_from_disk(build, tmp_path):
    torch.manual_seed(0)
    module = build().eval()
    structure = trace(module, (X,))
    small = cut(module, structure, Plan.random(structure, 0.5))
    save(small, tmp_path / "small")
    assert torch.equal(load(build().eval(), tmp_path / "small")(X), small(X))


def test_a_skeleton_with_other_numbers_is_refused(tmp_path):
    module = around(Scaled()).eval()
    save(module, tmp_path / "whole")
    other = around(Scaled()).eval()
    other[3].steps = 3
    with pytest.raises(LoadError, match="numbers that modules keep"):
        load(other, tmp_path / "whole")
