"""A whole estimate of a small trained network: every matrix and rule, dead channels, tau by measurement."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, DeadChannels, LatencyGrid, Metric, Model, Redundancy, Task
from secateur.calibration.batches import mean_loss
from secateur.errors import DataError, LoadError
from secateur.pipeline.redundancy import EFFECTIVE, MATRICES, Estimate, effective_filters, with_latency
from secateur.pipeline.structure import Structure, trace
from secateur.pipeline.structure.layer_calls import layers_of
from secateur.report.redundancy import found_told, rule_told
from secateur.report.tables.cutting import compression_table

torch.set_num_threads(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def sampled(outputs: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    softened = outputs / temperature
    labels = torch.multinomial(softened.detach().softmax(1), 1, generator=generator)[:, 0]
    return cross_entropy(softened, labels)


TASK = Task(
    name="quadrants", loss=cross_entropy, sampled_loss=sampled, primary="top1",
    metrics={"top1": Metric(per_sample=lambda y, t: (y.argmax(1) == t).float())},
    distill=lambda y, t, _: (y - t).square().mean(1),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> tuple[Model, Data, Structure]:
    """A network that tells which quadrant is brightest, with copies, a constant and an unread channel planted."""
    torch.manual_seed(0)
    images = torch.randn(900, 3, 8, 8)
    targets = torch.arange(900) % 4
    for number, target in enumerate(targets.tolist()):
        images[number, :, 4 * (target // 2) :, 4 * (target % 2) :][:, :4, :4] += 0.8
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    for step in range(120):
        part = slice(60 * (step % 10), 60 * (step % 10) + 60)
        optimizer.zero_grad()
        cross_entropy(module(images[part]), targets[part]).mean().backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        module[0].weight[:3], module[0].bias[:3] = module[0].weight[3:6], module[0].bias[3:6]
        module[0].weight[6], module[0].bias[6] = 0, 0.5
        module[2].weight[:, 7] = 0
    dataset = TensorDataset(images, targets)
    return (
        Model(module=module, example_inputs=(images[:2],)),
        Data(train=dataset, test=dataset),
        trace(module, (images[:2],)),
    )


@pytest.mark.parametrize("estimator", sorted(EFFECTIVE))
@pytest.mark.parametrize("matrix", sorted(MATRICES))
def test_every_rule_on_every_matrix(trained: tuple[Model, Data, Structure], matrix: str, estimator: str) -> None:
    model, data, structure = trained
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    settings = Estimate(samples=96, matrix=matrix, estimator=estimator)
    if estimator == "tail" and matrix != "gate":
        with pytest.raises(DataError, match=f"a tail in nats of the {matrix} matrix, which is not in nats"):
            settings(model, structure, TASK, data)
        return
    gram, found = settings(model, structure, TASK, data)
    assert (found.matrix, found.estimator, found.num_samples) == (matrix, estimator, 96)
    assert (found.tau is None) == (estimator != "tail")
    assert found.threshold == EFFECTIVE[estimator].threshold
    for group, own in zip(found.groups, structure.groups, strict=True):
        assert 1 <= group.num_effective <= own.num_channels == len(group.spectrum)
    widths = {g.name: structure.group(g.name).allowed_width(g.num_effective) for g in found.groups}
    assert found.macs_effective == structure.macs(widths)
    assert found.parameters_effective == structure.parameters(widths)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())
    assert estimator in rule_told(found) or "tail" in rule_told(found)
    assert set(gram.gram) == {group.name for group in structure.groups}
    assert Redundancy.model_validate_json(found.model_dump_json()) == found


def test_the_default_is_the_tail_of_the_gate_gram_as_ever(trained: tuple[Model, Data, Structure]) -> None:
    model, data, structure = trained
    gram, found = Estimate(samples=96)(model, structure, TASK, data)
    assert (found.tau, found.labels, found.calibration) == (0.001, "sampled", None)
    for group in found.groups:
        assert group.num_effective == effective_filters(gram.gram[group.name], 0.001)


def test_dead_channels_are_listed_and_their_removal_is_measured(trained: tuple[Model, Data, Structure]) -> None:
    model, data, structure = trained
    _, found = Estimate(samples=96)(model, structure, TASK, data)
    first, second = found.groups
    assert first.dead == DeadChannels(constant=(6,), unread=(7,))
    assert second.dead == DeadChannels()
    assert first.covering is not None
    assert first.covering.num_components <= 16 - 3
    assert found.removal is not None
    assert found.removal.num_channels == 2
    assert found.removal.macs == structure.macs({"0": 14})
    assert found.removal.residual < 1e-5 < 1e-3 < found.removal.residual_zero
    told = found_told(found)
    assert told[0] == "2 channels are dead: 0 always zero, 1 otherwise constant, 1 with no reader."
    assert "Without 2 of them" in told[1]
    # Widths that change in steps of 8 cannot lose two channels.
    stepped = trace(model.module, model.example_inputs, multiple=8)
    assert Estimate(samples=96)(model, stepped, TASK, data)[1].removal is None


def test_tau_is_measured_on_samples_that_were_not_estimated_on(trained: tuple[Model, Data, Structure]) -> None:
    model, data, structure = trained
    settings = Estimate(samples=96, tau="auto", loss_increase=0.1)
    _, found = settings(model, structure, TASK, data)
    done = found.calibration
    assert done is not None
    assert found.tau is not None
    assert done.loss <= done.loss_before + 0.1
    assert 1 <= len(done.probes) <= 6
    assert done.num_samples == 96
    held_out = settings._held_out(data)
    seen = {image.numpy().tobytes() for inputs, _ in settings._samples(data) for image in inputs}
    assert not seen & {image.numpy().tobytes() for inputs, _ in held_out for image in inputs}
    assert done.loss_before == mean_loss(model.module, cross_entropy, held_out)
    assert f"tau was found by {len(done.probes)} measurements" in found_told(found)[0]
    assert replace(settings, tau=found.tau)(model, structure, TASK, data)[1].groups == found.groups
    more = replace(settings, loss_increase=1.0)(model, structure, TASK, data)[1]
    assert more.maximum_compression["filters"] >= found.maximum_compression["filters"]


def test_without_samples_to_hold_out_tau_cannot_be_measured(trained: tuple[Model, Data, Structure]) -> None:
    model, data, structure = trained
    with pytest.raises(DataError, match="900 samples, all of them estimated on"):
        Estimate(samples=900, batch_size=300, tau="auto")(model, structure, TASK, data)


def test_the_largest_compression_in_milliseconds_is_that_of_the_table(trained: tuple[Model, Data, Structure]) -> None:
    model, data, structure = trained
    found = Estimate(samples=96)(model, structure, TASK, data)[1]
    assert "latency" not in found.maximum_compression
    grids = [
        (
            layer.weight,
            LatencyGrid(
                rows=np.arange(1, layer.rows + 1), columns=np.arange(1, layer.columns + 1),
                latency_s=1e-6 * np.outer(np.arange(1, layer.rows + 1), np.ones(layer.columns)),
            ),
        )
        for layer in layers_of(model.module, model.example_inputs)
    ]  # fmt: skip
    timed = with_latency(found, structure, grids, "onnxruntime")
    # A microsecond for every output: those of the last layer cannot go.
    assert timed.latency_s == pytest.approx(1e-6 * (16 + 12 + 4))
    effective = sum(group.num_effective for group in found.groups)
    assert timed.latency_effective_s == pytest.approx(1e-6 * (effective + 4))
    assert timed.maximum_compression["latency"] == pytest.approx(1 - (effective + 4) / 32)
    assert Redundancy.model_validate_json(timed.model_dump_json()) == timed
    (row,) = compression_table(timed).rows[3:]
    assert row[:2] == ("Layers in ONNX Runtime", "32.0 µs")
    assert len(compression_table(found).rows) == 3


def test_unknown_names_are_refused() -> None:
    with pytest.raises(LoadError, match="estimate, matrix: found 'hessian'; wanted one of"):
        Estimate(matrix="hessian")
    with pytest.raises(LoadError, match="estimate, estimator: found 'rank'; wanted one of"):
        Estimate(estimator="rank")
