"""What works on this machine, what does not, and what to install."""

from typing import Literal

from secateur.artifacts import Record
from secateur.backends import BACKENDS
from secateur.backends.machine import machine_facts
from secateur.backends.protocol import Backend


class Row(Record):
    """One line of the diagnosis: a backend, an installed package or a fact about the machine.

    ``status`` of a backend: ``ready`` builds and runs here, ``build only`` builds but cannot run here, ``absent``
    neither; ``detail`` says why and what to do.
    """

    kind: Literal["backend", "package", "machine"]
    name: str
    value: str
    status: Literal["ready", "build only", "absent"]
    devices: tuple[str, ...] = ()
    detail: str = ""


def doctor() -> tuple[Row, ...]:
    """Diagnose every backend of the table, the installed runtimes and the machine."""
    machine = machine_facts()
    facts = {
        "processor": machine.cpu,
        "cores": str(machine.num_cores),
        "memory": f"{machine.memory_bytes / 2**30:.1f} GiB",
        "gpus": ", ".join(machine.gpus) or "none",
        "governor": machine.governor or "not known",
        "frequency": "not known" if machine.frequency_mhz is None else f"{machine.frequency_mhz:.0f} MHz",
        "load": f"{machine.load_before:.2f}",
        "container": machine.container or "none",
        "system": machine.system,
    }
    return (
        *(_backend(backend) for backend in BACKENDS.values()),
        *(Row(kind="package", name=name, value=value, status="ready") for name, value in machine.versions.items()),
        *(Row(kind="machine", name=name, value=value, status="ready") for name, value in facts.items()),
    )


def _backend(backend: Backend) -> Row:
    unavailable, unable = backend.unavailable(), backend.unable_to_run()
    return Row(
        kind="backend",
        name=backend.name,
        value=backend.version(),
        status="absent" if unavailable else "build only" if unable else "ready",
        devices=() if unable else backend.devices(),
        detail=str(unavailable or unable or ""),
    )
