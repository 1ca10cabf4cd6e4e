"""Time on the device: events around the upload, the computation and the download of one call, each apart.

Host clocks see launches, copies and waiting as one. Events are stamped by the device itself when it reaches them, so
that the three parts add up to what the device was busy with, and no kernel is left running when the clock stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from secateur.backends.cuda_driver import Event
from secateur.backends.protocol import Engine
from secateur.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class DeviceTimes:
    """Seconds that one call took on the device: inputs to it, the computation, outputs back."""

    upload_s: float
    compute_s: float
    download_s: float

    @staticmethod
    def between(events: Sequence[Event]) -> "DeviceTimes":
        """Read the four events before the upload, before and after the computation, and after the download."""
        first, second, third, last = events
        return DeviceTimes(
            upload_s=second.seconds_since(first), compute_s=third.seconds_since(second),
            download_s=last.seconds_since(third),
        )  # fmt: skip

    @property
    def total_s(self) -> float:
        """All three parts, as they follow one another on one stream."""
        return self.upload_s + self.compute_s + self.download_s


@runtime_checkable
class DeviceTimed(Protocol):
    """An engine that can tell the parts of a call apart where it runs on a CUDA device."""

    @property
    def on_device(self) -> bool:
        """Whether it runs on a CUDA device."""

    def timed(self, inputs: tuple[np.ndarray, ...]) -> DeviceTimes:
        """Run once and return how long the device took for each part; finished when this returns.

        Raises:
            BackendError: the runtime refuses the inputs, or the engine runs on no device.
        """


def on_device(engine: Engine) -> bool:
    """Say whether an engine runs on a CUDA device."""
    return isinstance(engine, DeviceTimed) and engine.on_device


def device_times(engine: Engine, inputs: tuple[np.ndarray, ...], count: int) -> Float[np.ndarray, "calls 3"]:
    """Time calls one by one and return the seconds of upload, computation and download of each.

    Raises:
        BackendError: the engine cannot tell them apart.
    """
    if not (isinstance(engine, DeviceTimed) and engine.on_device):
        raise BackendError(
            type(engine).__name__, "an engine that runs on the host", "an engine on a CUDA device",
            "Time it with `secateur.measure`.",
        )  # fmt: skip
    calls = [engine.timed(inputs) for _ in range(count)]
    return np.array([(call.upload_s, call.compute_s, call.download_s) for call in calls]).reshape(count, 3)
