"""Packages that reach CUDA: one set of laws over their table; what needs a device says so."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from secateur.backends.cuda import DeviceArray
from secateur.backends.cuda_driver import DRIVERS, Driver, Event, Memory, Pinned, Stream
from secateur.backends.tensorrt import TensorRt
from secateur.errors import BackendError

drivers = pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)


def on_device(driver: Driver) -> None:
    if (missing := driver.missing()) is not None:
        pytest.skip(f"no CUDA by {driver.name}: {missing}")


def test_the_table_names_its_entries() -> None:
    assert {name: driver.name for name, driver in DRIVERS.items()} == {name: name for name in DRIVERS}
    assert all(isinstance(driver, Driver) for driver in DRIVERS.values())


@drivers
def test_what_is_missing_is_said_with_a_remedy(driver: Driver) -> None:
    backend = TensorRt(package="tensorrt_rtx", driver=driver.name)
    missing = driver.missing()
    if missing is None:
        assert all("(compute capability " in device for device in driver.devices())
        return
    assert missing.remedy.startswith(("Install", "Use"))
    assert driver.devices() == backend.devices() == ()
    if backend.unavailable() is None:
        assert backend.unable_to_run() == missing
        assert TensorRt(package="tensorrt", driver=driver.name).unable_to_run() is not None


def test_graphs_that_cannot_be_recorded_are_refused() -> None:
    with pytest.raises(BackendError, match=r"pycuda, which does not record them; wanted cuda\.bindings"):
        DRIVERS["pycuda"].graph(None, lambda: None)


def test_memory_grows_when_it_must_and_all_of_it_is_given_back() -> None:
    """By a driver that only counts; those of the table are held to it on a device below."""
    given: list[int] = []
    freed: list[int] = []

    def allocate(size_bytes: int) -> int:
        given.append(size_bytes)
        return 1000 * len(given)

    memory = DeviceArray(allocate, freed.append)
    assert (memory.pointer, memory.size_bytes) == (0, 0)
    places = [memory.reserve(size) for size in (0, 0, 10, 4, 10, 11)]
    assert places == [1000, 1000, 2000, 2000, 2000, 3000]
    assert (given, freed) == ([1, 10, 11], [1000, 2000])
    memory.close()
    memory.close()
    assert freed == [1000, 2000, 3000]
    assert memory.pointer == memory.size_bytes == 0
    assert memory.reserve(5) == 4000


@pytest.mark.gpu
@drivers
def test_arrays_go_to_the_device_and_come_back(driver: Driver) -> None:
    on_device(driver)
    memory, stream = driver.memory(), driver.stream()
    first, last = driver.event(), driver.event()
    sent, back = (driver.pinned((64, 1000), np.dtype(np.float32)) for _ in range(2))
    kinds = {Memory: memory, Stream: stream, Event: first, Pinned: sent}
    assert all(isinstance(part, kind) for kind, part in kinds.items())
    sent.array[...] = np.random.default_rng(0).standard_normal(sent.array.shape)
    first.record(stream)
    stream.upload(sent.array, memory.reserve(sent.array.nbytes))
    stream.download(memory.pointer, back.array)
    last.record(stream)
    stream.wait()
    np.testing.assert_array_equal(back.array, sent.array)
    assert 0 < last.seconds_since(first) < 1
    assert stream.handle
    where = memory.pointer
    assert memory.reserve(10) == where, "less room is no reason to move"
    for part in (memory, stream, first, last, sent, back, memory, stream):
        part.close()
    assert memory.pointer == 0


@pytest.mark.gpu
@drivers
def test_threads_reach_one_device(driver: Driver) -> None:
    on_device(driver)
    memory, stream = driver.memory(), driver.stream()
    memory.reserve(4000)

    def there_and_back(number: int) -> float:
        own, place = driver.stream(), driver.memory()
        given, found = np.full(1000, number, np.float32), np.zeros(1000, np.float32)
        own.upload(given, place.reserve(given.nbytes))
        own.wait()
        own.download(place.pointer, found)
        own.wait()
        own.close()
        place.close()
        return float(found.mean())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(there_and_back, range(20))) == list(range(20))
        threads.submit(memory.close).result()
    stream.close()
