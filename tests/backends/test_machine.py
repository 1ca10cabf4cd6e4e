"""What is said about the machine is what the system says."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

from secateur.backends import BACKENDS
from secateur.backends.cuda import cuda_devices, missing_cuda
from secateur.backends.doctor import doctor
from secateur.backends.machine import machine_facts, runtime_versions
from secateur.provenance import CHECKOUT


def test_facts_agree_with_the_system() -> None:
    machine = machine_facts(load_before=1.25)
    assert machine.load_before == 1.25
    assert machine.cpu in Path("/proc/cpuinfo").read_text()
    assert machine.num_cores == len(os.sched_getaffinity(0)) <= os.cpu_count()
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert platform.python_version() in machine.system
    assert (machine.container == "docker") == Path("/.dockerenv").exists() or machine.container
    assert machine.gpus == cuda_devices()
    assert type(machine).model_validate_json(machine.model_dump_json()) == machine


def test_without_a_load_before_the_present_one_stands_for_it() -> None:
    machine = machine_facts()
    assert machine.load_before == machine.load_after >= 0


def test_the_commit_is_that_of_the_checkout() -> None:
    commit = machine_facts().commit
    head = CHECKOUT / ".git"
    if not head.exists():
        assert commit == ""
    else:
        assert len(commit.removesuffix("-dirty")) == 40


def test_versions_are_those_that_are_installed() -> None:
    versions = runtime_versions()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert all(versions.values())


def test_cuda_is_there_or_its_absence_explained() -> None:
    missing = missing_cuda()
    if missing is None:
        assert cuda_devices()
    else:
        assert cuda_devices() == ()
        assert "CUDA" in missing.found or "cuda" in missing.found
        assert missing.remedy


def test_the_doctor_sees_every_backend() -> None:
    rows = doctor()
    seen = {row.name: row for row in rows if row.kind == "backend"}
    assert set(seen) == set(BACKENDS)
    for name, backend in BACKENDS.items():
        row = seen[name]
        wanted = "absent" if backend.unavailable() else "build only" if backend.unable_to_run() else "ready"
        assert (row.status, row.value) == (wanted, backend.version())
        assert bool(row.detail) == (wanted != "ready")
        assert bool(row.devices) == (wanted == "ready")
    packages = {row.name: row.value for row in rows if row.kind == "package"}
    assert packages == runtime_versions()
    facts = {row.name: row.value for row in rows if row.kind == "machine"}
    assert facts["processor"] == machine_facts().cpu
    assert all(facts.values())
