"""OpenVINO on the processor, on Intel's GPU or NPU."""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from secateur.artifacts import EngineResult
from secateur.backends.engine_inputs import ExpectedInputs
from secateur.backends.engine_parity import engine_parity
from secateur.backends.onnx_file import OnnxInput, Whole, read_inputs, read_whole
from secateur.backends.openvino_counters import Counted, count
from secateur.backends.protocol import (
    BuildOptions,
    Engine,
    LayerTime,
    Missing,
    closed,
    engine_file,
    require,
    require_device,
    write_engine,
)
from secateur.backends.setting import Setting
from secateur.errors import BackendError, first_line


@functools.cache
def _core() -> Any:
    """Return the process's one core.

    A core's CPU plugin gives the thread another stack for signal handlers, and puts back the one it found when the core
    goes. Cores that go in another order than the reverse leave a freed one behind: the next signal, be it Ctrl-C or the
    end of a child process, then ends the process. A core that stays changes it once.
    """
    import openvino

    return openvino.Core()


Device = Literal["CPU", "GPU", "NPU"]
Precision = Literal["f32", "f16", "bf16"]
Hint = Literal["latency", "throughput"]


@dataclass(frozen=True, kw_only=True)
class OpenVino:
    """OpenVINO on the processor, on Intel's GPU or NPU.

    Whatever the ``precision``, eight-bit files stay in eight bits. ``hint`` asks for the least latency, one stream, or
    for throughput, as many streams as the device works best with. The engine's file is the ONNX file, compiled for the
    device when it is loaded, or the blob that compiling made. Networks in OpenVINO's own form (``.xml``) are loaded
    too.
    """

    name: str = "openvino"
    device: Annotated[Device, Setting("Where it runs.")] = "CPU"
    precision: Annotated[
        Precision,
        Setting("The arithmetic of what the file has in float32; coarser ones need a wider build.tolerance."),
    ] = "f32"
    hint: Annotated[Hint, Setting("What it is tuned for.")] = "latency"
    compiled: Annotated[
        bool, Setting("Keep the compiled blob, which loads faster, on this device and version alone.")
    ] = False

    def unavailable(self) -> Missing | None:
        """Say why nothing can be compiled here, or None."""
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return Missing(found=f"no openvino ({error})", remedy="Install it: pip install 'secateur[openvino]'.")
        devices = _core().available_devices
        if not any(device.split(".")[0] == self.device for device in devices):
            return Missing(
                found=f"an openvino with the devices {devices}",
                remedy=f"Install the driver and openvino's plugin of {self.device}.",
            )
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
        """Name the device as OpenVINO sees it."""
        if self.unavailable() is not None:
            return ()
        return (_core().get_property(self.device, "FULL_DEVICE_NAME").strip(),)

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Copy the ONNX file, its weights inside, or write the compiled blob; prove its outputs."""
        require(self.name, self.unavailable(), f"OpenVINO with its {self.device} plugin")
        inputs = read_inputs(onnx_file)
        options.progress("compile", 0, 2)
        whole = read_whole(onnx_file)
        started = time.perf_counter()
        network = self._compiled(whole, options.num_threads)
        build_s = time.perf_counter() - started
        with self._engine(network, inputs, lambda: self._compiled(whole, 1, counted=True)) as engine:
            options.progress("prove", 1, 2)
            parity = engine_parity(f"{self.name} {self.version()}", engine, onnx_file, options)
        content = network.export_model().getvalue() if self.compiled else whole.content
        result = write_engine(
            self, folder / f"{onnx_file.stem}.{self.name}.{'blob' if self.compiled else 'onnx'}", content,
            options={
                "device": self.device, "hint": self.hint, "precision": self.precision, "compiled": str(self.compiled),
                "streams": str(network.get_property("NUM_STREAMS")),
            },
            build_s=build_s, parity=parity, weights=() if self.compiled else whole.weights,
        )  # fmt: skip
        options.progress(f"{self.name} built and proved", 2, 2)
        return result

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Compile the engine's file anew, or import the blob."""
        require(self.name, self.unable_to_run(), f"OpenVINO with its {self.device} plugin")
        content = engine_file(self, result, folder)
        path = folder / str(result.path)
        if path.suffix == ".blob":
            require_device(self, result, folder)
            network = self._imported(content, str(path), num_threads)
            inputs = tuple(_declared(entry) for entry in network.inputs)
            return self._engine(network, inputs, lambda: self._imported(content, str(path), num_threads, counted=True))
        weights = tuple(folder / name for name in result.weights)
        if path.suffix == ".xml":  # OpenVINO's own form
            whole = Whole(path=path, content=content, weights=(path.with_suffix(".bin"), *weights))
            network = self._compiled(whole, num_threads)
            inputs = tuple(_declared(entry) for entry in network.inputs)
        else:
            whole = Whole(path=path, content=content, weights=weights)
            network, inputs = self._compiled(whole, num_threads), read_inputs(path)
        return self._engine(network, inputs, lambda: self._compiled(whole, num_threads, counted=True))

    def _engine(self, network: Any, inputs: tuple[OnnxInput, ...], counted: Callable[[], Any]) -> "OpenVinoEngine":
        expected = ExpectedInputs(engine=self.name, inputs=inputs)
        return OpenVinoEngine(network, expected, device=self.device, counted=counted)

    def _settings(self, num_threads: int, counted: bool) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": self.hint.upper(), "INFERENCE_PRECISION_HINT": self.precision, "PERF_COUNT": counted,
        }  # fmt: skip
        if self.device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = num_threads
        if self.hint == "latency":
            settings["NUM_STREAMS"] = 1
        return settings

    def _compiled(self, whole: Whole, num_threads: int, *, counted: bool = False) -> Any:
        core = _core()
        try:
            read = core.read_model(whole.path if whole.weights else whole.content)
            return core.compile_model(read, self.device, self._settings(num_threads, counted))
        except RuntimeError as error:
            raise BackendError(
                f"{self.name}, {whole.path}", f"a refusal ({_cause(error)})", "a network that OpenVINO can compile",
                "Export in another opset, or replace the operator it names.",
            ) from error  # fmt: skip

    def _imported(self, blob: bytes, where: str, num_threads: int, *, counted: bool = False) -> Any:
        try:
            return _core().import_model(blob, self.device, self._settings(num_threads, counted))
        except RuntimeError as error:
            raise BackendError(
                f"{self.name}, {where}", f"a refusal ({_cause(error)})", "a blob compiled for this device",
                "Build the engine again on this machine.",
            ) from error  # fmt: skip


