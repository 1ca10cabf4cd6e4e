"""What trace and cut refuse, and what they leave alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from secateur.errors import TraceError
from secateur.pipeline.structure import cut, trace

X = torch.randn(2, 3, 8, 8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, groups=2),
        nn.PReLU(6),
        nn.Flatten(),
        nn.Linear(384, 4),
    )


class Noise(nn.Module):
    """Draw in evaluation mode too, from both generators."""

    def forward(self, x):
        return x + torch.rand(()) * float(np.random.rand())  # noqa: NPY002


def mask(width, *gone):
    result = torch.ones(width, dtype=torch.bool)
    result[list(gone)] = False
    return result


def test_the_network_given_is_left_as_it_was():
    module = nn.Sequential(*network(), Noise()).train()
    module[0].weight.requires_grad_(False)
    calls = []
    module[3].register_forward_hook(lambda *_: calls.append(1))
    module(X).sum().backward()
    calls.clear()
    before = copy.deepcopy(module.state_dict())
    grads = {n: p.grad for n, p in module.named_parameters()}
    parameters = dict(module.named_parameters())
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    cut(module, trace(module, (X,)), {"0": mask(4, 1)})
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert all(m.training for m in module.modules())
    assert dict(module.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[n] and p.grad is grads[n] for n, p in module.named_parameters())
    assert len(module[3]._forward_hooks) == 1
    assert not module[0].weight.requires_grad


def test_layers_know_their_new_numbers():
    module = network().double()
    module[6].weight.requires_grad_(False)
    structure = trace(module, (X.double(),))
    small = cut(module, structure, {"0": mask(4, 0, 2), "3": torch.tensor([2, 0])})
    conv, norm, grouped, slopes, head = (small[k] for k in (0, 1, 3, 4, 6))
    assert (conv.in_channels, conv.out_channels, norm.num_features) == (3, 4, 4)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups, slopes.num_parameters) == (4, 4, 2, 4)
    assert (head.in_features, head.out_features, head.weight.requires_grad) == (256, 4, False)
    assert head.weight.dtype == torch.float64
    assert conv.weight.requires_grad
    assert torch.equal(conv.weight, module[0].weight[[1, 3, 5, 7]])
    assert small.training


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3 if k == 0 else 6, 6, 1) for k in range(3))
            self.d = nn.Conv2d(6, 2, 1)
            self.c.weight = self.b.weight

        def forward(self, x):
            return self.d(self.c(self.b(self.a(x)).relu()).relu())

    module = Tied()
    structure = trace(module, (X,))
    assert structure.widths == {"a": 6}
    small = cut(module, structure, {"a": mask(6, 3)})
    assert small.b.weight is small.c.weight
    assert small.c.weight.shape == (5, 5, 1, 1)
    assert structure.parameters({"a": 5}) == sum(p.numel() for p in small.parameters())


BAD = {
    "no such group": ({"9": mask(4)}, "no group '9'"),
    "short mask": ({"0": mask(3)}, r"a mask of shape \(3,\)"),
    "nothing left": ({"0": torch.zeros(4, dtype=torch.bool)}, "0 channels to stay; wanted at least 2"),
    "index out of range": ({"3": torch.tensor([0, 3])}, r"distinct indices in \[0, 3\)"),
    "index twice": ({"3": torch.tensor([1, 1])}, r"distinct indices in \[0, 3\)"),
    "scores": ({"0": torch.rand(4)}, "a bool mask or int64 indices"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_keep_is_refused(name):
    module = network()
    keep, message = BAD[name]
    with pytest.raises(TraceError, match=message):
        cut(module, trace(module, (X,)), keep)


def test_another_network_is_refused():
    structure = trace(network(), (X,))
    with pytest.raises(TraceError, match=r"0\.weight: found shape \(7, 3, 3, 3\); wanted \(8, 3, 3, 3\)"):
        cut(nn.Sequential(nn.Conv2d(3, 7, 3)), structure, {})


def test_widths_move_in_steps():
    module = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 16, 1), nn.Conv2d(16, 12, 1), nn.Conv2d(12, 2, 1))
    structure = trace(module, (X,), multiple=16)
    assert [(g.num_channels, g.multiple, g.least) for g in structure.groups] == [(24, 16, 16), (16, 16, 16), (12, 4, 4)]
    assert [p.reason for p in structure.pinned if p.tensor == "1.weight"] == [
        "16 of 16 is its smallest width in steps of 16"
    ]
    with pytest.raises(TraceError, match="20 channels to stay; wanted a multiple of 16, or all 24"):
        cut(module, structure, {"0": mask(24, 0, 1, 2, 3)})
    assert cut(module, structure, {"0": mask(24, *range(8))})[0].out_channels == 16
    with pytest.raises(TraceError, match="multiple=0"):
        trace(module, (X,), multiple=0)


@pytest.mark.parametrize(
    ("keep", "left"), [(["0"], {"3"}), (["Conv2d"], set()), (["BatchNorm2d", "Linear"], {"3"}), ([], {"0", "3"})]
)
def test_what_the_user_keeps_is_kept(keep, left):
    structure = trace(network(), (X,), keep=keep)
    assert set(structure.widths) == left
    if keep:
        assert "kept by the user" in [p.reason for p in structure.pinned]


def test_unknown_names_to_keep_are_refused_with_close_ones():
    with pytest.raises(TraceError, match=r"found 'Conv2'.*Close names: Conv2d"):
        trace(network(), (X,), keep=["Conv2"])


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.a(x)
        return x if x.sum() > 0 else -x


def test_a_branch_on_data_is_refused_with_a_remedy():
    with pytest.raises(TraceError, match=r"network Undecided, forward on example inputs .*torch\.where"):
        trace(Undecided(), (X,))


def test_wrong_example_inputs_are_refused():
    with pytest.raises(TraceError, match="Check that the example inputs fit"):
        trace(network(), (torch.randn(2, 5, 8, 8),))


def test_costs_are_for_one_sample():
    structure, alone = trace(network(), (X,)), trace(network(), (X[:1],))
    assert structure.macs() == alone.macs() == 64 * 8 * 27 + 64 * 6 * 4 * 9 + 384 * 4
    with pytest.raises(TraceError, match="no group 'x'"):
        structure.macs({"x": 1})
