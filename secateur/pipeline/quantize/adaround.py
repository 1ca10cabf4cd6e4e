"""Adaptive rounding: weights go up or down as suits the layer's output, not each to its nearest integer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from jaxtyping import Float
from torch import Tensor

from secateur.pipeline.quantize.graph import Graph, channel_axis
from secateur.pipeline.quantize.reading import Reading
from secateur.pipeline.quantize.running import Running, Samples, arrays
from secateur.pipeline.quantize.weights import Weights

DAMPING = 0.01
"""Least share of the mean second moment that is added to every entry's own; entries / rows where that is more.

Few rows do not tell how entries go together, and what suits them suits no others: there each weight counts by itself.
"""
ENTRIES_AT_A_TIME = 2**25
"""Entries of the layers' matrices that are held at once, 256 MiB; one layer may be larger."""
LAYERS_AT_A_TIME = 16
"""Layers that are rounded in one pass over the samples: the later of them see the earlier as they were before it."""


def adapted(
    graph: Graph,
    layers: Sequence[onnx.NodeProto],
    weights: Mapping[str, Weights],
    write: Callable[[Mapping[str, Weights]], onnx.ModelProto],
    samples: Samples,
) -> dict[str, Weights]:
    """Return the layers' weights, by what the layers write, each rounded up or down for least E (W' x' - W x)^2.

    x reaches the layer in the float32 network and x' in the rounded one, in which the layers before it are rounded
    already (Nagel et al. 2020, arXiv 2004.10568, equations 13 and 25). The samples are walked once for every few layers
    and only sums over them are kept. Layers whose padding is not written out keep their weights.

    Args:
        graph: the float32 network.
        layers: those to round, in the graph's order.
        weights: their integers and scales, each rounded to the nearest.
        write: returns the rounded network with given weights.
        samples: calibration samples.
    """
    chosen = dict(weights)
    for some in _portions(graph, [node for node in layers if _pads(node)]):
        quantized = write(chosen)
        rounded = {node.output[0]: node.input[0] for node in quantized.graph.node if node.output}
        before = [node.input[0] for node in some]
        after = [rounded[node.output[0]] for node in some]
        readings = [Reading(graph, node) for node in some]
        exact, real = Running(graph.proto, list(dict.fromkeys(before))), Running(quantized, list(dict.fromkeys(after)))
        for inputs in arrays(graph.proto, samples):
            wanted, found = exact(inputs), real(inputs)
            for reading, own, other in zip(readings, after, before, strict=True):
                reading.see(found[own], wanted[other])
        for node, reading in zip(some, readings, strict=True):
            chosen[node.output[0]] = _fitted(chosen[node.output[0]], graph.array(node.input[1]), reading)
    return chosen


def _pads(node: onnx.NodeProto) -> bool:
    return all(a.name != "auto_pad" or a.s == b"NOTSET" for a in node.attribute)


def _portions(graph: Graph, layers: Sequence[onnx.NodeProto]) -> Iterator[list[onnx.NodeProto]]:
    """Divide layers, in their order, into runs whose matrices fit into memory together."""
    some: list[onnx.NodeProto] = []
    held = 0
    for node in layers:
        dims = graph.constants[node.input[1]].dims
        per_output = int(np.prod(dims)) // dims[channel_axis(node)]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        size = groups * per_output**2
        if some and (len(some) == LAYERS_AT_A_TIME or held + size > ENTRIES_AT_A_TIME):
            yield some
            some, held = [], 0
        some.append(node)
        held += size
    if some:
        yield some


def _fitted(weights: Weights, values: Float[np.ndarray, "..."], reading: Reading) -> Weights:
    """Round one layer's weights; those rounded to the nearest stay where they are better on the samples."""
    wanted = reading.rows(values / weights.steps.astype(np.float64))
    low = wanted.floor().clamp(-weights.most, weights.most - 1)
    high = torch.where(wanted == low, low, low + 1)  # what is an integer stays: zeros that sparse kernels count on
    nearest = reading.rows(weights.integers)
    step = reading.rows(np.broadcast_to(weights.steps, values.shape))[..., :1]
    parts = []
    for g, gram in enumerate(reading.gram):
        mean = float(gram.diagonal().mean())
        if mean <= 0 or not np.isfinite(mean):
            parts.append(nearest[g])
            continue
        damping = max(DAMPING, len(gram) / reading.num_rows) * mean
        damped = gram + damping * torch.eye(len(gram), dtype=gram.dtype)
        linear = reading.cross[g].mT / step[g]
        pulled = linear + damping * wanted[g]
        begun = nearest_plane(damped, pulled, low[g], high[g])
        best = descended(damped, pulled, low[g], high[g], begun)
        better = _value(gram, linear, best) <= _value(gram, linear, nearest[g])
        parts.append(torch.where(better[:, None], best, nearest[g]))
    integers = reading.weights(torch.stack(parts)).numpy().astype(np.int8)
    return replace(weights, integers=integers)


def nearest_plane(
    gram: Float[Tensor, "entries entries"],
    linear: Float[Tensor, "outputs entries"],
    low: Float[Tensor, "outputs entries"],
    high: Float[Tensor, "outputs entries"],
) -> Float[Tensor, "outputs entries"]:
    """Round v so that v G v - 2 c v is small: entry by entry, what one leaves is made up for by those to come.

    Entries go in the order of falling G_ii (Babai's nearest plane, 1986; for networks Frantar et al. 2022,
    arXiv 2210.17323). Each becomes ``low`` or ``high``. ``gram`` is positive definite.
    """
    order = gram.diagonal().argsort(descending=True)
    target = torch.linalg.solve(gram, linear.mT).mT[:, order].contiguous()
    factor = torch.linalg.cholesky(torch.linalg.inv(gram[order][:, order]), upper=True)
    least, most = low[:, order], high[:, order]
    chosen = torch.empty_like(target)
    for j in range(len(gram)):
        chosen[:, j] = target[:, j].round().clamp(least[:, j], most[:, j])
        left = (target[:, j] - chosen[:, j]) / factor[j, j]
        target[:, j:] -= left[:, None] * factor[j, j:]
    result = torch.empty_like(chosen)
    result[:, order] = chosen
    return result


def descended(
    gram: Float[Tensor, "entries entries"],
    linear: Float[Tensor, "outputs entries"],
    low: Float[Tensor, "outputs entries"],
    high: Float[Tensor, "outputs entries"],
    start: Float[Tensor, "outputs entries"],
) -> Float[Tensor, "outputs entries"]:
    """Change one entry of each row at a time to its other value, the best first, until v G v - 2 c v falls no more."""
    chosen, diagonal = start.clone(), gram.diagonal()
    slope = chosen @ gram - linear
    while True:
        change = torch.where(chosen == low, high - low, low - high)
        best, entry = (2 * change * slope + change.square() * diagonal).min(1)
        rows = (best < -1e-9 * diagonal.mean()).nonzero()[:, 0]
        if not len(rows):
            return chosen
        entry = entry[rows]
        steps = change[rows, entry]
        chosen[rows, entry] += steps
        slope[rows] += steps[:, None] * gram[entry]


def _value(gram: Tensor, linear: Tensor, chosen: Tensor) -> Tensor:
    return ((chosen @ gram) * chosen - 2 * chosen * linear).sum(1)
