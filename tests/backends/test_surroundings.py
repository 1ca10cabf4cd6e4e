"""What went on beside a measurement is told: other processes' work, throttling, clocks, the graphics card's state."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secateur.backends.nvml import first_gpu
from secateur.backends.surroundings import Surroundings

DRIVER = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
static unsigned long long energy = 1000;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { strncpy(out, "580.65.06", size); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)1; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out) { *out = energy += 2500; return 0; }
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *out) {
    static unsigned clock = 1980; *out = clock; clock /= 2; return kind == 1 ? 0 : 2;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *out) { *out = 0x44; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *out) { return 3; /* not supported */ }
"""
"""A driver's library as far as it is asked, since the real one needs its card."""
ASKS = """
import json, pynvml
from secateur.backends.nvml import Gpu, driver_version
from secateur.backends.surroundings import Surroundings
pynvml.nvmlInit()
gpu = Gpu(library=pynvml, handle=pynvml.nvmlDeviceGetHandleByIndex(0))
around = Surroundings()
around.clocks_mhz = []
before = gpu.energy_j()
around.notice(gpu)
around.notice(gpu)
print(json.dumps({
    "driver": driver_version(), "joules": gpu.energy_j() - before, "used": gpu.used_bytes(),
    "warnings": around.warnings(),
}))
"""


def test_throttling_is_counted_from_the_beginning(tmp_path: Path) -> None:
    counts = [tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count" for core in range(2)]
    for count in counts:
        count.parent.mkdir(parents=True)
        count.write_text("7")
    around = Surroundings(system=tmp_path)
    assert not any("throttled" in warning for warning in around.warnings())
    counts[1].write_text("9")
    assert any(warning.startswith("the processor was throttled 2 times") for warning in around.warnings())


def test_a_changing_clock_is_told(tmp_path: Path) -> None:
    around = Surroundings(system=tmp_path)
    around.notice()
    around.clocks_mhz = [3000.0, 2400.0]
    assert not any("clock" in warning for warning in around.warnings())
    around.clocks_mhz.append(2000.0)
    assert any("the clock varied from 2000 to 3000 MHz" in warning for warning in around.warnings())


def test_other_processes_work_is_told_and_ones_own_is_not(tmp_path: Path) -> None:
    around = Surroundings(system=tmp_path)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    alone = around.others()
    around = Surroundings(system=tmp_path)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        crowded, warnings = around.others(), around.warnings()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert alone is not None
    assert crowded is not None
    assert crowded > 0.25 * len(busy)
    assert any("other processes kept" in warning for warning in warnings)


def test_without_a_card_nothing_is_said_of_one() -> None:
    if first_gpu() is not None:
        pytest.skip("a graphics card is here")
    around = Surroundings()
    around.notice(first_gpu())
    assert not any("GPU" in warning for warning in around.warnings())


@pytest.mark.gpu
def test_the_card_tells_energy_and_clock() -> None:
    gpu = first_gpu()
    if gpu is None:
        pytest.skip("no CUDA device with NVIDIA's management library")
    assert gpu.clock_mhz() is None or gpu.clock_mhz() > 0
    before = gpu.energy_j()
    time.sleep(0.3)
    assert before is None or 0 < gpu.energy_j() - before < 1000
    assert gpu.used_bytes() is None or gpu.used_bytes() > 0


def test_what_the_driver_says_is_understood(tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a library in the driver's place")
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")], check=True)
    done = subprocess.run(
        [sys.executable, "-c", ASKS], capture_output=True, text=True, check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["driver"], said["joules"], said["used"]) == ("580.65.06", 2.5, None)
    assert "the GPU was slowed down by its temperature and the hardware" not in said["warnings"]
    assert any(warning.startswith("the GPU was slowed down by its temperature") for warning in said["warnings"])
    assert any("the GPU's clock varied from 990 to 1980 MHz" in warning for warning in said["warnings"])
