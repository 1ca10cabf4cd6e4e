"""Run a graph as it is written, in ONNX Runtime on the CPU, and look at tensors inside it."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from secateur.artifacts import as_tuple
from secateur.bfloat16 import emulated
from secateur.errors import BackendError, DataError, first_line

Samples = Iterable[Tensor | tuple[Tensor, ...]]
"""Batches of inputs, each what the network is called with; walked several times."""
LEAST_SAMPLES = 2
"""What one sample says of ranges and rounding holds for that sample."""


class Running:
    """A graph with some of its tensors, which need not be its outputs, read after every call.

    No optimisation is made, so that what is computed is what the file says, rounding for rounding; what it says of
    bfloat16 is computed in float32, since ONNX Runtime has no arithmetic for it on the CPU.
    """

    def __init__(self, proto: onnx.ModelProto, tensors: Sequence[str]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(
                "quantisation", "no onnxruntime", "onnxruntime, which calibrates", "pip install 'secateur[cpu]'."
            ) from error
        looked_at = onnx.ModelProto()
        looked_at.CopyFrom(emulated(proto))
        del looked_at.graph.output[:]
        inputs = {value.name for value in proto.graph.input}
        self._tensors = list(tensors)
        self._computed = [name for name in self._tensors if name not in inputs]
        # A graph must have an output: where only inputs are looked at, that is the graph's own.
        outputs = self._computed or [proto.graph.output[0].name]
        looked_at.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                looked_at.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BackendError(
                "an ONNX file", f"a refusal by ONNX Runtime ({first_line(error)})", "a file that it can open",
                "Export in another opset, or replace the operator it names.",
            ) from error  # fmt: skip
        self._inputs = [value.name for value in proto.graph.input]

    def __call__(self, inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        """Return the tensors by name.

        Raises:
            DataError: the graph does not take these inputs.
        """
        try:
            fed = dict(zip(self._inputs, inputs, strict=True))
            computed = self._session.run(self._computed or None, fed)
        except Exception as error:
            given = [f"{array.dtype} {list(array.shape)}" for array in inputs]
            wanted = [f"{value.name}: {value.type} {value.shape}" for value in self._session.get_inputs()]
            raise DataError(
                "inputs of an ONNX file", f"{given} ({first_line(error)})", f"{wanted}",
                "Give batches of what the network is called with.",
            ) from error  # fmt: skip
        as_given = {name: fed[name] for name in self._tensors if name in fed}
        return as_given | dict(zip(self._computed, computed if self._computed else (), strict=True))


def arrays(proto: onnx.ModelProto, samples: Samples) -> Iterator[tuple[np.ndarray, ...]]:
    """Walk batches as arrays; of a graph whose batch size is fixed, those of that size.

    Raises:
        DataError: the samples can be walked once only, or there is none or only one of the graph's batch size.
    """
    if iter(samples) is samples:
        raise DataError(
            "calibration samples", "an iterator, which can be walked once", "a list, or an object with __iter__",
            "Collect the batches in a list, or wrap them in secateur.calibration.samples.CalibrationSamples.",
        )  # fmt: skip
    size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    num_samples = 0
    for batch in samples:
        inputs = tuple(tensor.detach().cpu().numpy() for tensor in as_tuple(batch))
        if size in (0, len(inputs[0])):
            num_samples += len(inputs[0])
            yield inputs
    if not num_samples:
        raise DataError(
            "calibration samples", "no batches", f"at least one{f' of {size} samples' if size else ''}",
            "Give calibration samples in batches of the size that the graph was exported with.",
        )  # fmt: skip
    if num_samples < LEAST_SAMPLES:
        raise DataError(
            "calibration samples", "a single sample", f"at least {LEAST_SAMPLES}; some hundreds are usual",
            "Give more samples, of the kind that the network will see.",
        )  # fmt: skip


def digest(proto: onnx.ModelProto, samples: Samples) -> tuple[int, str]:
    """Return the number of samples and the SHA-256 of their types, shapes and values, sample by sample."""
    total, num_samples = hashlib.sha256(), 0
    for inputs in arrays(proto, samples):
        for index in range(len(inputs[0])):
            for array in inputs:
                sample = np.ascontiguousarray(array[index])
                total.update(f"{sample.dtype}{sample.shape}".encode() + sample.tobytes())
        num_samples += len(inputs[0])
    return num_samples, total.hexdigest()
