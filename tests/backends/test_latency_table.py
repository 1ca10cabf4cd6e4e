"""Layers are timed at the widths of the steps, once, and what was timed survives an interruption."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from secateur.artifacts import Layer, LayerShape
from secateur.backends import BACKENDS
from secateur.backends.latency_table import LatencyFile, LatencyTable
from secateur.backends.layer_file import write_layer
from secateur.backends.measure import Stopwatch, WarmUp
from secateur.backends.stopping import Stopping
from secateur.errors import StorageError

QUICK = Stopwatch(
    stopping=Stopping(least_calls=3, least_s=0.002, most_s=0.004),
    warm_up=WarmUp(least_s=0.0, most_s=0.02, window_s=0.001),
)
CONVOLUTION = LayerShape(
    operator="convolution", size=(9, 9), kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)
)
LAYERS = {
    "convolution": (CONVOLUTION, 16, 12),
    "grouped": (CONVOLUTION.model_copy(update={"groups": 2}), 16, 6),
    "depthwise": (CONVOLUTION.model_copy(update={"groups": 0, "per_input": 2}), 16, 1),
    "transposed": (
        CONVOLUTION.model_copy(update={"operator": "transposed", "output_padding": (1, 1)}), 12, 16,
    ),
    "linear": (LayerShape(operator="linear", size=(7,)), 16, 12),
}  # fmt: skip


def table(folder: Path) -> LatencyTable:
    return LatencyTable(backend=BACKENDS["onnxruntime"], folder=folder, step=8, most=4, stopwatch=QUICK)


def in_torch(shape: LayerShape, rows: int, columns: int) -> tuple[nn.Module, tuple[int, ...]]:
    settings = {"kernel_size": shape.kernel, "stride": shape.stride, "padding": shape.padding, "bias": False}
    if shape.operator == "linear":
        return nn.Linear(columns, rows, bias=False), (*shape.size, columns)
    if shape.operator == "transposed":
        module = nn.ConvTranspose2d(rows, columns, output_padding=shape.output_padding, **settings)
        return module, (rows, *shape.size)
    inputs = rows // shape.per_input if shape.groups == 0 else columns * shape.groups
    return nn.Conv2d(inputs, rows, groups=shape.groups or inputs, **settings), (inputs, *shape.size)


@pytest.mark.parametrize("name", LAYERS)
def test_the_file_of_a_layer_computes_the_layer(tmp_path: Path, name: str) -> None:
    shape, rows, columns = LAYERS[name]
    file = write_layer(tmp_path / "layer.onnx", shape, rows, columns, batch_size=2)
    module, size = in_torch(shape, rows, columns)
    weight = np.random.default_rng(0).standard_normal(tuple(module.weight.shape))
    module.weight.data = torch.from_numpy((weight / np.sqrt(weight[0].size)).astype(np.float32))
    numbers = torch.tensor([[0.5], [-2.0]])
    wanted = module(numbers.reshape(2, *[1] * len(size)).expand(2, *size)).flatten(1).amax(1)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"x": numbers.numpy()})[0], wanted.detach().numpy(), atol=1e-4)


def test_grids_hold_the_steps_and_every_layer_is_timed_once(tmp_path: Path) -> None:
    layers = [
        Layer(weight=f"{name}.weight", shape=s, rows=r, columns=c) for name, (s, r, c) in LAYERS.items()
    ]  # fmt: skip
    told: list[int] = []
    found = dict(table(tmp_path).grids([*layers, layers[0]], lambda what, done, total: told.append(total)))
    assert set(found) == {layer.weight for layer in layers}
    first = found["convolution.weight"]
    assert (first.rows.tolist(), first.columns.tolist()) == ([8, 16], [8, 12])
    assert found["grouped.weight"].columns.tolist() == [4, 6]
    assert (found["depthwise.weight"].rows.tolist(), found["depthwise.weight"].columns.tolist()) == ([8, 16], [1])
    assert all((grid.latency_s >= 0).all() and np.isfinite(grid.latency_s).all() for grid in found.values())
    assert any((grid.latency_s > 0).any() for grid in found.values())
    assert told[-1] == len(LatencyFile.model_validate_json(table(tmp_path).path.read_bytes()).entries) == 4 * 4 + 2


def test_a_second_time_nothing_is_timed_and_an_interruption_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer(weight="w", shape=CONVOLUTION, rows=32, columns=3)

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table(tmp_path).grids([layer], stop)
    kept = LatencyFile.model_validate_json(table(tmp_path).path.read_bytes()).entries
    assert len(kept) == 2
    told: list[tuple[int, int]] = []
    first = table(tmp_path).grids([layer], lambda what, done, total: told.append((done, total)))
    assert told[-1] == (2, 2)
    assert {entry.rows: entry.latency_s for entry in kept}.items() <= dict(
        zip(first[0][1].rows.tolist(), first[0][1].latency_s[:, 0].tolist(), strict=True)
    ).items()
    monkeypatch.setattr("secateur.backends.single_file.write_layer", None)
    again = table(tmp_path).grids([layer])
    assert np.array_equal(again[0][1].latency_s, first[0][1].latency_s)


def test_other_conditions_have_a_file_of_their_own_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    one = table(tmp_path)
    assert replace(one, num_threads=2).path != one.path != replace(one, batch_size=4).path
    one.path.write_text("{}")
    with pytest.raises(StorageError, match=r"found no table of latencies .* wanted a file that was measured"):
        table(tmp_path).grids([Layer(weight="w", shape=CONVOLUTION, rows=8, columns=3)])
