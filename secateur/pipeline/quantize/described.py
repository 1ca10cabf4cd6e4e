"""Hold a changed file to the one it was made from, and describe it as every exported file is described."""

import math
from pathlib import Path

import numpy as np
import onnx

from secateur.artifacts import ExportResult, Parity
from secateur.equality import difference
from secateur.pipeline.quantize.running import Running, Samples, arrays
from secateur.storage import sha256


def compared(original: onnx.ModelProto, changed: onnx.ModelProto, samples: Samples) -> tuple[Parity, dict[str, float]]:
    """Measure how far a changed graph's outputs are from the original's; nothing is required of them here.

    Returns:
        the worst differences, and of every output the signal to noise in decibels.
    """
    outputs = [value.name for value in original.graph.output]
    before, after = Running(original, outputs), Running(changed, outputs)
    signal, noise = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
    absolute = relative = 0.0
    num_batches = 0
    for inputs in arrays(original, samples):
        wanted, found = before(inputs), after(inputs)
        apart = difference([wanted[name] for name in outputs], [found[name] for name in outputs])
        absolute, relative = max(absolute, apart.absolute), max(relative, apart.relative)
        for name in outputs:
            y = wanted[name].astype(np.float64)
            signal[name] += float(np.square(y).sum())
            noise[name] += float(np.square(y - found[name]).sum())
        num_batches += 1
    parity = Parity(
        reference="the float32 file", candidate="the quantised file", num_batches=num_batches,
        worst_absolute=absolute, worst_relative=relative, tolerance=math.inf,
    )  # fmt: skip
    return parity, {name: _decibels(signal[name], noise[name]) for name in outputs}


def described(path: Path, content: bytes, parity: Parity) -> ExportResult:
    """Describe a file by its content."""
    proto = onnx.load_from_string(content)
    inputs = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return ExportResult(
        path=path.name,
        sha256=sha256(content),
        size_bytes=len(content),
        opset=next(entry.version for entry in proto.opset_import if entry.domain == ""),
        input_names=tuple(value.name for value in proto.graph.input),
        output_names=tuple(value.name for value in proto.graph.output),
        input_shapes=tuple(tuple(max(dim.dim_value, 1) for dim in dims) for dims in inputs),
        dynamic_batch=not inputs[0][0].dim_value,
        parity=parity,
    )


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
