"""Counters that show means over all calls are read without what one cold or disturbed call leaves in them."""

from pathlib import Path

import numpy as np
import pytest

from secateur.artifacts import Exported
from secateur.backends import BACKENDS
from secateur.backends.openvino_counters import windowed
from secateur.backends.protocol import BuildOptions


@pytest.mark.parametrize("seed", range(5))
def test_a_cold_start_and_disturbed_calls_leave_no_trace(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.uniform(2, 400, 12)
    spent = truth * generator.uniform(0.99, 1.01, (64, 12))
    spent[0] += generator.uniform(100, 9000, 12)
    spent[generator.integers(1, 64, 12), np.arange(12)] += 12_000
    averages = np.floor(spent).cumsum(axis=0) // np.arange(1, 65)[:, None]
    assert np.abs(averages[-1] - truth).min() > 100, "what the counters themselves show"
    np.testing.assert_allclose(windowed(averages.astype(np.int64)), truth, atol=2, rtol=0.01)


def test_layers_of_a_real_network_take_no_longer_than_its_calls(tmp_path: Path, narrow: Exported) -> None:
    backend = BACKENDS["openvino"]
    if (missing := backend.unable_to_run()) is not None:
        pytest.skip(str(missing))
    image = np.random.default_rng(0).standard_normal((8, 3, 24, 24)).astype(np.float32)
    with backend.load(backend.build(narrow.path, tmp_path, BuildOptions()), tmp_path) as engine:
        layers, call_s = engine.counted((image,), num_calls=31)
    assert any(layer.operator == "Convolution" for layer in layers)
    assert 0 < sum(layer.seconds for layer in layers) < 1.2 * call_s, "a first call takes many times as long"
