"""Several clients at once: the throughput that a machine reaches, and what that costs each of them in latency."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from secateur.artifacts import Clients
from secateur.backends.measure import Clock, PerformanceCounter, WarmUp
from secateur.backends.protocol import Engine
from secateur.backends.statistics import summarise
from secateur.errors import MeasurementError


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Let ``num_clients`` threads call an engine instance of their own each, all for ``duration_s`` after warming up.

    Runtimes compute outside of Python's lock, so the threads disturb each other as clients of one server process do.
    """

    num_clients: int
    duration_s: float = 2.0
    warm_up: WarmUp = field(default_factory=lambda: WarmUp(most_s=2.0))
    clock: Clock = field(default_factory=PerformanceCounter)

    def __post_init__(self) -> None:
        if self.num_clients < 1 or self.duration_s <= 0:
            raise MeasurementError(
                "clients", f"{self.num_clients} for {self.duration_s} s", "one at least, for some time",
                "For example --concurrency 1,2,4.",
            )  # fmt: skip

    def measure(self, load: Callable[[], Engine], inputs: tuple[np.ndarray, ...]) -> Clients:
        """Load the engines one after another and time the calls that all clients make together.

        The first error of a client ends it, and is raised once the others have finished.
        """
        start = threading.Barrier(self.num_clients)
        with ExitStack() as stack:
            engines = [stack.enter_context(load()) for _ in range(self.num_clients)]
            with ThreadPoolExecutor(self.num_clients) as pool:
                futures = [pool.submit(self._client, engine, inputs, start) for engine in engines]
                stamps = [future.result() for future in futures]
        begin, end = max(times[0] for times in stamps), min(times[-1] for times in stamps)
        inside = sum(int(((times[1:] > begin) & (times[1:] <= end)).sum()) for times in stamps)
        latency = summarise(np.concatenate([np.diff(times) for times in stamps]), batch_size=inputs[0].shape[0])
        return Clients(
            num_clients=self.num_clients, latency=latency,
            throughput_per_s=inside * inputs[0].shape[0] / (end - begin),
        )  # fmt: skip

    def _client(self, engine: Engine, inputs: tuple[np.ndarray, ...], start: threading.Barrier) -> np.ndarray:
        """Return when each call ended, and before them when the first began."""
        try:
            self.warm_up.run(lambda: engine.run(inputs), self.clock)
            start.wait()
        except threading.BrokenBarrierError as error:  # another client's error is the one to tell
            raise MeasurementError(
                "clients", "another client that failed", "clients that all begin", "See its error."
            ) from error
        except BaseException:
            start.abort()
            raise
        stamps = [self.clock.now()]
        while len(stamps) < 3 or stamps[-1] - stamps[0] < self.duration_s:
            engine.run(inputs)
            stamps.append(self.clock.now())
        return np.array(stamps)
