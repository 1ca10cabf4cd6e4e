"""Weights in eight bits, one scale an output channel."""

from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float, Shaped

from secateur.pipeline.quantize.graph import Graph, channel_axis
from secateur.pipeline.quantize.grid import INT8, LEAST_SCALE, ZERO_SCALE, Grid

LARGEST_BIAS = 2**30
"""Biases are rounded to multiples of (input scale * weight scale); beyond this the sum may leave 32 bits."""
CLIPPED_BITS = 6
"""Weights of so many bits and fewer lose their extremes to finer steps."""
NUM_CLIPS = 40


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A layer's integers, from -``most`` to ``most``, and the scales of its output channels, which lie on ``axis``.

    Of grids that are not of integers they are floats of eight bits.
    """

    integers: Shaped[np.ndarray, "..."]
    scales: Float[np.ndarray, " channels"]
    axis: int
    most: int

    @property
    def bits(self) -> int:
        """The bits that the integers need, eight of floats."""
        return min(8, self.most.bit_length() + 1)

    @property
    def values(self) -> Float[np.ndarray, "..."]:
        """What the integers stand for, float32."""
        return self.integers.astype(np.float32) * self.steps

    @property
    def steps(self) -> Float[np.ndarray, "..."]:
        """The scales, shaped to be multiplied with the integers."""
        return self.scales.reshape([-1 if axis == self.axis else 1 for axis in range(self.integers.ndim)])


def quantize_weights(
    values: Float[np.ndarray, "..."],
    axis: int,
    *,
    bits: int,
    bias: Float[np.ndarray, " channels"] | None = None,
    input_scale: float = 1.0,
    grid: Grid = INT8,
) -> Weights:
    """Round weights to the nearest of 2^bits - 1 integers around zero, with scale c / (2^(bits-1) - 1) a channel.

    c is max |w|; of six bits and fewer it is the share of that, a multiple of 1 / `NUM_CLIPS`, with the least sum of
    (w - Q(w))^2 (Nagel et al. 2021, arXiv 2106.08295, section 3.1): coarse grids do better without extremes. A channel
    without weights takes the layer's largest scale. Scales are widened where the channel's bias, which runtimes round
    to a multiple of (input scale * weight scale), would not fit into 32 bits. A ``grid`` of floats has its own largest
    number in place of 2^(bits-1) - 1, whatever the bits.
    """
    most = 2 ** (bits - 1) - 1 if grid.integral else grid.high
    largest = np.abs(values).max(axis=tuple(a for a in range(values.ndim) if a != axis), initial=0.0)
    if bits <= CLIPPED_BITS and grid.integral:
        largest = largest * _best_clips(np.moveaxis(values, axis, 0).reshape(len(largest), -1), largest, most)
    scales = largest.astype(np.float64) / most
    dead = scales <= LEAST_SCALE
    scales[dead] = ZERO_SCALE if dead.all() else scales.max()
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (LARGEST_BIAS * input_scale))
    scales = scales.astype(np.float32)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    scaled = values / scales.reshape(shape)
    integers = np.rint(scaled).clip(-most, most).astype(np.int8) if grid.integral else grid.floats(scaled)
    return Weights(integers=integers, scales=scales, axis=axis, most=most)


def _best_clips(
    rows: Float[np.ndarray, "channels entries"], largest: Float[np.ndarray, " channels"], most: int
) -> Float[np.ndarray, " channels"]:
    """Return the share of each row's largest |w| at which clipping and rounding change the row least."""
    found, least = np.ones(len(rows)), np.full(len(rows), np.inf)
    for share in np.arange(NUM_CLIPS, NUM_CLIPS // 4, -1) / NUM_CLIPS:
        steps = np.maximum(share * largest.astype(np.float64), LEAST_SCALE)[:, None] / most
        error = np.square(rows - np.rint(rows / steps).clip(-most, most) * steps).sum(1)
        found = np.where(error < least, share, found)
        least = np.minimum(error, least)
    return found


def bias_of(graph: Graph, node: onnx.NodeProto) -> str | None:
    """Return the name of the constant that a layer adds to each channel: its third input, or of a sum behind it."""
    if len(node.input) > 2 and node.input[2]:
        return node.input[2] if node.input[2] in graph.constants else None
    reader = graph.only_reader(node.output[0])
    if node.op_type != "MatMul" or reader is None or reader.op_type != "Add":
        return None
    num_channels = graph.constants[node.input[1]].dims[channel_axis(node)]
    other = next((name for name in reader.input if name in graph.constants), None)
    return other if other is not None and list(graph.constants[other].dims) == [num_channels] else None
