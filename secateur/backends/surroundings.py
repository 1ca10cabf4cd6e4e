"""What else went on while something was timed: other processes' work, throttled processors, changed clocks."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from secateur.backends.nvml import Gpu

SYSTEM = Path("/sys/devices/system/cpu")
BUSY = 0.25
"""Cores' worth of other processes' work, as a share of the cores, that is worth a warning."""
SLOWED = 0.75
"""The lowest clock over the highest one below which the processor is taken to have been throttled (as nvbench does)."""


@dataclass(kw_only=True)
class Surroundings:
    """Watch the machine from now on; `notice` is to be called between measurements, `warnings` and `others` at the end.

    On systems that do not say, nothing is found.
    """

    system: Path = SYSTEM
    clocks_mhz: list[float] = field(default_factory=list)
    gpu_clocks_mhz: list[float] = field(default_factory=list)
    gpu_slowed_by: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._busy, self._all, self._own = self._times()
        self._throttled = self._throttles()

    def notice(self, gpu: Gpu | None = None) -> None:
        """Look at the processor's clock, and at that of the card where engines ran on one."""
        frequency = psutil.cpu_freq()
        if frequency is not None and frequency.current:
            self.clocks_mhz.append(float(frequency.current))
        if gpu is not None:
            if (clock := gpu.clock_mhz()) is not None:
                self.gpu_clocks_mhz.append(clock)
            self.gpu_slowed_by |= gpu.slowed_by()

    def others(self) -> float | None:
        """Return how many cores other processes kept busy on average; None where too little time passed to tell."""
        busy, total, own = self._times()
        passed_s = (total - self._all) / len(os.sched_getaffinity(0))
        return max(0.0, (busy - self._busy) - (own - self._own)) / passed_s if passed_s > 0.1 else None

    def warnings(self) -> tuple[str, ...]:
        """Describe what makes latencies untrustworthy."""
        found, others, num_cores = [], self.others(), len(os.sched_getaffinity(0))
        if others is not None and others > BUSY * num_cores:
            found.append(f"other processes kept {others:.1f} of {num_cores} cores busy: measure on a quiet machine")
        if (throttled := self._throttles() - self._throttled) > 0:
            found.append(f"the processor was throttled {throttled} times: it is too hot or short of power")
        if self.gpu_slowed_by:
            found.append(f"the GPU was slowed down by {' and '.join(sorted(self.gpu_slowed_by))}: let it cool first")
        for what, clocks in (("clock", self.clocks_mhz), ("GPU's clock", self.gpu_clocks_mhz)):
            if clocks and min(clocks) < SLOWED * max(clocks):
                found.append(
                    f"the {what} varied from {min(clocks):.0f} to {max(clocks):.0f} MHz: fix it, or measure for longer"
                )
        return tuple(found)

    def _throttles(self) -> int:
        total = 0
        for file in self.system.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
            try:
                total += int(file.read_text())
            except (OSError, ValueError):
                continue
        return total

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Return the busy and all seconds of the allowed cores, and this process's own."""
        cores = psutil.cpu_times(percpu=True)
        allowed = [cores[core] for core in os.sched_getaffinity(0) if core < len(cores)]
        total = sum(sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0) for core in allowed)
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in allowed)
        own = psutil.Process().cpu_times()
        return total - idle, total, own.user + own.system
