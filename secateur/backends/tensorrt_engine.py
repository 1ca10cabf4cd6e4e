"""A TensorRT engine on the GPU: one context, one stream, buffers that live as long as the engine."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from secateur.backends.cuda_driver import Driver, Graph, Owned, Pinned
from secateur.backends.device_time import DeviceTimes
from secateur.backends.engine_inputs import ExpectedInputs
from secateur.backends.onnx_file import OnnxInput
from secateur.backends.protocol import Engine, LayerTime, closed, require
from secateur.backends.tensorrt_log import Log
from secateur.errors import BackendError

Arrays = tuple[np.ndarray, ...]


class TensorRtEngine(Engine):
    """A loaded engine. A call copies through pinned memory to the GPU and back, and waits; threads take turns.

    With ``cuda_graph`` the kernels of a call are recorded when its shapes have been seen once, and replayed until other
    shapes come. ``weights`` is the ONNX file of an engine that was written without any.
    """

    on_device = True

    def __init__(
        self, trt: Any, log: Log, content: bytes, *, driver: Driver, cuda_graph: bool = False,
        weights: Path | None = None,
    ) -> None:  # fmt: skip
        # Without a device, deserialising crashes the process in some releases, so CUDA is asked first.
        require(trt.__name__, driver.missing(), "a CUDA device")
        self._driver = driver
        self._trt = trt
        self._name = trt.__name__
        self._log = log
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(
                self._name, f"an engine that does not load ({log.last_error()})", "one built for this GPU and version",
                "Build the engine on this machine.",
            )  # fmt: skip
        if weights is not None:
            self._refit(weights)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                self._name, f"no execution context ({log.last_error()})", "memory for the engine's activations",
                "Free GPU memory, or build for a smaller batch.",
            )  # fmt: skip
        tensors = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in tensors}
        self._inputs = [name for name in tensors if is_input[name]]
        self._outputs = [name for name in tensors if not is_input[name]]
        self._dtypes = {name: _numpy_dtype(trt, self._engine.get_tensor_dtype(name)) for name in tensors}
        self.expected = ExpectedInputs(engine=self._name, inputs=tuple(map(self._declared, self._inputs)))
        self._buffers = {name: driver.memory() for name in tensors}
        self._pinned: dict[str, Pinned] = {}
        self._stream = driver.stream()
        self._events = [driver.event() for _ in range(4)]
        self._cuda_graph = cuda_graph
        self._graph: Graph | None = None
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> Arrays:
        """Copy in, execute, copy out, wait."""
        with self._lock:
            self._call(inputs)
            return tuple(self._pinned[name].array.copy() for name in self._outputs)

    def timed(self, inputs: Arrays) -> DeviceTimes:
        """Run once between events on the engine's stream."""
        with self._lock:
            self._call(inputs)
            return DeviceTimes.between(self._events)

    def run_tensors(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        """Compute from torch's CUDA tensors into others, of the right types and shapes, without a copy; finished.

        Raises:
            BackendError: a tensor is not where, what or as large as the engine needs.
        """
        with self._lock:
            self._require_open()
            self._forget_graph()
            for name, tensor in zip((*self._inputs, *self._outputs), (*inputs, *outputs), strict=True):
                wanted, found = self._dtypes[name].name, str(tensor.dtype).removeprefix("torch.")
                if not (tensor.is_cuda and tensor.is_contiguous() and found == wanted):
                    raise BackendError(
                        f"{self._name}, tensor {name!r}", f"{found} on {tensor.device}, strides {tensor.stride()}",
                        f"a contiguous tensor of {wanted} on the engine's GPU", "Convert and move it before.",
                    )  # fmt: skip
                if name in self._inputs and not self._context.set_input_shape(name, tuple(tensor.shape)):
                    raise self._beyond(inputs)
                if name in self._outputs and tuple(self._context.get_tensor_shape(name)) != tuple(tensor.shape):
                    raise BackendError(
                        f"{self._name}, tensor {name!r}", f"the shape {list(tensor.shape)}",
                        f"{list(self._context.get_tensor_shape(name))}", "Give an output of this shape.",
                    )  # fmt: skip
                self._context.set_tensor_address(name, tensor.data_ptr())
            self._shapes = ()
            self._execute()
            self._stream.wait()

    def profile(self, inputs: Arrays, *, num_calls: int = 10) -> tuple[LayerTime, ...]:
        """Time every layer by TensorRT's profiler, which holds calls up between layers; slowest first."""
        profiler = _profiler(self._trt)
        with self._lock:
            self._require_open()
            self._forget_graph()
            graph, self._cuda_graph = self._cuda_graph, False
            try:
                self._call(inputs)
                self._context.profiler = profiler
                for _ in range(num_calls):
                    self._call(inputs)
            finally:
                self._cuda_graph = graph
            layers = [
                LayerTime(name=name, operator=name.split("_myl")[0], time_s=spent_s / num_calls, place=self._name)
                for name, spent_s in profiler.spent_s.items()
            ]
        return tuple(sorted(layers, key=lambda layer: -layer.time_s))

    def refit(self, onnx_file: Path) -> None:
        """Take the weights of an ONNX file of the same network.

        Raises:
            BackendError: the file's weights do not fit, or the engine was not built to take others.
        """
        with self._lock:
            self._require_open()
            self._refit(onnx_file)

    def inspect(self) -> str:
        """Describe the engine's layers, fused as they run, as TensorRT's own JSON."""
        self._require_open()
        inspector = self._engine.create_engine_inspector()
        return inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)

    def close(self) -> None:
        """Free the buffers, the stream and the engine, in this order."""
        with self._lock:
            if self._context is None:
                return
            self._forget_graph()
            owned: list[Owned] = [*self._buffers.values(), *self._pinned.values(), *self._events]
            for one in owned:
                one.close()
            self._stream.close()
            # The context needs the engine and the engine the runtime.
            self._context = None
            self._engine = None
            self._runtime = None

    def _refit(self, onnx_file: Path) -> None:
        refitter = self._trt.Refitter(self._engine, self._log)
        weights = self._trt.OnnxParserRefitter(refitter, self._log)
        if not weights.refit_from_file(str(onnx_file)) or not refitter.refit_cuda_engine():
            raise BackendError(
                f"{self._name}, {onnx_file}", f"weights that do not fit ({self._log.last_error()})",
                "those of the network that the engine was built from", "Build with refittable or stripped.",
            )  # fmt: skip

    def _call(self, inputs: Arrays) -> None:
        self._require_open()
        self.expected.check(inputs)
        shapes = tuple(array.shape for array in inputs)
        seen = shapes == self._shapes
        if not seen:
            self._settle(inputs)
        stream = self._stream
        for name, array in zip(self._inputs, inputs, strict=True):
            self._pinned[name].array[...] = array
        self._events[0].record(stream)
        for name in self._inputs:
            stream.upload(self._pinned[name].array, self._buffers[name].pointer)
        self._events[1].record(stream)
        if self._cuda_graph and seen and self._graph is None:
            self._graph = self._driver.graph(stream, self._execute)
        if self._graph is None:
            self._execute()
        else:
            self._graph.launch(stream)
        self._events[2].record(stream)
        for name in self._outputs:
            stream.download(self._buffers[name].pointer, self._pinned[name].array)
        self._events[3].record(stream)
        stream.wait()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(
                self._name, f"a failed execution ({self._log.last_error()})", "outputs",
                "Build the engine again on this machine.",
            )  # fmt: skip

    def _settle(self, inputs: Arrays) -> None:
        """Tell the context the shapes, and give every tensor a place of its size on the device and on the host."""
        self._forget_graph()
        self._shapes = ()
        for name, array in zip(self._inputs, inputs, strict=True):
            if not self._context.set_input_shape(name, array.shape):
                raise self._beyond(inputs)
        for name in (*self._inputs, *self._outputs):
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise BackendError(
                    self._name, f"output {name!r} of the shape {shape}, which depends on the data",
                    "a shape that follows from the inputs'", "Give the network outputs of fixed size.",
                )  # fmt: skip
            if name in self._pinned:
                self._pinned.pop(name).close()
            self._pinned[name] = pinned = self._driver.pinned(shape, self._dtypes[name])
            self._context.set_tensor_address(name, self._buffers[name].reserve(pinned.array.nbytes))
        self._shapes = tuple(array.shape for array in inputs)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def _require_open(self) -> None:
        if self._context is None:
            raise closed(self._name)

    def _declared(self, name: str) -> OnnxInput:
        """Read what the engine says of an input; an open size is -1 there."""
        shape = enumerate(self._engine.get_tensor_shape(name))
        sizes = tuple(f"{name}.{axis}" if size < 0 else int(size) for axis, size in shape)
        return OnnxInput(name=name, dtype=self._dtypes[name], shape=sizes)

    def _beyond(self, inputs: tuple[Any, ...]) -> BackendError:
        return self.expected.refusal(inputs, "not within the sizes that it was built for; build for larger ones")


def _numpy_dtype(trt: Any, kind: Any) -> np.dtype:
    """Name a tensor's type in numpy, which has bfloat16 from ml_dtypes alone."""
    if kind == trt.DataType.BF16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(trt.nptype(kind))


def _profiler(trt: Any) -> Any:
    """Make a profiler; its class has the runtime's as its base, so it is made where the runtime is known."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.spent_s: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.spent_s[layer_name] = self.spent_s.get(layer_name, 0.0) + ms / 1000

    return Profiler()
