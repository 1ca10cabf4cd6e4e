"""Time one ONNX file that takes next to no input: a layer by itself, or a probe."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from secateur.artifacts import LayerShape
from secateur.backends.layer_file import write_layer
from secateur.backends.measure import Stopwatch
from secateur.backends.onnx_file import random_inputs, read_inputs
from secateur.backends.protocol import Backend, BuildOptions


def samples_s(
    backend: Backend, write: Callable[[Path], Path], stopwatch: Stopwatch, *, batch_size: int = 1,
    num_threads: int = 1, tolerance: float = 1e-2,
) -> Float[np.ndarray, " calls"]:  # fmt: skip
    """Have a file written into a folder of its own, build it and return the seconds of its calls.

    ``tolerance`` is the relative error that the engine's outputs may have.

    Raises:
        BackendError: the runtime refuses the file.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file = write(folder / "layer.onnx")
        options = BuildOptions(
            batch_size=batch_size, max_batch_size=batch_size, num_threads=num_threads, tolerance=tolerance
        )
        built = backend.build(file, folder, options)
        inputs = random_inputs(read_inputs(file), batch_size, seed=0)
        with backend.load(built, folder, num_threads=num_threads) as engine:
            return stopwatch.time(lambda: engine.run(inputs)).samples_s


def layer_median_s(
    backend: Backend, shape: LayerShape, rows: int, columns: int, stopwatch: Stopwatch, *, batch_size: int,
    num_threads: int,
) -> float:  # fmt: skip
    """Time a layer by itself and return the median seconds of a call; errors are those of `samples_s`."""
    samples = samples_s(
        backend, lambda path: write_layer(path, shape, rows, columns, batch_size), stopwatch,
        batch_size=batch_size, num_threads=num_threads,
    )  # fmt: skip
    return float(np.median(samples))
