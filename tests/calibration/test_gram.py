"""Gate gradients are derivatives with respect to gates; their Gram matrices say what the theory says."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Group, Reader
from secateur.calibration.batches import per_sample
from secateur.calibration.gram import GateGram, collect_gate_gram, load_gate_gram
from secateur.calibration.readers import channel_axis, tap_readers, weights_of
from secateur.errors import DataError, StorageError, TraceError, TrainingError


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def mean_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets)


def plain(num_channels: int) -> np.ndarray:
    return np.arange(num_channels)[:, None]


def group_of(weight: str, num_channels: int) -> Group:
    """A group with one reader whose input channels are the group's channels."""
    reader = Reader(weight=weight, positions=plain(num_channels))
    return Group(name=weight, num_channels=num_channels, block="", slices=(), readers=(reader,))


def gate_gradients(example: Any, group: Group) -> Tensor:
    """Differentiate every sample's loss with respect to multiplicative gates on all readers, one sample at a time."""
    weights = weights_of(example.module, [reader.weight for reader in group.readers])
    rows = []
    for image, target in zip(example.inputs, example.targets, strict=True):
        gates = torch.ones(group.num_channels, dtype=torch.float64, requires_grad=True)

        def gated(x: Tensor, positions: np.ndarray, axis: int, gates: Tensor = gates) -> Tensor:
            entries = gates[:, None].expand(positions.shape).reshape(-1)
            order = torch.from_numpy(np.argsort(positions.ravel()))
            return x * entries[order].reshape(-1, *(1,) * (-axis - 1))

        taps = {
            r.weight: (lambda x, r=r: gated(x, r.positions, channel_axis(weights[r.weight]))) for r in group.readers
        }
        with tap_readers(example.module, taps):
            loss = cross_entropy(example.module(image[None]), target[None]).sum()
        rows.append(torch.autograd.grad(loss, gates)[0])
    return torch.stack(rows)


