"""Run a network, or what compiles it, without moving anybody's random state."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def randomness_kept(device: torch.device) -> Iterator[None]:
    """Restore the random states of PyTorch (CPU and ``device``), NumPy and Python; networks may draw from any."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 (a network's forward may use it)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
