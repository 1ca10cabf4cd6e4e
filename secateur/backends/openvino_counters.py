"""OpenVINO's counters: what every layer of a network takes in a call."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

WINDOWS = 5
"""How many of the last windows of calls count, each twice as long as the one before."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A layer of a compiled network that was executed: its name, type and kernel, and the seconds of a call."""

    name: str
    operator: str
    kernel: str
    seconds: float


def count(
    request: Any, inputs: tuple[np.ndarray, ...], *, num_calls: int, averages: bool
) -> tuple[tuple[Counted, ...], float]:
    """Call a fresh request that has counters; return its executed layers and the median of the seconds of a call.

    The first call is cold and does not count.

    Args:
        request: of a network that was compiled with counters and has not been called.
        inputs: what it is called on.
        num_calls: how many calls count at least.
        averages: whether counters are averages over all calls so far, as those of the CPU are.
    """
    total = 2 ** math.ceil(math.log2(num_calls + 1))
    whole_s, ticks, layers = np.empty(total), [], []
    for call in range(total):
        started = time.perf_counter()
        request.infer(dict(enumerate(inputs)))
        whole_s[call] = time.perf_counter() - started
        layers = request.profiling_info
        ticks.append([layer.real_time / layer.real_time.resolution for layer in layers])
    shown = np.array(ticks).round().astype(np.int64)
    found = windowed(shown) if averages else np.median(shown[1:], axis=0)
    counted = (
        Counted(
            name=layer.node_name, operator=layer.node_type, kernel=layer.exec_type,
            seconds=seconds * layer.real_time.resolution.total_seconds(),
        )
        for layer, seconds, ran in zip(layers, found.tolist(), shown.max(axis=0).tolist(), strict=True)
        if ran > 0
    )  # fmt: skip
    return tuple(counted), float(np.median(whole_s[1:]))


def windowed(averages: Int[np.ndarray, "call layer"]) -> Float[np.ndarray, " layer"]:
    """Return what layers take in a call, of counters that show the mean over all calls so far, cut to whole ticks.

    A cold start, or one call in which another process had the processor, would stay in such means for good. With A_n
    the mean after n calls, calls n + 1 to 2n took 2 A_2n - A_n each, to a tick or so; the median over the last windows
    n = 1, 2, 4 ... is taken. Half a tick is what cutting takes away on average.
    """
    ends = 2 ** np.arange(1, int(math.log2(len(averages))) + 1)
    windows = (2 * averages[ends - 1] - averages[ends // 2 - 1])[-WINDOWS:]
    return np.maximum(0.0, np.median(windows, axis=0) + 0.5)