@settings(max_examples=6, deadline=None)
@given(batch_size=st.integers(1, 12))
def test_the_gram_is_that_of_single_samples_gates_however_they_are_batched(
    residual: Callable[[int], Any], batch_size: int
) -> None:
    example = residual(3)
    example.module.eval()
    batches = zip(example.inputs.split(batch_size), example.targets.split(batch_size), strict=True)
    result = collect_gate_gram(example.module, example.groups, batches, cross_entropy)
    assert result.num_samples == 12
    for group in example.groups:
        g = gate_gradients(example, group)
        torch.testing.assert_close(result.gram[group.name], g.mT @ g / 12, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(result.saliency(group.name), g.square().mean(0) / 2, rtol=1e-9, atol=1e-12)


def test_a_gate_gradient_is_the_finite_difference_of_the_loss(residual: Callable[[int], Any]) -> None:
    example, step = residual(4), 1e-5
    module, group = example.module.eval(), example.groups[0]
    for sample, channel in ((0, 1), (5, 7)):
        image, target = example.inputs[sample : sample + 1], example.targets[sample : sample + 1]

        def loss_at(gate: float, channel: int = channel, image: Tensor = image, target: Tensor = target) -> float:
            scale = torch.ones(8, dtype=torch.float64)
            scale[channel] = gate
            with tap_readers(module, {r.weight: lambda x: x * scale[:, None, None] for r in group.readers}):
                return cross_entropy(module(image), target).item()

        difference = (loss_at(1 + step) - loss_at(1 - step)) / (2 * step)
        result = collect_gate_gram(module, [group], [(image, target)], cross_entropy)
        assert result.gram["stem"][channel, channel].item() == pytest.approx(difference**2, rel=1e-5)


def test_a_batch_mean_loss_gives_the_same_gram(residual: Callable[[int], Any]) -> None:
    example = residual(5)
    batches = [(example.inputs[:7], example.targets[:7]), (example.inputs[7:], example.targets[7:])]
    one = collect_gate_gram(example.module, example.groups, batches, cross_entropy)
    other = collect_gate_gram(example.module, example.groups, batches, per_sample(mean_cross_entropy))
    for name in one.gram:
        torch.testing.assert_close(one.gram[name], other.gram[name], rtol=1e-12, atol=1e-15)


def test_each_batch_is_differentiated_once_and_none_is_kept(residual: Callable[[int], Any]) -> None:
    example, seen, backward = residual(6), list[weakref.ref[Tensor]](), list[int]()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        found = cross_entropy(outputs, targets)
        found.register_hook(lambda _: backward.append(1))
        return found

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in zip(example.inputs.split(2), example.targets.split(2), strict=True):
            fresh = inputs.clone()
            seen.append(weakref.ref(fresh))
            yield fresh, targets
            # What the pass holds now is the last batch, and the generator that and no other.
            assert [ref() is not None for ref in seen] == [False] * (len(seen) - 1) + [True]

    collect_gate_gram(example.module, example.groups, batches(), loss)
    assert len(seen) == len(backward) == 6


class Branches(nn.Module):
    """Two readers whose gate gradients are a and b, and the loss is their sum: x (a + b)."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.a.weight.data.fill_(a)
        self.b.weight.data.fill_(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


@settings(max_examples=30, deadline=None)
@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_members_are_added_before_they_are_squared(a: float, b: float) -> None:
    readers = (Reader(weight="a.weight", positions=plain(1)), Reader(weight="b.weight", positions=plain(1)))
    group = Group(name="x", num_channels=1, block="", slices=(), readers=readers)
    batch = (torch.tensor([[1.0], [2.0]]), torch.zeros(2))
    gram = collect_gate_gram(Branches(a, b).double(), [group], [(batch[0].double(), batch[1])], lambda y, _: y[:, 0])
    assert gram.gram["x"].item() == pytest.approx((1 + 4) / 2 * (a + b) ** 2, rel=1e-5, abs=1e-9)


def test_planted_redundancy_shows_as_exactly_as_many_null_directions() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(160, 4)
    ).double()
    first, second = module[0], module[2]
    with torch.no_grad():
        for copy, original in ((4, 8), (5, 9), (6, 10), (7, 11), (12, 16), (13, 17), (14, 18), (15, 19)):
            first.weight[copy], first.bias[copy] = first.weight[original], first.bias[original]
        for factor, (copy, original) in zip((0.5, 2.0, -1.0, 3.0), ((4, 8), (5, 9), (6, 10), (7, 11)), strict=True):
            second.weight[:, copy] = factor * second.weight[:, original]  # 12-15 keep outgoing weights of their own
        second.weight[:, :4] = 0  # eliminated: nothing reads them
    batch = (torch.randn(400, 3, 8, 8, dtype=torch.float64), torch.randint(0, 4, (400,)))
    gram = collect_gate_gram(module, [group_of("2.weight", 24)], [batch], cross_entropy).gram["2.weight"]
    eigenvalues = torch.linalg.eigvalsh(gram)
    assert int((eigenvalues < 1e-12 * eigenvalues[-1]).sum()) == 8
    assert torch.equal(gram.diagonal()[:4], torch.zeros(4, dtype=torch.float64))


def test_the_gram_of_a_permuted_network_is_permuted(residual: Callable[[int], Any]) -> None:
    example = residual(6)
    before = collect_gate_gram(example.module, example.groups, [(example.inputs, example.targets)], cross_entropy).gram
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    state = {name: tensor.clone() for name, tensor in example.module.state_dict().items()}
    for part in next(g for g in example.groups if g.name == "first").slices:
        state[part.tensor] = state[part.tensor].index_select(part.axis, order)
    permuted = type(example.module)().double()
    permuted.load_state_dict(state)
    after = collect_gate_gram(permuted, example.groups, [(example.inputs, example.targets)], cross_entropy).gram
    torch.testing.assert_close(after["first"], before["first"][order][:, order], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(after["stem"], before["stem"], rtol=1e-9, atol=1e-14)


def test_batch_norm_affine_gradients_agree_with_the_gates(residual: Callable[[int], Any]) -> None:
    """g_ni = gamma_i dL_n/dgamma_i + beta_i dL_n/dbeta_i, because ReLU is homogeneous."""
    example = residual(7)
    module = example.module.eval()
    result = collect_gate_gram(module, example.groups, [(example.inputs[:1], example.targets[:1])], cross_entropy)
    norm = module.first_norm
    loss = cross_entropy(module(example.inputs[:1]), example.targets[:1]).sum()
    by_weight, by_bias = torch.autograd.grad(loss, (norm.weight, norm.bias))
    g = norm.weight * by_weight + norm.bias * by_bias
    torch.testing.assert_close(result.gram["first"], torch.outer(g, g).detach(), rtol=1e-9, atol=1e-14)


def test_the_network_is_left_as_it_was(residual: Callable[[int], Any]) -> None:
    example = residual(8)
    module = example.module
    module.train()
    module.first.eval()
    module.second.weight.requires_grad_(False)
    module.skip.weight.grad = torch.ones_like(module.skip.weight)
    module.register_buffer("calls", torch.zeros(()))
    module.register_forward_pre_hook(lambda m, _: m.calls.add_(1) and None)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = {name: m.training for name, m in module.named_modules()}
    required = {name: p.requires_grad for name, p in module.named_parameters()}
    random = torch.get_rng_state()

    collect_gate_gram(module, example.groups, [(example.inputs, example.targets)], cross_entropy)

    assert torch.equal(torch.get_rng_state(), random)
    assert {name: m.training for name, m in module.named_modules()} == modes
    assert {name: p.requires_grad for name, p in module.named_parameters()} == required
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert len(module._forward_pre_hooks) == 1
    assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())
    assert torch.equal(module.skip.weight.grad, torch.ones_like(module.skip.weight))
    assert all(p.grad is None for name, p in module.named_parameters() if name != "skip.weight")
    del module.calls
    module._forward_pre_hooks.clear()


def test_a_network_that_fails_is_left_as_it_was_too(residual: Callable[[int], Any]) -> None:
    example = residual(0)
    module = example.module.train()
    with pytest.raises(RuntimeError):
        collect_gate_gram(module, example.groups, [(torch.zeros(4, 2, 6, 6).double(), None)], cross_entropy)
    assert all(m.training for m in module.modules())
    assert all(p.requires_grad for p in module.parameters())


def test_a_loss_that_is_not_finite_names_its_batch(residual: Callable[[int], Any]) -> None:
    example = residual(9)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets) / (targets != 3)

    batches = [
        (example.inputs[:2], torch.tensor([0, 1])),
        (example.inputs[2:4], torch.tensor([2, 3])),
    ]
    with pytest.raises(TrainingError, match=r"calibration pass, batch 1: found a loss of inf; wanted a finite loss"):
        collect_gate_gram(example.module, example.groups, batches, loss)


def test_a_layer_that_is_never_met_is_named() -> None:
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    module.forward = module["used"].forward
    with pytest.raises(
        TraceError, match=r"unused\.weight: found a weight that no convolution or linear layer was called"
    ):
        collect_gate_gram(
            module,
            [group_of("unused.weight", 3)],
            [(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))],
            cross_entropy,
        )


def test_no_batches_are_an_error_and_no_groups_are_not(residual: Callable[[int], Any]) -> None:
    example = residual(0)
    with pytest.raises(DataError, match="calibration pass: found no batches; wanted at least one"):
        collect_gate_gram(example.module, example.groups, [], cross_entropy)
    empty = collect_gate_gram(example.module, [], [(example.inputs, example.targets)], cross_entropy)
    assert empty.gram == {}
    assert empty.num_samples == 12


def test_a_file_keeps_everything_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    g = torch.randn(20, 5, dtype=torch.float64)
    gram = GateGram(gram={"a.b#2": g.mT @ g, "c": torch.eye(2, dtype=torch.float64)}, num_samples=20, labels="sampled")
    path = tmp_path / "new" / "gram.safetensors"
    gram.save(path)
    read = load_gate_gram(path)
    assert (read.num_samples, read.labels, set(read.gram)) == (20, "sampled", {"a.b#2", "c"})
    assert all(torch.equal(read.gram[name], gram.gram[name]) for name in gram.gram)
    assert [p.name for p in path.parent.iterdir()] == ["gram.safetensors"]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(StorageError, match=r"gram\.safetensors: found .*wanted a gate Gram file"):
        load_gate_gram(path)
    with pytest.raises(StorageError, match="absent"):
        load_gate_gram(tmp_path / "absent")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gram_is_the_same_on_a_gpu(residual: Callable[[int], Any]) -> None:
    example = residual(2)
    batch = [(example.inputs, example.targets)]
    on_cpu = collect_gate_gram(example.module, example.groups, batch, cross_entropy)
    on_gpu = collect_gate_gram(example.module.cuda(), example.groups, batch, cross_entropy)
    example.module.cpu()
    for name in on_cpu.gram:
        torch.testing.assert_close(on_gpu.gram[name], on_cpu.gram[name], rtol=1e-8, atol=1e-12)
