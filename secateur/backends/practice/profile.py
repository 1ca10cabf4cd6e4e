"""Runtimes' own profiles: how long each kernel took, by the name that the runtime gives it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.backends.onnxruntime_engine import SessionEngine, kernels_of
from secateur.backends.openvino import OpenVinoEngine
from secateur.backends.protocol import Engine
from secateur.errors import BackendError

REFORMATS = ("Reorder", "Transpose", "reformat", "Reformat", "Memcpy", "Convert")
"""What begins the names of kernels that only change a memory layout, a type or a device, by runtime."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel of a call: names of what it computes, its type, what computed it and the median of its seconds."""

    names: tuple[str, ...]
    operator: str
    provider: str
    seconds: float

    @property
    def reformats(self) -> bool:
        """Whether it computes nothing."""
        return self.operator.startswith(REFORMATS)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The kernels of a call in the order they ran, and the median of the seconds of a call that none accounts for."""

    kernels: tuple[Kernel, ...] = ()
    overhead_s: float = 0.0


Profiler = Callable[[Any, tuple[np.ndarray, ...], int], Profile]


def profile(backend: str, engine: Engine, inputs: tuple[np.ndarray, ...], *, num_calls: int = 50) -> Profile:
    """Call the network of a backend's loaded engine with the runtime's profiler on.

    The first calls warm up and do not count. Empty for runtimes whose profile is not read.

    Raises:
        BackendError: the runtime refuses, or calls differ in their kernels.
    """
    profiler = PROFILERS.get(backend)
    return Profile() if profiler is None else profiler(engine, inputs, num_calls)


def _onnxruntime(engine: SessionEngine, inputs: tuple[np.ndarray, ...], calls: int) -> Profile:
    warm = max(2, calls // 5)
    events = engine.recorded(inputs, num_calls=warm + calls)
    ran = kernels_of(events)
    each = len(ran) // (warm + calls)
    if each * (warm + calls) != len(ran):
        raise BackendError(
            f"profile of {engine.expected.engine}", f"{len(ran)} kernels in {warm + calls} calls",
            "as many in every call", "Bench it without layers.",
        )  # fmt: skip
    times = np.array([event["dur"] for _, event in ran], dtype=np.float64).reshape(warm + calls, each)[warm:] * 1e-6
    whole = np.array([event["dur"] for event in events if event["name"] == "model_run"][-calls:]) * 1e-6
    kernels = [
        Kernel(
            names=(name.removesuffix("_nchwc").removeprefix("fused "),), operator=event["args"].get("op_name", ""),
            provider=event["args"].get("provider", ""), seconds=float(median),
        )
        for (name, event), median in zip(ran[:each], np.median(times, axis=0), strict=True)
    ]  # fmt: skip
    return Profile(kernels=tuple(kernels), overhead_s=max(0.0, float(np.median(whole - times.sum(axis=1)))))


def _openvino(engine: OpenVinoEngine, inputs: tuple[np.ndarray, ...], calls: int) -> Profile:
    layers, whole_s = engine.counted(inputs, num_calls=calls)
    kernels = tuple(
        Kernel(
            names=(layer.name.removesuffix("/WithoutBiases"),), operator=layer.operator, provider="CPU",
            seconds=layer.seconds,
        )
        for layer in layers
    )  # fmt: skip
    return Profile(kernels=kernels, overhead_s=max(0.0, whole_s - sum(kernel.seconds for kernel in kernels)))


PROFILERS: dict[str, Profiler] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime_cuda": _onnxruntime,
    "onnxruntime_tensorrt": _onnxruntime,
    "openvino": _openvino,
}
"""Readers of profiles by the name of the backend."""
