"""Gates: the scales are the best ones, and folding them into readers is the same function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import randomise_norms
from torch import nn
from torchvision import models

from secateur.calibration.gram import GateGram, collect_gate_gram
from secateur.calibration.masks import as_mask
from secateur.calibration.norms import gated_norms
from secateur.calibration.readers import tap_readers
from secateur.errors import DataError
from secateur.pipeline.compensation import COMPENSATIONS, Removal
from secateur.pipeline.compensation.gates import Gates, optimal_gates
from secateur.pipeline.structure import Plan, cut, trace


@given(seed=st.integers(0, 10**6), num=st.integers(2, 12), rank=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_no_other_scales_cost_less(seed, num, rank):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(rank, num, dtype=torch.float64, generator=generator)
    gram, stays = g.T @ g, torch.rand(num, generator=generator) < 0.6
    ridge = 1e-3 * gram.diagonal().mean()

    def cost(m):
        return (m - 1) @ gram @ (m - 1) / 2 + ridge * ((m - 1)[stays] ** 2).sum() / 2

    best = optimal_gates(gram, stays, 1e-3)
    assert (best[~stays] == 1).all()
    found = torch.where(stays, best, 0.0)
    for _ in range(5):
        other = torch.where(stays, found + torch.randn(num, dtype=torch.float64, generator=generator) * 0.1, 0.0)
        assert cost(found) <= cost(other) + 1e-12 * gram.diagonal().mean()


def test_channels_that_nothing_depends_on_leave_all_scales_at_one():
    stays = torch.tensor([True, False, True])
    assert torch.equal(optimal_gates(torch.zeros(3, 3, dtype=torch.float64), stays, 1e-3), torch.ones(3).double())


def case(module, shape):
    torch.manual_seed(0)
    module, x = module.double().eval(), torch.randn(6, *shape, dtype=torch.float64)
    structure = trace(module, (x[:2],))
    batches = [(x, torch.zeros(6, dtype=torch.int64))]
    gram = collect_gate_gram(module, structure.groups, batches, lambda y, t: nn.functional.cross_entropy(y, t))
    plan = Plan.random(structure, keep=0.7, seed=1)
    return Removal(module=module, structure=structure, keep=plan.kept, samples=batches, gate_gram=gram), x


NETWORKS = {
    "resnet18": (lambda: randomise_norms(models.resnet18(num_classes=5)), (3, 32, 32)),
    "mobilenet_v2": (lambda: randomise_norms(models.mobilenet_v2(num_classes=5, width_mult=0.5)), (3, 32, 32)),
    "shufflenet": (lambda: randomise_norms(models.shufflenet_v2_x0_5(num_classes=5)), (3, 64, 64)),
    "transposed and grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, 2), nn.ReLU(), nn.Conv2d(12, 8, 3, groups=2),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        ), (3, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_scales_in_the_readers_are_gates_on_what_they_read(name):
    build, shape = NETWORKS[name]
    removal, x = case(build(), shape)
    masks, taps = {}, {}
    for group in removal.structure.groups:
        if group.name not in removal.keep:
            continue
        stays = as_mask(removal.keep[group.name], group.num_channels)
        gates = optimal_gates(removal.gate_gram.gram[group.name], stays, Gates().damping) * stays
        masks[group.name] = stays
        for reader in group.readers:
            taps.setdefault(reader.weight, []).append((torch.from_numpy(reader.positions), gates))

    def gated(parts, axis):
        def transform(inputs):
            factors = torch.ones(inputs.shape[axis], dtype=inputs.dtype)
            for positions, gates in parts:
                factors[positions] = gates[:, None]
            return inputs * factors.reshape(-1, *(1,) * (-1 - axis))

        return transform

    weights = dict(removal.module.named_parameters())
    transforms = {name: gated(parts, min(1 - weights[name].ndim, -1)) for name, parts in taps.items()}
    with torch.no_grad(), gated_norms(removal.module, removal.structure.groups, masks):
        with tap_readers(removal.module, transforms):
            wanted = removal.module(x)
        found, bare = Gates()(removal)(x), cut(removal.module, removal.structure, removal.keep)(x)
    assert (found - wanted).abs().max() < 1e-9 * wanted.abs().max()
    assert (found - bare).abs().max() > 1e-6 * wanted.abs().max()


def test_gradients_that_were_not_collected_are_asked_for():
    removal, _ = case(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), (4,))
    for gram in (None, GateGram(gram={}, num_samples=6)):
        without = Removal(
            module=removal.module, structure=removal.structure, keep=removal.keep, samples=removal.samples,
            gate_gram=gram,
        )  # fmt: skip
        with pytest.raises(DataError, match="compensation by gates, group 0: found no gate gradients"):
            COMPENSATIONS["gates"](without)
