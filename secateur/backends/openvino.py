"""OpenVINO on the processor, tuned for latency."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.artifacts import EngineResult
from secateur.backends.engine_parity import engine_parity
from secateur.backends.onnx_file import OnnxInput, read_inputs, read_whole
from secateur.backends.protocol import BuildOptions, Engine, Missing, engine_file, first_line, require
from secateur.errors import BackendError
from secateur.storage import sha256, write


@functools.cache
def _core() -> Any:
    """Return the process's one core.

    A core's CPU plugin gives the thread another stack for signal handlers, and puts back the one it found when the core
    goes. Cores that go in another order than the reverse leave a freed one behind: the next signal, be it Ctrl-C or the
    end of a child process, then ends the process. A core that stays changes it once.
    """
    import openvino

    return openvino.Core()


@dataclass(frozen=True, kw_only=True)
class OpenVino:
    """OpenVINO on the CPU: one stream, latency hint, float32 arithmetic also where the processor has bfloat16.

    The engine's file is the ONNX file; it is compiled for the processor when it is loaded.
    """

    name: str = "openvino"

    def unavailable(self) -> Missing | None:
        """Say why nothing can be compiled here, or None."""
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return Missing(found=f"no openvino ({error})", remedy="Install it: pip install 'secateur[openvino]'.")
        devices = _core().available_devices
        if "CPU" not in devices:
            return Missing(found=f"an openvino with the devices {devices}", remedy="Install openvino's CPU plugin.")
        return None

    def unable_to_run(self) -> Missing | None:
        """Say the same: what builds here runs here."""
        return self.unavailable()

    def version(self) -> str:
        """Name the installed version."""
        try:
            import openvino
        except ImportError:
            return ""
        return openvino.__version__

    def devices(self) -> tuple[str, ...]:
        """Name the processor as OpenVINO sees it."""
        if self.unavailable() is not None:
            return ()
        return (_core().get_property("CPU", "FULL_DEVICE_NAME").strip(),)

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Copy the ONNX file, its weights inside, compile it and prove its outputs."""
        require(self.name, self.unavailable(), "OpenVINO with its CPU plugin")
        inputs = read_inputs(onnx_file)
        options.progress("compile", 0, 2)
        content = read_whole(onnx_file)
        started = time.perf_counter()
        with self._compiled(content, inputs, str(onnx_file), options.num_threads) as engine:
            build_s = time.perf_counter() - started
            options.progress("prove", 1, 2)
            parity = engine_parity(f"{self.name} {self.version()}", engine, onnx_file, options)
        path = folder / f"{onnx_file.stem}.{self.name}.onnx"
        write(path, content)
        options.progress("done", 2, 2)
        return EngineResult(
            backend=self.name,
            backend_version=self.version(),
            status="built",
            device=", ".join(self.devices()),
            options={"hint": "latency", "streams": "1", "precision": "float32"},
            path=path.name,
            sha256=sha256(content),
            size_bytes=len(content),
            build_s=build_s,
            parity=parity,
        )

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Compile the engine's file anew."""
        require(self.name, self.unable_to_run(), "OpenVINO with its CPU plugin")
        content = engine_file(self, result, folder)
        path = folder / str(result.path)
        return self._compiled(content, read_inputs(path), str(path), num_threads)

    def _compiled(
        self, content: bytes, inputs: tuple[OnnxInput, ...], where: str, num_threads: int
    ) -> "OpenVinoEngine":
        core = _core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise BackendError(
                f"{self.name}, {where}", f"a refusal ({_cause(error)})", "a network that OpenVINO can compile",
                "Export in another opset, or replace the operator it names.",
            ) from error  # fmt: skip
        return OpenVinoEngine(request, inputs, self.name)


class OpenVinoEngine(Engine):
    """A compiled network with one request."""

    def __init__(self, request: Any, inputs: tuple[OnnxInput, ...], name: str) -> None:
        self._request = request
        self._inputs = inputs
        self._name = name

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Run the request; outputs are copies."""
        if self._request is None:
            raise BackendError(self._name, "a closed engine", "an open one", "Load the engine again.")
        if not self._fit(inputs):
            raise self._refusal(inputs, "other shapes or types")
        try:
            return tuple(self._request.infer(dict(enumerate(inputs))).to_tuple())
        except (RuntimeError, ValueError) as error:
            raise self._refusal(inputs, first_line(error)) from error

    def _fit(self, inputs: tuple[np.ndarray, ...]) -> bool:
        # OpenVINO computes on arrays of the wrong shape without a word where the batch is dynamic.
        return len(inputs) == len(self._inputs) and all(
            array.dtype == entry.dtype
            and array.ndim == len(entry.shape)
            and all(isinstance(size, str) or size == n for size, n in zip(entry.shape, array.shape, strict=True))
            for array, entry in zip(inputs, self._inputs, strict=True)
        )

    def _refusal(self, inputs: tuple[np.ndarray, ...], reason: str) -> BackendError:
        given = [f"{array.dtype} {list(array.shape)}" for array in inputs]
        wanted = [f"{entry.dtype} {list(entry.shape)}" for entry in self._inputs]
        return BackendError(
            self._name, f"a refusal of the inputs {given} ({reason})", f"{wanted}",
            "Give inputs of the types and shapes of the ONNX file.",
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the request and its compiled network."""
        self._request = None


def _cause(error: BaseException) -> str:
    """Shorten OpenVINO's message: without where in its sources it came up, and its advice to those who extend it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check ", "To facilitate ", "Summary:"))]
    return " ".join(told or lines or [type(error).__name__])[:300]
