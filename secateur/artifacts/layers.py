"""Layers as a runtime sees them, and how long it takes for them at various widths."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from secateur.artifacts.record import Record


class LayerShape(Record):
    """All of a convolution or linear layer but its widths.

    ``size`` is the spatial size of one sample's input; a linear layer has the number of its rows there, and nothing in
    the other lists. Depthwise layers have ``groups`` 0: as many groups as inputs, with ``per_input`` outputs each.
    """

    operator: Literal["convolution", "transposed", "linear"]
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    per_input: int = 1


class Layer(Record):
    """One call of a layer: its shape, the name of its weight and the lengths of the weight's first two axes."""

    weight: str
    shape: LayerShape
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyGrid:
    """The seconds that a layer takes where its weight has ``rows`` x ``columns`` entries along its first two axes.

    Both are ascending; the last ones are the uncut lengths. Between two of them a layer takes what it takes at the
    larger one: runtimes compute in steps, and nothing is interpolated.
    """

    rows: Int64[np.ndarray, " row"]
    columns: Int64[np.ndarray, " column"]
    latency_s: Float64[np.ndarray, "row column"]
