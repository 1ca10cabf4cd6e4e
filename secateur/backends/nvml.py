"""What NVIDIA's driver says of the first CUDA device (NVML): energy, clock, what slows it down, memory in use."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from secateur.backends.cuda import checked, missing_cuda

SLOWED = {
    "HwSlowdown": "the hardware",
    "HwThermalSlowdown": "its temperature",
    "SwThermalSlowdown": "its temperature",
    "HwPowerBrakeSlowdown": "the power supply",
}
"""NVML's reasons for a clock that is lower than the card would choose, and what is behind them."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card, through the driver's library. What card or driver do not tell is None."""

    library: Any
    handle: Any

    def energy_j(self) -> float | None:
        """Return the joules that the card has used since the driver was loaded."""
        found = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if found is None else float(found) / 1000

    def clock_mhz(self) -> float | None:
        """Return the present clock of the multiprocessors."""
        found = self._ask("nvmlDeviceGetClockInfo", self.library.NVML_CLOCK_SM)
        return None if found is None else float(found)

    def used_bytes(self) -> int | None:
        """Return the memory in use, by whatever process."""
        found = self._ask("nvmlDeviceGetMemoryInfo")
        return None if found is None else int(found.used)

    def slowed_by(self) -> frozenset[str]:
        """Name what holds the clock down at present, of `SLOWED`."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return frozenset(
            cause
            for name, cause in SLOWED.items()
            if getattr(self.library, f"nvmlClocksThrottleReason{name}") & reasons
        )

    def _ask(self, name: str, *arguments: Any) -> Any:
        with contextlib.suppress(self.library.NVMLError, AttributeError):
            return getattr(self.library, name)(self.handle, *arguments)
        return None


def driver_version() -> str:
    """Name the version of NVIDIA's driver; empty where there is none."""
    with _quietly() as library:
        return str(library.nvmlSystemGetDriverVersion()) if library is not None else ""
    return ""


@functools.cache
def first_gpu() -> Gpu | None:
    """Return the card that CUDA counts first, on which engines run; None without one or without its library."""
    if missing_cuda() is not None:
        return None
    from cuda.bindings import runtime

    (card,) = checked(runtime.cudaGetDeviceProperties(0))
    place = f"{card.pciDomainID:08x}:{card.pciBusID:02x}:{card.pciDeviceID:02x}.0"
    with _quietly() as library:
        if library is not None:
            return Gpu(library=library, handle=library.nvmlDeviceGetHandleByPciBusId(place))
    return None


@contextlib.contextmanager
def _quietly() -> Iterator[Any]:
    """Yield the driver's library, None where it is absent; its refusals within the block end the block alone."""
    library = _library()
    if library is None:
        yield None
        return
    with contextlib.suppress(library.NVMLError):
        yield library


@functools.cache
def _library() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return None
    return pynvml