class OpenVinoEngine(Engine):
    """A compiled network with one request. Calls from several threads wait for one another."""

    def __init__(self, network: Any, expected: ExpectedInputs, *, device: str, counted: Callable[[], Any]) -> None:
        self.expected = expected
        self._device = device
        self._counted = counted
        self._request = network.create_infer_request()
        self._lock = threading.Lock()

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Run the request; outputs are copies."""
        # OpenVINO computes on arrays of the wrong shape without a word where the batch is dynamic.
        self.expected.check(inputs)
        with self._lock:
            if self._request is None:
                raise closed(self.expected.engine)
            try:
                return tuple(self._request.infer(dict(enumerate(inputs))).to_tuple())
            except (RuntimeError, ValueError) as error:
                raise self.expected.refusal(inputs, first_line(error)) from error

    def profile(self, inputs: tuple[np.ndarray, ...], *, num_calls: int = 10) -> tuple[LayerTime, ...]:
        """Time every layer by OpenVINO's counters, in a network that is compiled anew with them."""
        layers = [
            LayerTime(
                name=layer.name, operator=layer.operator, place=self._device, precision=layer.kernel,
                time_s=layer.seconds,
            )
            for layer in self.counted(inputs, num_calls=num_calls)[0]
        ]  # fmt: skip
        return tuple(sorted(layers, key=lambda layer: -layer.time_s))

    def counted(self, inputs: tuple[np.ndarray, ...], *, num_calls: int) -> tuple[tuple[Counted, ...], float]:
        """Return the executed layers, in order, and the seconds of a call, of a network that is compiled anew."""
        if self._request is None:
            raise closed(self.expected.engine)
        self.expected.check(inputs)
        request = self._counted().create_infer_request()
        return count(request, inputs, num_calls=num_calls, averages=self._device == "CPU")

    def close(self) -> None:
        """Let go of the request and its compiled network."""
        with self._lock:
            self._request = None


def _declared(entry: Any) -> OnnxInput:
    """Read what a compiled network says of one of its inputs."""
    name = entry.any_name
    sizes = (
        f"{name}.{axis}" if size.is_dynamic else size.get_length() for axis, size in enumerate(entry.partial_shape)
    )
    return OnnxInput(name=name, dtype=np.dtype(entry.element_type.to_dtype()), shape=tuple(sizes))


def _cause(error: BaseException) -> str:
    """Shorten OpenVINO's message: without where in its sources it came up, and its advice to those who extend it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check ", "To facilitate ", "Summary:"))]
    return " ".join(told or lines or [type(error).__name__])[:300]
