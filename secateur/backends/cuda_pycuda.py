"""CUDA through pycuda: memory, streams and events in the primary context, which torch and TensorRT use as well."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from secateur.backends.cuda import DeviceArray, described
from secateur.backends.protocol import Missing
from secateur.errors import BackendError, first_line


@functools.cache
def _context() -> Any:
    """Return the first device's primary context, which stays as long as the process."""
    from pycuda import driver

    driver.init()
    return driver.Device(0).retain_primary_context()


@contextlib.contextmanager
def _current() -> Iterator[Any]:
    """Have the context current on this thread, and leave the thread as it was; errors become `BackendError`.

    Contexts are current by thread, and engines are called from any.
    """
    from pycuda import driver

    try:
        context = _context()
        context.push()
        try:
            yield driver
        finally:
            driver.Context.pop()
    except driver.Error as error:
        raise BackendError(
            "CUDA", first_line(error), "success", "Check the GPU's memory and health (nvidia-smi)."
        ) from error


@dataclass(frozen=True, kw_only=True)
class PyCuda:
    """pycuda. It has no graphs."""

    name: str = "pycuda"
    records: bool = False

    def missing(self) -> Missing | None:
        """Say why pycuda cannot be used, or None."""
        try:
            from pycuda import driver
        except ImportError as error:
            return Missing(
                found=f"no pycuda ({first_line(error)})",
                remedy="Install it where the CUDA toolkit and a driver are: pip install 'secateur[pycuda]'; or leave "
                "the driver at cuda.bindings.",
            )
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            return Missing(found=f"no CUDA driver ({first_line(error)})", remedy="Use a machine with an NVIDIA GPU.")
        return None if count else Missing(found="no CUDA device", remedy="Use a machine with an NVIDIA GPU.")

    def devices(self) -> tuple[str, ...]:
        """Name the CUDA devices with their compute capabilities."""
        if self.missing() is not None:
            return ()
        from pycuda import driver

        found = [driver.Device(index) for index in range(driver.Device.count())]
        return tuple(described(device.name(), *device.compute_capability()) for device in found)

    def memory(self) -> DeviceArray:
        """Return device memory."""
        return DeviceArray(_allocated, _freed)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> "PyCudaPinned":
        """Return pinned host memory."""
        return PyCudaPinned(shape, dtype)

    def stream(self) -> "PyCudaStream":
        """Return a stream."""
        return PyCudaStream()

    def event(self) -> "PyCudaEvent":
        """Return an event."""
        return PyCudaEvent()

    def graph(self, stream: Any, work: Callable[[], object]) -> NoReturn:
        """Refuse."""
        raise BackendError(
            "CUDA graphs", "the driver pycuda, which does not record them", "cuda.bindings",
            "Choose the driver cuda.bindings, or leave cuda_graph out.",
        )  # fmt: skip


def _allocated(size_bytes: int) -> Any:
    with _current() as driver:
        return driver.mem_alloc(size_bytes)


def _freed(held: Any) -> None:
    with _current():
        held.free()


class PyCudaPinned:
    """Host memory that the device reads and writes by itself, seen as an array. Owned: freed by `close`."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        size_bytes = math.prod(shape) * dtype.itemsize
        with _current() as driver:
            raw = driver.pagelocked_empty(max(size_bytes, 1), np.uint8)
        self._held: Any = raw.base
        self.array = raw[:size_bytes].view(dtype).reshape(shape)

    def close(self) -> None:
        """Free the memory; the array must not be used any more."""
        if self._held is not None:
            with _current():
                self._held.free()
        self._held = None


class PyCudaStream:
    """A CUDA stream with copies to and from the device. Owned: destroyed by `close`."""

    def __init__(self) -> None:
        with _current() as driver:
            self._stream: Any = driver.Stream()

    @property
    def handle(self) -> int:
        """The address that TensorRT takes."""
        return int(self._stream.handle)

    def upload(self, array: np.ndarray, pointer: int) -> None:
        """Copy a contiguous array to the device; it must live until `wait` returns."""
        with _current() as driver:
            driver.memcpy_htod_async(pointer, array, self._stream)

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Copy from the device into a contiguous array; it is filled when `wait` returns."""
        with _current() as driver:
            driver.memcpy_dtoh_async(array, pointer, self._stream)

    def wait(self) -> None:
        """Return when everything on the stream is finished."""
        with _current():
            self._stream.synchronize()

    def close(self) -> None:
        """Destroy the stream, which pycuda does where it is forgotten with the context at hand."""
        if self._stream is not None:
            with _current():
                self._stream = None


class PyCudaEvent:
    """A moment on a stream, stamped by the device when it gets there. Owned: destroyed by `close`."""

    def __init__(self) -> None:
        with _current() as driver:
            self._event: Any = driver.Event()

    def record(self, stream: PyCudaStream) -> None:
        """Have the device stamp it after what is on the stream so far."""
        with _current():
            self._event.record(stream._stream)

    def seconds_since(self, earlier: "PyCudaEvent") -> float:
        """Return the time from an earlier event to this one, both of which have been reached."""
        with _current():
            return float(self._event.time_since(earlier._event)) / 1000

    def close(self) -> None:
        """Destroy the event, as a stream is."""
        if self._event is not None:
            with _current():
                self._event = None
