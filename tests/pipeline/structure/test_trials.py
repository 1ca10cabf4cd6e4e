"""What trial cuts find out: the line of code that froze a width, and differences in the last digits."""

import pytest
import torch
from networks import SelfAttention, lowered, scaled
from torch import nn

from secateur.pipeline.structure import Plan, cut, trace
from secateur.pipeline.structure.blame import blame
from secateur.pipeline.structure.subject import Subject

X = torch.randn(2, 3, 8, 8)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = Squeezed(), nn.Linear(8, 4)
        self.stem = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.head(self.inner(self.stem(x)))


class Squeezed(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 8, 64).mean(2)  # a width in the code


def test_the_line_that_froze_a_width_is_named():
    structure = trace(Frozen(), (X,))
    (pinned,) = [p for p in structure.pinned if p.tensor == "stem.weight"]
    assert structure.widths == {}
    assert "test_trials.py:" in pinned.reason
    assert "in inner (Squeezed), `return x.reshape(-1, 8, 64).mean(2)" in pinned.reason
    assert "RuntimeError" in pinned.reason


def test_an_error_of_pytorch_is_blamed_on_the_line_that_called_it():
    module = Frozen()
    with pytest.raises(RuntimeError) as caught:
        module(torch.randn(2, 5, 8, 8))
    text, owner = blame(caught.value, module)
    assert "in forward (Frozen), `return self.head(self.inner(self.stem(x)))" in text
    assert owner is module
    assert blame(ValueError("a message"), module) == ("ValueError: a message", None)


def test_trials_are_in_double_precision_even_where_the_network_lowers_it():
    module, x = nn.Sequential(nn.Linear(6, 12), SelfAttention(lowered), nn.Linear(12, 4)).eval(), torch.randn(2, 5, 6)
    subject = Subject(module, (x,), wants_double=True)
    (found,) = subject.run(subject.module)
    assert found.dtype == torch.float64
    assert not subject.falls_back()
    assert subject.module[0].weight is module[0].weight
    structure = trace(module, (x,))
    assert structure.widths == {"0": 12, "1.qkv": 6, "1.proj": 12}
    assert cut(module, structure, Plan.random(structure, 0.5))(x).dtype == torch.float32


def test_double_precision_is_the_networks_own_in_double():
    module, x = nn.Sequential(nn.Linear(6, 12), SelfAttention(scaled), nn.LayerNorm(12)).eval(), torch.randn(2, 5, 6)
    (found,) = Subject(module, (x,), wants_double=True).run(module)
    with torch.no_grad():
        assert torch.allclose(found, module.double()(x.double()), rtol=1e-12, atol=1e-12)


class Counting(nn.Module):
    """Write into tensors of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        held = torch.zeros(len(x), 3)
        held[:] = x
        self.total += held.sum(0) / 3
        return held + self.total


def test_what_is_written_into_is_found_again_in_double_precision():
    module, x = Counting(), torch.randn(4, 3)
    (found,) = Subject(module, (x,), wants_double=True).run(module)
    assert torch.allclose(found, x.double() + x.double().sum(0) / 3, rtol=1e-12, atol=1e-12)


class Refusing(nn.Module):
    def forward(self, x):
        if x.dtype == torch.float64:
            raise TypeError("single precision only")
        return x


def test_networks_that_refuse_double_precision_are_tried_in_their_own():
    module = nn.Sequential(nn.Linear(3, 4), Refusing())
    subject = Subject(module, (torch.randn(2, 3),), wants_double=True)
    assert subject.falls_back()
    assert subject.run(module)[0].dtype == torch.float32
    assert not subject.falls_back()


def test_weights_that_start_at_zero_hide_nothing():
    def networks():
        torch.manual_seed(0)
        block = SelfAttention(scaled)
        return nn.Sequential(nn.Linear(6, 12), block, nn.Linear(12, 4)).eval()

    trained, fresh, x = networks(), networks(), torch.randn(2, 5, 6)
    nn.init.zeros_(fresh[2].weight)
    kept = {name: p.clone() for name, p in fresh.named_parameters()}
    structures = [trace(module, (x,)) for module in (trained, fresh)]
    assert any(group.roots for group in structures[0].groups)
    assert structures[0].fingerprint == structures[1].fingerprint
    assert all(torch.equal(p, kept[name]) for name, p in fresh.named_parameters())
