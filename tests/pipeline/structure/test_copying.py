"""Copies of networks are as deep as copy.deepcopy makes them, but for what is replaced or shared."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from secateur.errors import TraceError
from secateur.pipeline.structure.copying import copy_of


class Listed(nn.Module):
    """Refer to parts in ways of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.parts, self.note = [self.a, self.b], {"sizes": [4, 4]}
        self.register_buffer("scale", torch.ones(4))
        self.a.register_forward_hook(self.watch)
        self.calls = 0

    def watch(self, *_):
        self.calls += 1

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x * self.scale


@pytest.mark.parametrize(
    "module",
    [Listed(), nn.LSTM(3, 4), parametrizations.weight_norm(nn.Linear(4, 4)), nn.Sequential(nn.BatchNorm1d(4))],
    ids=["listed", "lstm", "parametrised", "norm"],
)
def test_a_copy_is_a_deep_copy(module):
    module.eval()
    found, wanted = copy_of(module), copy.deepcopy(module)
    assert type(found) is type(wanted)
    assert not found.training
    assert vars(found).keys() == vars(wanted).keys()
    own = {id(t) for t in (*module.parameters(), *module.buffers())}
    for (one, a), (two, b) in zip(found.state_dict().items(), wanted.state_dict().items(), strict=True):
        assert one == two
        assert torch.equal(a, b)
    assert not own & {id(t) for t in (*found.parameters(), *found.buffers())}


def test_a_copy_refers_to_itself():
    module = Listed()
    found = copy_of(module)
    found(torch.ones(1, 4))
    assert found.parts[0] is found.a
    assert found.a.weight is found.b.weight
    assert (found.calls, module.calls) == (1, 0)
    found.note["sizes"].append(1)
    assert module.note == {"sizes": [4, 4]}


def test_replaced_tensors_stay_tied_and_train_as_before():
    module = Listed()
    module.a.weight.requires_grad_(False)
    found = copy_of(module, {"b.weight": torch.zeros(2, 4), "scale": torch.zeros(2)})
    assert found.a.weight is found.b.weight
    assert found.a.weight.shape == (2, 4)
    assert not found.a.weight.requires_grad
    assert found.scale.shape == (2,)
    assert module.a.weight.shape == (4, 4)


def test_shared_parameters_are_the_networks_own_and_buffers_are_not():
    module = Listed()
    found = copy_of(module, {"a.bias": torch.zeros(4)}, shares_parameters=True)
    assert found.a.weight is module.a.weight
    assert found.a.bias is not module.a.bias
    assert found.scale is not module.scale
    assert torch.equal(found.scale, module.scale)


def test_a_network_that_refuses_is_named():
    module = nn.Linear(2, 2)
    module.kept = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(TraceError, match=r"network Linear.*a network that copy\.deepcopy can copy"):
        copy_of(module)
