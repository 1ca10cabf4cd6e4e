"""The facts about a machine without which a latency means nothing."""

import importlib.metadata
import os
import platform
import re
from dataclasses import is_dataclass
from pathlib import Path

import psutil

from secateur.artifacts import Machine
from secateur.backends.cuda import cuda_devices
from secateur.backends.nvml import driver_version, first_gpu
from secateur.backends.protocol import Backend
from secateur.provenance import commit
from secateur.storage import sha256

RUNTIMES = (
    "secateur", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt_rtx", "cuda-bindings", "nvidia-ml-py", "numpy",
)  # fmt: skip


def machine_facts(load_before: float | None = None) -> Machine:
    """Collect what is known about this machine; what cannot be found out is empty or None.

    Args:
        load_before: the load average before the measurement, where there was one; else the present one.
    """
    load, gpu = os.getloadavg()[0], first_gpu()
    return Machine(
        cpu=processor(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        gpus=cuda_devices(),
        governor=_first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        frequency_mhz=_frequency_mhz(),
        driver=driver_version(),
        gpu_clock_mhz=None if gpu is None else gpu.clock_mhz(),
        load_before=load if load_before is None else load_before,
        load_after=load,
        container=_container(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        versions=runtime_versions(),
        commit=commit(),
    )


def processor() -> str:
    """Name the processor."""
    match = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), flags=re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Name the instruction sets that the processor has; empty where the system does not say."""
    match = re.search(r"^flags\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), flags=re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def sums_products_in_16_bits() -> bool:
    """Say whether the processor multiplies eight-bit numbers with vpmaddubsw alone.

    That instruction adds two products of uint8 and int8 in 16 bits, where they saturate. Processors with VNNI or AMX,
    and those of other architectures, add them in 32.
    """
    flags = processor_flags()
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def conditions(backend: Backend, num_threads: int, **further: str) -> dict[str, str]:
    """Return what a runtime's latencies on this machine depend on, for the files that keep them."""
    return {
        "cpu": processor(),
        "num_cores": str(len(os.sched_getaffinity(0))),
        "devices": ", ".join(backend.devices()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "backend": f"{backend.name} {backend.version()}",
        "settings": repr(backend) if is_dataclass(backend) else "",
        "num_threads": str(num_threads),
        **further,
    }


def kept_name(backend: Backend, under: dict[str, str]) -> str:
    """Name the file that holds what was measured under `conditions`, without what it holds."""
    told = repr(sorted(under.items()))
    return f"{backend.name}-{sha256(told.encode())[:12]}.json"


def runtime_versions() -> dict[str, str]:
    """Name the versions of the runtimes that are installed, without importing them."""
    versions = {}
    for name in RUNTIMES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _first_line(path: Path) -> str:
    return next(iter(_text(path).splitlines()), "").strip()


def _frequency_mhz() -> float | None:
    frequency = psutil.cpu_freq()
    return None if frequency is None or not frequency.current else float(frequency.current)


def _container() -> str:
    """Name the container engine by the marks that it leaves, empty outside of containers."""
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    match = re.search(r"docker|kubepods|containerd|lxc|podman", _text(Path("/proc/1/cgroup")))
    return match.group(0) if match else ""
