"""What cannot be traced is refused with a remedy, before anything is done with it."""

import numpy as np
import pytest
import torch
from torch import nn

from secateur.errors import TraceError
from secateur.pipeline.structure import trace
from secateur.pipeline.structure.admission import require_traceable

X = torch.randn(2, 3, 8, 8)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def with_entry(value):
    module = network()
    module[2].weight.data[0, 1] = value
    return module


def half_on_meta():
    module = network()
    module[2].to("meta")
    return module


REFUSED = {
    "weights of NaN": (lambda: (with_entry(torch.nan), (X,)), r"2\.weight: found 1 entries that are NaN or infinite"),
    "infinite weights": (lambda: (with_entry(torch.inf), (X,)), r"2\.weight: found 1 entries that are NaN or infinite"),
    "inputs of NaN": (lambda: (network(), (X * torch.nan,)), r"example_inputs\[0\]: found 384 entries that are NaN"),
    "weights without values": (lambda: (half_on_meta(), (X,)), r"2\.weight: found a tensor on the meta device"),
    "inputs elsewhere": (lambda: (network(), (X.to("meta"),)), r"example_inputs\[0\]: found a tensor on the meta"),
    "no samples": (lambda: (network(), (X[:0],)), r"found shape \(0, 3, 8, 8\); wanted at least one sample"),
    "lazy layers": (lambda: (nn.Sequential(nn.LazyConv2d(4, 1)), (X,)), r"0\.weight: found a lazy parameter"),
    "another number of inputs": (lambda: (network(), ()), r"network Sequential, forward on example inputs \[\]"),
    "another precision": (lambda: (network().half(), (X,)), r"network Sequential, .*should be the same"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused(name):
    build, message = REFUSED[name]
    with pytest.raises(TraceError, match=message):
        trace(*build())


# The types of arguments, which the tests' own checks of types would refuse before `trace` sees them.
WRONG_TYPES = {
    "a tensor alone": ({"example_inputs": X}, r"example_inputs: found Tensor; wanted a tuple .* Use \(x,\)"),
    "an array": ({"example_inputs": (np.zeros(3),)}, r"example_inputs: found tuple of ndarray; wanted"),
    "a function": ({"module": network().forward}, r"module: found method; wanted a torch\.nn\.Module"),
    "one name": ({"keep": "0"}, r"keep: found '0'; wanted a sequence of names\. Use \['0'\]"),
    "no step": ({"multiple": 0}, "multiple=0; wanted a step of at least 1 channel"),
    "part of a step": ({"multiple": 2.5}, "multiple=2.5; wanted a step of at least 1 channel"),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_arguments_of_other_types_are_refused(name):
    wrong, message = WRONG_TYPES[name]
    with pytest.raises(TraceError, match=message):
        require_traceable(**{"module": network(), "example_inputs": (X,), "keep": (), "multiple": 1, **wrong})


class Overflowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return self.layers(x).square().exp().exp().exp() * 0 + torch.nan


def test_outputs_that_are_no_numbers_prove_nothing():
    structure = trace(Overflowing(), (X,))
    assert structure.widths == {}
    assert "an output is NaN or infinite throughout, so that no cut can be checked" in {
        p.reason for p in structure.pinned
    }
