"""CUDA through cuda.bindings: is there a device; memory, streams, events and graphs on it."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.backends.protocol import Missing
from secateur.errors import BackendError


def missing_cuda() -> Missing | None:
    """Say why CUDA cannot be used, or None.

    To be asked before any TensorRT object is made: without a device some of them crash the process instead of raising.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        return Missing(found="no cuda.bindings", remedy="Install it: pip install cuda-bindings.")
    try:
        status, count = runtime.cudaGetDeviceCount()
    except RuntimeError as error:
        return Missing(
            found=f"no CUDA driver ({error})", remedy="Install the NVIDIA driver, or use a machine with a GPU."
        )
    if status != runtime.cudaError_t.cudaSuccess or not count:
        return Missing(
            found=f"no CUDA device ({status.name})",
            remedy="Use a machine with an NVIDIA GPU and a driver that is new enough for the installed CUDA release.",
        )
    return None


def cuda_devices() -> tuple[str, ...]:
    """Name the CUDA devices with their compute capabilities."""
    if missing_cuda() is not None:
        return ()
    from cuda.bindings import runtime

    (count,) = checked(runtime.cudaGetDeviceCount())
    properties = [checked(runtime.cudaGetDeviceProperties(index))[0] for index in range(count)]
    return tuple(described(p.name.decode(), p.major, p.minor) for p in properties)


def described(name: str, major: int, minor: int) -> str:
    """Name a device; engines for it are known by this."""
    return f"{name} (compute capability {major}.{minor})"


@dataclass(frozen=True, kw_only=True)
class CudaBindings:
    """NVIDIA's own cuda.bindings, which torch brings along; a `secateur.backends.cuda_driver.Driver`."""

    name: str = "cuda.bindings"
    records: bool = True

    def missing(self) -> Missing | None:
        """Say why CUDA cannot be used, or None."""
        return missing_cuda()

    def devices(self) -> tuple[str, ...]:
        """Name the CUDA devices with their compute capabilities."""
        return cuda_devices()

    def memory(self) -> "DeviceArray":
        """Return device memory."""
        return DeviceArray()

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> "PinnedArray":
        """Return pinned host memory."""
        return PinnedArray(shape, dtype)

    def stream(self) -> "Stream":
        """Return a stream."""
        return Stream()

    def event(self) -> "Event":
        """Return an event."""
        return Event()

    def graph(self, stream: "Stream", work: Callable[[], object]) -> "Graph":
        """Record what a function puts on a stream."""
        return Graph(stream, work)


def checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a CUDA call's values, or raise `BackendError` with the name of its status."""
    status, *values = result
    if status.value != 0:
        raise BackendError(
            "CUDA", f"the status {status.name}", "success", "Check the GPU's memory and health (nvidia-smi)."
        )
    return tuple(values)


def _allocated(size_bytes: int) -> int:
    from cuda.bindings import runtime

    (pointer,) = checked(runtime.cudaMalloc(size_bytes))
    return int(pointer)


def _freed(pointer: int) -> None:
    from cuda.bindings import runtime

    checked(runtime.cudaFree(pointer))


class DeviceArray:
    """Bytes on the device that grow when asked for more. Owned: freed by `close`.

    ``allocate`` and ``free`` are a driver's; what the first returns is the address, or has it as its integer.
    """

    def __init__(
        self, allocate: Callable[[int], Any] = _allocated, free: Callable[[Any], object] = _freed
    ) -> None:  # fmt: skip
        self._allocate, self._free = allocate, free
        self._held: Any = None
        self.size_bytes = 0

    @property
    def pointer(self) -> int:
        """The address, 0 where nothing is held."""
        return 0 if self._held is None else int(self._held)

    def reserve(self, size_bytes: int) -> int:
        """Make room for so many bytes and return the address; what was there is lost when it grows."""
        if self._held is None or size_bytes > self.size_bytes:
            self.close()
            self._held, self.size_bytes = self._allocate(max(size_bytes, 1)), size_bytes
        return self.pointer

    def close(self) -> None:
        """Free the memory."""
        if self._held is not None:
            self._free(self._held)
        self._held, self.size_bytes = None, 0


