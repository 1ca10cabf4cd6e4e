"""Runtimes' own profiles: how long each kernel took, by the name that the runtime gives it."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.artifacts import EngineResult
from secateur.backends.onnxruntime import OnnxRuntime
from secateur.backends.protocol import Backend, engine_file
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


Profiler = Callable[[Backend, EngineResult, Path, tuple[np.ndarray, ...], int, int], Profile]


def profile(
    backend: Backend,
    result: EngineResult,
    folder: Path,
    inputs: tuple[np.ndarray, ...],
    *,
    num_threads: int = 1,
    num_calls: int = 50,
) -> Profile:
    """Call an engine with its runtime's profiler on.

    The first calls warm up and do not count. Empty for runtimes whose profile is not read.

    Raises:
        BackendError: the engine cannot be loaded or run.
    """
    profiler = PROFILERS.get(backend.name)
    return Profile() if profiler is None else profiler(backend, result, folder, inputs, num_threads, num_calls)


def _onnxruntime(
    backend: Backend, result: EngineResult, folder: Path, inputs: tuple[np.ndarray, ...], threads: int, calls: int
) -> Profile:
    import onnxruntime

    assert isinstance(backend, OnnxRuntime)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if backend.spinning else "0")
    settings.enable_profiling = True
    warm = max(2, calls // 5)
    with tempfile.TemporaryDirectory(prefix="secateur-profile-") as scratch:
        settings.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(
            engine_file(backend, result, folder), settings, providers=[backend.provider]
        )
        feed = dict(zip((entry.name for entry in session.get_inputs()), inputs, strict=True))
        for _ in range(warm + calls):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    each = len(ran) // (warm + calls)
    if each * (warm + calls) != len(ran):
        raise BackendError(
            f"profile of {backend.name}", f"{len(ran)} kernels in {warm + calls} calls", "as many in every call",
            "Bench it without layers.",
        )  # fmt: skip
    times = np.array([event["dur"] for event in ran], dtype=np.float64).reshape(warm + calls, each)[warm:] * 1e-6
    whole = np.array([event["dur"] for event in events if event["name"] == "model_run"][-calls:]) * 1e-6
    kernels = [
        Kernel(
            names=(event["name"].removesuffix("_kernel_time").removesuffix("_nchwc").removeprefix("fused "),),
            operator=event["args"].get("op_name", ""), provider=event["args"].get("provider", ""),
            seconds=float(median),
        )
        for event, median in zip(ran[:each], np.median(times, axis=0), strict=True)
    ]  # fmt: skip
    return Profile(kernels=tuple(kernels), overhead_s=max(0.0, float(np.median(whole - times.sum(axis=1)))))


def _openvino(
    backend: Backend, result: EngineResult, folder: Path, inputs: tuple[np.ndarray, ...], threads: int, calls: int
) -> Profile:
    import openvino

    core: Any = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True,
    }  # fmt: skip
    model = core.read_model(engine_file(backend, result, folder))
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, inputs, strict=True)})
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    warm = max(2, calls // 5)
    times: dict[tuple[int, str, str], list[float]] = {}
    whole = np.empty(warm + calls)
    for call in range(warm + calls):
        started = time.perf_counter()
        request.infer(list(inputs))
        whole[call] = time.perf_counter() - started
        for place, kernel in enumerate(request.get_profiling_info()):
            if call >= warm and str(kernel.status).endswith("EXECUTED"):
                key = place, kernel.node_name, kernel.node_type
                times.setdefault(key, []).append(kernel.real_time.total_seconds())
    kernels = [
        Kernel(
            names=(name.removesuffix("/WithoutBiases"),),
            operator=operator,
            provider="CPU",
            seconds=float(np.median(found)),
        )
        for (_, name, operator), found in times.items()
    ]
    inside = np.sum(list(times.values()), axis=0)
    return Profile(kernels=tuple(kernels), overhead_s=max(0.0, float(np.median(whole[warm:] - inside))))


PROFILERS: dict[str, Profiler] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime_cuda": _onnxruntime,
    "onnxruntime_tensorrt": _onnxruntime,
    "openvino": _openvino,
}
"""Readers of profiles by the name of the backend."""
