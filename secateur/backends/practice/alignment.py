"""Are a layer's channels on the hardware's steps? Neighbouring widths are timed to tell what they would cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.artifacts import LayerShape, NetworkPractice
from secateur.backends.layer_file import CALL
from secateur.backends.machine import processor_flags
from secateur.backends.measure import BRIEF, Stopwatch
from secateur.backends.practice.costs import Cost
from secateur.backends.protocol import Backend, Progress, unheard
from secateur.backends.single_file import layer_median_s

CPU_BACKENDS = frozenset({"onnxruntime", "openvino"})


def step_of(backend: str) -> int:
    """Return the channels that a runtime computes at once: a vector register's floats, or a tensor core's tile."""
    if backend not in CPU_BACKENDS:
        return 8
    flags = processor_flags()
    return 16 if "avx512f" in flags else 8 if "avx2" in flags else 4


def neighbours(width: int, before: int, step: int) -> tuple[int, int, int]:
    """Return a width with the next step up, or what it was before where that is less, and the next one down, if any."""
    return width, min(math.ceil(width / step) * step, before), width // step * step or width


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A layer by itself, in seconds: as it is, and with its channels at the next step up and down.

    ``up`` is no more than it had ``before``; ``down`` is ``width`` where there is no step below.
    """

    layer: str
    before: int
    width: int
    step: int
    up: int
    down: int
    width_s: float
    up_s: float
    down_s: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Time layers whose output channels are off the steps: the ``most`` longest that take ``worth`` of the call."""

    backend: Backend
    batch_size: int = 1
    num_threads: int = 1
    worth: float = 0.02
    most: int = 8
    stopwatch: Stopwatch = BRIEF

    def tried(
        self, before: NetworkPractice, after: NetworkPractice, paid: Mapping[str, Cost], progress: Progress = unheard
    ) -> tuple[Trial, ...]:
        """Try the layers that were cut to widths off the steps."""
        step, was = step_of(self.backend.name), {layer.name: layer for layer in before.layers}
        off = [
            layer
            for layer in after.layers
            if layer.name in was and layer.outputs % step and layer.outputs < was[layer.name].outputs
            and paid[layer.name].shape is not None and paid[layer.name].shape.groups == 1  # type: ignore[union-attr]
            and layer.seconds >= self.worth * after.profiled_s
        ]  # fmt: skip
        off = sorted(off, key=lambda layer: layer.seconds, reverse=True)[: self.most]
        if not off:
            return ()
        call_s = self._layer_s(CALL, 1, 1)
        trials = []
        for done, layer in enumerate(off):
            progress("widths", done, len(off))
            shape = paid[layer.name].shape
            assert shape is not None
            widths = neighbours(layer.outputs, was[layer.name].outputs, step)
            width, up, down = widths
            took = {each: self._layer_s(shape, each, layer.inputs) - call_s for each in set(widths)}
            if min(took.values()) <= 0:  # lost in the noise of calling
                continue
            trials.append(Trial(layer=layer.name, before=was[layer.name].outputs, width=width, step=step, up=up,
                                down=down, width_s=took[width], up_s=took[up], down_s=took[down]))  # fmt: skip
        progress("widths", len(off), len(off))
        return tuple(trials)

    def _layer_s(self, shape: LayerShape, rows: int, columns: int) -> float:
        return layer_median_s(
            self.backend, shape, rows, columns, self.stopwatch, batch_size=self.batch_size, num_threads=self.num_threads
        )
