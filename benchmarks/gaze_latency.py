"""Latency of many ONNX files side by side: fresh sessions in rounds, in changing order, and ratios by round."""

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from scipy.stats import t as student


def session_of(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the processor; 0 threads means all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rounds(
    files: Mapping[str, Path], picture: np.ndarray, num_threads: int, num_rounds: int, seconds: float = 0.4
) -> dict[str, list[float]]:
    """Return each file's median milliseconds in every round, each round with a session of its own.

    Two sessions of one file differ for as long as they live, so that no session is used twice. A file is timed for so
    many seconds a round, two calls at least, after one that warms it up.
    """
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {row: [] for row in files}
    for number in range(num_rounds):
        started = time.perf_counter()
        for row in generator.permutation(list(files)):
            session = session_of(files[row], num_threads)
            feed = {session.get_inputs()[0].name: picture}
            session.run(None, feed)
            found[row].append(milliseconds(lambda session=session, feed=feed: session.run(None, feed), seconds))
        print(f"round {number + 1}, {num_threads or 'all'} threads: {time.perf_counter() - started:.0f} s", flush=True)
    return found


def milliseconds(call, seconds: float) -> float:
    """Return the median duration of calls over so many seconds, two calls at least."""
    samples, end = list[float](), time.perf_counter() + seconds
    while len(samples) < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        samples.append(1e3 * (time.perf_counter() - started))
    return statistics.median(samples)


def speedup(base: list[float], other: list[float]) -> list[float]:
    """Return how many times faster the other is, with its 95 % interval: Student's, of the rounds' log ratios."""
    ratios = [math.log(slow / fast) for slow, fast in zip(base, other, strict=True)]
    middle = statistics.mean(ratios)
    reach = 0.0
    if len(ratios) > 1:
        reach = float(student.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return [math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)]
