"""What TensorRT's engines need of CUDA, and the packages that give it."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from secateur.backends.cuda import CudaBindings
from secateur.backends.cuda_pycuda import PyCuda
from secateur.backends.protocol import Missing

DriverName = Literal["cuda.bindings", "pycuda"]


@runtime_checkable
class Owned(Protocol):
    """Something on the device that is given back by `close`; twice is as good as once."""

    def close(self) -> None:
        """Give it back."""


@runtime_checkable
class Memory(Owned, Protocol):
    """Bytes on the device that grow when asked for more."""

    @property
    def pointer(self) -> int:
        """The address."""

    def reserve(self, size_bytes: int) -> int:
        """Make room for so many bytes and return the address; what was there is lost when it grows."""


@runtime_checkable
class Pinned(Owned, Protocol):
    """Host memory that the device reads and writes by itself."""

    @property
    def array(self) -> np.ndarray:
        """The memory."""


@runtime_checkable
class Stream(Owned, Protocol):
    """Work in order, with copies to and from the device."""

    @property
    def handle(self) -> int:
        """The address that TensorRT takes."""

    def upload(self, array: np.ndarray, pointer: int) -> None:
        """Copy a contiguous array to the device; it must live until `wait` returns."""

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Copy from the device into a contiguous array; it is filled when `wait` returns."""

    def wait(self) -> None:
        """Return when everything on the stream is finished."""


@runtime_checkable
class Event(Owned, Protocol):
    """A moment on a stream, stamped by the device when it gets there."""

    def record(self, stream: Any) -> None:
        """Have the device stamp it after what is on a stream of the same driver so far."""

    def seconds_since(self, earlier: Any) -> float:
        """Return the time from an earlier event of the same driver to this one, both of which have been reached."""


@runtime_checkable
class Graph(Owned, Protocol):
    """Work that was recorded to be launched as one."""

    def launch(self, stream: Any) -> None:
        """Put it on a stream of the same driver."""


@runtime_checkable
class Driver(Protocol):
    """A package that reaches the first CUDA device, in the context that torch and TensorRT share with it."""

    @property
    def name(self) -> str:
        """The package's name in the table."""

    @property
    def records(self) -> bool:
        """Whether it can record graphs."""

    def missing(self) -> Missing | None:
        """Say why there is no CUDA by this package, or None; to be asked before any TensorRT object is made."""

    def devices(self) -> tuple[str, ...]:
        """Name the CUDA devices with their compute capabilities."""

    def memory(self) -> Memory:
        """Return device memory, none of it reserved yet."""

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> Pinned:
        """Return pinned host memory."""

    def stream(self) -> Stream:
        """Return a stream of its own."""

    def event(self) -> Event:
        """Return an event."""

    def graph(self, stream: Any, work: Callable[[], object]) -> Graph:
        """Record what a function puts on a stream, or raise `BackendError` where the package records nothing."""


DRIVERS: dict[DriverName, Driver] = {
    "cuda.bindings": CudaBindings(),
    "pycuda": PyCuda(),
}
"""Packages by their names in recipes."""
