"""The energy that processor packages count (RAPL: running average power limit), where it is readable.

That of GPUs is in `secateur.backends.nvml`.
"""

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, kw_only=True)
class EnergyCounter:
    """The counters of all processor packages; reading them needs rights that many systems and containers withhold."""

    folder: Path = POWERCAP

    def read(self) -> dict[str, tuple[int, int]]:
        """Return each package's microjoules and the count at which it starts again; empty where there are none."""
        found = {}
        for package in sorted(self.folder.glob("intel-rapl:[0-9]*")):
            if package.name.count(":") > 1:  # parts of a package, which its own counter includes
                continue
            try:
                found[package.name] = (
                    int((package / "energy_uj").read_text()), int((package / "max_energy_range_uj").read_text()),
                )  # fmt: skip
            except (OSError, ValueError):
                continue
        return found

    def since(self, before: dict[str, tuple[int, int]]) -> float | None:
        """Return the joules since an earlier reading; None where the machine does not tell."""
        now = self.read()
        if not before or before.keys() != now.keys():
            return None
        used = ((now[name][0] - start) % (span + 1) for name, (start, span) in before.items())
        return sum(used) * 1e-6
