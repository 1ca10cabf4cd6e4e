"""Corrections leave the float32 network what it is, and bring the rounded one closer to it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rounding import NETWORKS, Case, outputs
from torch import nn

from secateur.artifacts import Model
from secateur.pipeline.export import export
from secateur.pipeline.quantize import CORRECTIONS, Quantize, Quantized
from secateur.pipeline.quantize.equalisation import equalised
from secateur.pipeline.quantize.graph import Graph


def saved(graph: Graph, path: Path) -> Path:
    onnx.save(graph.proto, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_equalised_networks_compute_the_same(name: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    made = case(name)
    graph = equalised(Graph(proto=onnx.load(made.exported.path)))
    wanted = outputs(made.exported.path, made.batches[0])
    got = outputs(saved(graph, tmp_path / "equalised.onnx"), made.batches[0])
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_equalisation_evens_the_ranges_on_both_sides_of_a_channel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        network[0].weight *= torch.logspace(-3, 3, 6)[:, None, None, None]
    exported = export(Model(module=network.eval(), example_inputs=(torch.randn(2, 3, 9, 9),)), tmp_path, name="uneven")
    graph = equalised(Graph(proto=onnx.load(exported.path)))
    first, second, third = (graph.array(node.input[1]) for node in graph.proto.graph.node if node.op_type == "Conv")
    written, middle = np.abs(first).max((1, 2, 3)), np.abs(second).max((1, 2, 3))
    assert written == pytest.approx(middle, rel=1e-2)
    assert middle == pytest.approx(np.abs(third).max((0, 2, 3)), rel=1e-2)


def test_equalisation_saves_a_network_whose_channels_differ(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 4))
    with torch.no_grad():
        factors = torch.logspace(-2, 2, 16)
        network[0].weight *= factors[:, None, None, None]
        network[0].bias *= factors
        network[2].weight /= factors[:, None, None]
    exported = export(
        Model(module=network.eval(), example_inputs=(torch.randn(2, 3, 8, 8),)), tmp_path, name="uneven", tolerance=1e-3
    )
    batches = [torch.randn(8, 3, 8, 8) for _ in range(3)]

    def ratio(*corrections: str) -> float:
        found = Quantize(corrections=corrections)(exported, batches, tmp_path, name="quantized")
        return found.result.signal_to_noise_db["output"]

    assert ratio("equalisation") > ratio() + 10


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
@pytest.mark.parametrize("name", ["residual", "mlp", "vit"])
def test_corrected_biases_bring_the_means_back(
    name: str, target: str, case: Callable[[str], Case], quantized: Callable[..., Quantized]
) -> None:
    made = case(name)
    inputs = torch.cat(made.batches)

    def shift(*corrections: str) -> float:
        found = quantized(name, target=target, corrections=corrections)
        wanted, got = outputs(made.exported.path, inputs), outputs(found.exported.path, inputs)
        return float(np.square((got - wanted).mean(0)).sum())

    # Norms and attention bend what the corrected layers before them pass on: there a part of the shift stays.
    assert shift("bias") < (0.75 if name == "vit" else 0.5) * shift()


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("name", ["residual", "mobilenet_v2"])
def test_no_correction_makes_it_worse_by_much(correction: str, name: str, quantized: Callable[..., Quantized]) -> None:
    plain, better = (quantized(name, corrections=c).result.signal_to_noise_db for c in ((), (correction,)))
    assert all(better[output] > plain[output] - 1.5 for output in plain)
