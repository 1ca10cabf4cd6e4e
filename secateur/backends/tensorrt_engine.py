"""A TensorRT engine on the GPU: one context, one stream, buffers that live as long as the engine."""

from typing import Any

import numpy as np

from secateur.backends.cuda import DeviceArray, Stream, missing_cuda
from secateur.backends.protocol import Engine, require
from secateur.backends.tensorrt_log import Log
from secateur.errors import BackendError


class TensorRtEngine(Engine):
    """A loaded engine. A call copies inputs to the GPU and outputs back, and waits for them."""

    def __init__(self, trt: Any, log: Log, content: bytes) -> None:
        # Without a device, deserialising crashes the process in some releases, so CUDA is asked first.
        require(trt.__name__, missing_cuda(), "a CUDA device")
        self._name = trt.__name__
        self._log = log
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(
                self._name, f"an engine that does not load ({log.last_error()})", "one built for this GPU and version",
                "Build the engine on this machine.",
            )  # fmt: skip
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
        self._dtypes = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in tensors}
        self._buffers = {name: DeviceArray() for name in tensors}
        self._stream = Stream()

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Copy in, execute, copy out, wait."""
        if self._context is None:
            raise BackendError(self._name, "a closed engine", "an open one", "Load the engine again.")
        if len(inputs) != len(self._inputs):
            raise self._refusal(inputs)
        contiguous = [np.ascontiguousarray(array) for array in inputs]
        for name, array in zip(self._inputs, contiguous, strict=True):
            if array.dtype != self._dtypes[name] or not self._context.set_input_shape(name, array.shape):
                raise self._refusal(inputs)
            pointer = self._buffers[name].reserve(array.nbytes)
            self._stream.upload(array, pointer)
            self._context.set_tensor_address(name, pointer)
        outputs = [self._output(name) for name in self._outputs]
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(
                self._name, f"a failed execution ({self._log.last_error()})", "outputs",
                "Build the engine again on this machine.",
            )  # fmt: skip
        for name, array in zip(self._outputs, outputs, strict=True):
            self._stream.download(self._buffers[name].pointer, array)
        self._stream.wait()
        return tuple(outputs)

    def _output(self, name: str) -> np.ndarray:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise BackendError(
                self._name, f"output {name!r} of the shape {shape}, which depends on the data", "a shape that follows "
                "from the inputs'", "Give the network outputs of fixed size.",
            )  # fmt: skip
        array = np.empty(shape, dtype=self._dtypes[name])
        self._context.set_tensor_address(name, self._buffers[name].reserve(array.nbytes))
        return array

    def _refusal(self, inputs: tuple[np.ndarray, ...]) -> BackendError:
        given = [f"{array.dtype} {list(array.shape)}" for array in inputs]
        wanted = [f"{self._dtypes[name]} {list(self._engine.get_tensor_shape(name))}" for name in self._inputs]
        return BackendError(
            self._name, f"the inputs {given}", f"{wanted} within the batch sizes it was built for",
            "Give such inputs, or build with a larger max_batch_size.",
        )  # fmt: skip

    def close(self) -> None:
        """Free the buffers, the stream and the engine, in this order."""
        if self._context is None:
            return
        for buffer in self._buffers.values():
            buffer.close()
        self._stream.close()
        # The context needs the engine and the engine the runtime.
        self._context = None
        self._engine = None
        self._runtime = None