class Stream:
    """A CUDA stream with copies to and from the device. Owned: destroyed by `close`."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        (self._stream,) = checked(runtime.cudaStreamCreate())
        self._open = True

    @property
    def handle(self) -> int:
        """The address that TensorRT takes."""
        return int(self._stream)

    def upload(self, array: np.ndarray, pointer: int) -> None:
        """Copy a contiguous array to the device; it must live until `wait` returns."""
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(runtime.cudaMemcpyAsync(pointer, array.ctypes.data, array.nbytes, kind, self._stream))

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Copy from the device into a contiguous array; it is filled when `wait` returns."""
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(runtime.cudaMemcpyAsync(array.ctypes.data, pointer, array.nbytes, kind, self._stream))

    def wait(self) -> None:
        """Return when everything on the stream is finished."""
        from cuda.bindings import runtime

        checked(runtime.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Destroy the stream."""
        from cuda.bindings import runtime

        if self._open:
            checked(runtime.cudaStreamDestroy(self._stream))
        self._open = False


class PinnedArray:
    """Host memory that the device reads and writes by itself, seen as an array. Owned: freed by `close`."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        from cuda.bindings import runtime

        size_bytes = math.prod(shape) * dtype.itemsize
        (pointer,) = checked(runtime.cudaHostAlloc(max(size_bytes, 1), runtime.cudaHostAllocDefault))
        self._pointer: int | None = int(pointer)
        content = (ctypes.c_byte * size_bytes).from_address(self._pointer)
        self.array = np.ctypeslib.as_array(content).view(dtype).reshape(shape)

    def close(self) -> None:
        """Free the memory; the array must not be used any more."""
        from cuda.bindings import runtime

        if self._pointer is not None:
            checked(runtime.cudaFreeHost(self._pointer))
        self._pointer = None


class Event:
    """A moment on a stream, stamped by the device when it gets there. Owned: destroyed by `close`."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        (self._event,) = checked(runtime.cudaEventCreate())
        self._open = True

    def record(self, stream: Stream) -> None:
        """Have the device stamp it after what is on the stream so far."""
        from cuda.bindings import runtime

        checked(runtime.cudaEventRecord(self._event, stream.handle))

    def seconds_since(self, earlier: "Event") -> float:
        """Return the time from an earlier event to this one, both of which have been reached."""
        from cuda.bindings import runtime

        (elapsed_ms,) = checked(runtime.cudaEventElapsedTime(earlier._event, self._event))
        return elapsed_ms / 1000

    def close(self) -> None:
        """Destroy the event."""
        from cuda.bindings import runtime

        if self._open:
            checked(runtime.cudaEventDestroy(self._event))
        self._open = False


class Graph:
    """What a function puts on a stream, recorded to be launched as one. Owned: destroyed by `close`."""

    def __init__(self, stream: Stream, work: Callable[[], object]) -> None:
        from cuda.bindings import runtime

        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(runtime.cudaStreamBeginCapture(stream.handle, mode))
        try:
            work()
        finally:
            (graph,) = checked(runtime.cudaStreamEndCapture(stream.handle))
        (self._launchable,) = checked(runtime.cudaGraphInstantiate(graph, 0))
        checked(runtime.cudaGraphDestroy(graph))
        self._open = True

    def launch(self, stream: Stream) -> None:
        """Put the recorded work on a stream."""
        from cuda.bindings import runtime

        checked(runtime.cudaGraphLaunch(self._launchable, stream.handle))

    def close(self) -> None:
        """Destroy what was recorded."""
        from cuda.bindings import runtime

        if self._open:
            checked(runtime.cudaGraphExecDestroy(self._launchable))
        self._open = False
