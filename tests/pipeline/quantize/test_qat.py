"""Training of rounded networks: the same numbers as the file, the gradients as published, nothing lost on the way."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import Case, outputs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, Metric, Model, Task
from secateur.errors import EqualityError, ExportError, TrainingError
from secateur.pipeline.export import export
from secateur.pipeline.finetune import DistillationWeights, Finetune
from secateur.pipeline.quantize import TARGETS, Qat, Quantize
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.fake import FakeQuantized, rounded
from secateur.pipeline.quantize.grid import Steps
from secateur.pipeline.quantize.operators import OPERATORS
from secateur.pipeline.sparsity import Sparsify

INTEGRAL = [name for name, target in TARGETS.items() if target.grid.integral]
targets = pytest.mark.parametrize("target", INTEGRAL)


def model_of(case: Case) -> Model:
    return Model(module=case.module, example_inputs=(case.batches[0][:2],))


def called(module: FakeQuantized, batch: Tensor) -> np.ndarray:
    with torch.no_grad():
        return module(batch).numpy()


@pytest.mark.parametrize("name", ["residual", "mlp", "resnet20", "mobilenet_v2", "vit"])
@targets
def test_what_is_trained_is_what_the_file_computes(
    name: str, target: str, case: Callable[[str], Case], tmp_path: Path
) -> None:
    """But for sums in another order, which carry a value over the border between two integers now and then.

    They make no more of a difference than float64 does in torch, or a tenth of what rounding makes.
    """
    made, quantize = case(name), Quantize(target=target, weight_bits=7)
    calibrated = quantize.correct(quantize.calibrate(made.exported, made.batches), made.batches)
    found = quantize.write(calibrated, made.batches, tmp_path, name="file")
    module, batch = FakeQuantized(calibrated, model_of(made)).eval(), made.batches[1]
    wanted, got = outputs(found.exported.path, batch), called(module, batch)
    noise = np.abs(wanted - outputs(made.exported.path, batch)).mean()
    by_order = np.abs(called(copy.deepcopy(module).double(), batch.double()) - got).mean()
    assert np.abs(got - wanted).mean() <= max(0.1 * noise, 2 * by_order)


def powers_of_two(calibrated: Calibrated) -> Calibrated:
    """Take scales with which sums in float32 are exact."""

    def power(scale: np.ndarray | float) -> np.ndarray:
        return np.exp2(np.ceil(np.log2(scale))).astype(np.float32)

    steps = {n: replace(s, scale=float(power(s.scale))) for n, s in calibrated.steps.items()}
    weights = {n: replace(w, scales=power(w.scales)) for n, w in calibrated.weights.items()}
    return replace(calibrated, steps=steps, weights=weights)


class Exact(nn.Module):
    """Nothing but products, sums and clamps of random shapes."""

    def __init__(self, width: int, groups: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, stride=stride, bias=False)
        self.middle = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.last = nn.Linear(width * 16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.middle(x))
        return self.last(functional.max_pool2d(x, x.shape[-1] // 4).flatten(1))


@settings(max_examples=5, deadline=None)
@given(
    target=st.sampled_from(sorted(INTEGRAL)), bits=st.integers(2, 8), shape=st.sampled_from([(4, 1), (4, 2), (6, 6)]),
    stride=st.sampled_from([1, 2]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_where_sums_are_exact_it_is_the_file_bit_by_bit(
    target: str, bits: int, shape: tuple[int, int], stride: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(seed)
    folder = tmp_path_factory.mktemp("exact")
    module = Exact(*shape, stride).eval()
    model = Model(module=module, example_inputs=(torch.randn(2, 3, 8, 8),))
    quantize = Quantize(target=target, weight_bits=bits, corrections=())
    batches = [torch.randn(4, 3, 8, 8)]
    source = export(model, folder, name="float", tolerance=1e-3)
    before = powers_of_two(quantize.calibrate(source, batches))
    fake = FakeQuantized(before, model).eval()
    found = quantize.write(fake.calibrated(before), batches, folder, name="file")
    assert np.array_equal(called(fake, batches[0]), outputs(found.exported.path, batches[0]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(-128, 127), (0, 255), (-3, 252), (-1, 1)]), st.floats(0.01, 10))
def test_gradients_are_those_of_learned_steps(seed: int, ends: tuple[int, int], scale: float) -> None:
    low, high = ends
    x = (torch.randn(64, generator=torch.Generator().manual_seed(seed)) * scale * high).requires_grad_()
    s = torch.tensor(scale, requires_grad=True)
    y = rounded(x, s, low, high, 0.5)
    upstream = torch.linspace(-1, 1, 64)
    y.backward(upstream)
    steps = (x / s).detach()
    q = steps.round()
    inside = (q >= low) & (q <= high)
    assert torch.equal(y.detach(), q.clamp(low, high) * s.detach())
    assert x.grad is not None
    assert torch.equal(x.grad, upstream * inside)
    slope = torch.where(inside, q - steps, q.clamp(low, high))
    assert s.grad is not None
    assert float(s.grad) == pytest.approx(0.5 * float((slope * upstream).sum()), rel=1e-3, abs=1e-4)


@targets
@pytest.mark.parametrize("corrections", [(), ("equalisation", "adaround", "bias")])
def test_what_is_not_trained_stays_as_it_was_calibrated(
    target: str, corrections: tuple[str, ...], case: Callable[[str], Case]
) -> None:
    made, quantize = case("residual"), Quantize(target=target, weight_bits=4, corrections=corrections)
    before = quantize.correct(quantize.calibrate(made.exported, made.batches), made.batches)
    after = FakeQuantized(before, model_of(made)).calibrated(before)
    for name, weights in before.weights.items():
        assert np.array_equal(after.weights[name].integers, weights.integers)
        assert np.array_equal(after.weights[name].scales, weights.scales)
        assert after.weights[name].bits == 4
    assert {n: s.scale for n, s in after.steps.items()} == {n: np.float32(s.scale) for n, s in before.steps.items()}


def classes(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


TASK = Task(
    name="quadrants",
    loss=classes,
    metrics={"loss": Metric(per_sample=classes, higher_is_better=False)},
    primary="loss",
    distill=lambda outputs, reference, temperature: functional.kl_div(
        outputs.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True
    ).sum(1),
)
FINETUNE = Finetune(
    epochs=8, batch_size=32, learning_rate=1e-2, validation_share=0.0, device="cpu",
    weights=DistillationWeights(task=0.0, output=1.0, feature=0.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Data, Path]:
    """Return a network that tells in which quadrant a point lies, its data and its file."""
    torch.manual_seed(0)
    points = torch.randn(320, 8)
    labels = (points[:, 0] > 0).long() * 2 + (points[:, 1] > 0).long()
    module = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        classes(module(points), labels).mean().backward()
        optimizer.step()
    model = Model(module=module.eval(), example_inputs=(points[:2],))
    data = Data(train=TensorDataset(points[:256], labels[:256]), test=TensorDataset(points[256:], labels[256:]))
    return model, data, export(model, tmp_path_factory.mktemp("learned"), name="float", tolerance=1e-3).path


def samples_of(data: Data) -> list[Tensor]:
    return [torch.stack([data.train[i][0] for i in range(64)])]


def distance(found: np.ndarray, model: Model, inputs: Tensor) -> float:
    with torch.no_grad():
        return float(TASK.distill(torch.from_numpy(found), model.module(inputs), 1.0).mean())


@targets
@pytest.mark.parametrize(("bits", "stages"), [(3, ()), (2, (4,))])
def test_training_brings_coarse_weights_back(
    target: str, bits: int, stages: tuple[int, ...], learned: tuple[Model, Data, Path], tmp_path: Path
) -> None:
    model, data, source = learned
    samples, quantize = samples_of(data), Quantize(target=target, weight_bits=bits)
    before = quantize.correct(quantize.calibrate(source, samples), samples)
    plain = quantize.write(before, samples, tmp_path, name="plain")
    after, results = Qat(finetune=FINETUNE, stages=stages)(before, model, TASK, data, samples)
    trained = quantize.write(after, samples, tmp_path, name="trained")
    assert len(results) == len(stages) + 1
    assert {layer.weight_bits for layer in trained.result.layers} == {bits}
    assert not trained.result.unfused or trained.result.unfused == plain.result.unfused
    assert all(np.abs(w.integers).max() <= w.most and (w.scales > 0).all() for w in after.weights.values())
    inputs = samples[0]
    lost = distance(outputs(plain.exported.path, inputs), model, inputs)
    left = distance(outputs(trained.exported.path, inputs), model, inputs)
    assert left < 0.5 * lost
    again = called(FakeQuantized(after, model).eval(), inputs)
    assert np.median(np.abs(again - outputs(trained.exported.path, inputs))) <= 1e-4


def test_no_training_is_kept_that_ends_worse(learned: tuple[Model, Data, Path]) -> None:
    model, data, source = learned
    samples, quantize = samples_of(data), Quantize()
    before = quantize.calibrate(source, samples)
    hasty = replace(FINETUNE, learning_rate=3.0, validation_share=0.2, epochs=1)
    after, (result,) = Qat(finetune=hasty)(before, model, TASK, data, samples)
    assert result.best_epoch == 0
    assert all(np.array_equal(after.weights[n].integers, w.integers) for n, w in before.weights.items())


def test_scales_stay_where_they_are_not_learned(learned: tuple[Model, Data, Path]) -> None:
    model, data, source = learned
    samples, quantize = samples_of(data), Quantize(weight_bits=4)
    before = quantize.calibrate(source, samples)
    found = {}
    for learn in (True, False):
        found[learn], _ = Qat(finetune=FINETUNE, learn_scales=learn)(before, model, TASK, data, samples)
    assert found[False].steps == {n: Steps(scale=s.scale, zero_point=0) for n, s in before.steps.items()}
    assert all(found[True].steps[n] != s for n, s in before.steps.items())


class StoppedError(Exception):
    """Stands for a machine that is switched off."""


def test_an_interrupted_training_goes_on_to_the_same_bits(learned: tuple[Model, Data, Path], tmp_path: Path) -> None:
    model, data, source = learned
    samples, quantize = samples_of(data), Quantize(weight_bits=3)
    before, qat = quantize.calibrate(source, samples), Qat(finetune=replace(FINETUNE, epochs=3), stages=(5,))
    whole, _ = qat(before, model, TASK, data, samples)
    calls = []

    def stop(told: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 36:  # in the middle of the second stage
            raise StoppedError

    with pytest.raises(StoppedError):
        qat(before, model, TASK, data, samples, checkpoint_folder=tmp_path, progress=stop)
    resumed, results = qat(before, model, TASK, data, samples, checkpoint_folder=tmp_path)
    assert len(results) == 2
    assert resumed.steps == whole.steps
    for name, weights in whole.weights.items():
        assert np.array_equal(resumed.weights[name].integers, weights.integers)
        assert np.array_equal(resumed.weights[name].scales, weights.scales)


def test_zeros_stay_where_they_must(learned: tuple[Model, Data, Path], tmp_path: Path) -> None:
    model, data, _ = learned
    sparse, masks = Sparsify()(model, TASK, data)
    source, samples = export(sparse, tmp_path, name="sparse", tolerance=1e-3), samples_of(data)
    quantize = Quantize(weight_bits=4, corrections=("adaround", "bias"))
    before = quantize.correct(quantize.calibrate(source, samples), samples)
    after, _ = Qat(finetune=FINETUNE, keep_zeros=True)(before, sparse, TASK, data, samples)
    assert len(masks) == 3
    for weights in after.weights.values():
        rows = np.moveaxis(weights.integers, weights.axis, 0)
        assert ((rows.reshape(len(rows), -1, 4) != 0).sum(2) <= 2).all()


def test_what_cannot_be_trained_is_refused(
    learned: tuple[Model, Data, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, source = learned
    samples, quantize = samples_of(data), Quantize()
    before = quantize.calibrate(source, samples)
    fixed = export(model, tmp_path, name="fixed", dynamic_batch=False)
    with pytest.raises(ExportError, match="a fixed batch size"):
        Qat()(quantize.calibrate(fixed, [samples[0][:2]]), model, TASK, data, samples)
    with pytest.raises(ExportError, match="falling bits"):
        Qat(stages=(4, 6))
    proto = before.graph.proto.__class__()
    proto.CopyFrom(before.graph.proto)
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "ThresholdedRelu"
    with pytest.raises(ExportError, match="the operator ThresholdedRelu"):
        FakeQuantized(replace(before, graph=replace(before.graph, proto=proto)), model)
    poisoned = replace(data, train=TensorDataset(torch.full((64, 8), 1e38), torch.zeros(64, dtype=torch.int64)))
    with pytest.raises(TrainingError, match="not finite"):
        Qat(finetune=FINETUNE)(before, model, TASK, poisoned, samples)
    monkeypatch.setitem(OPERATORS, "Relu", lambda inputs, attributes: inputs[0])
    with pytest.raises(EqualityError, match="the network to train"):
        Qat(finetune=FINETUNE)(before, model, TASK, data, samples)
