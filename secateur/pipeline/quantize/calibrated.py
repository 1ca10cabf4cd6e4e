"""A graph with all that quantisation has decided about it, before it is written."""

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.grid import Range, Steps
from secateur.pipeline.quantize.placement import Placement
from secateur.pipeline.quantize.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A graph with what its samples said: where it is rounded, by which steps, and its weights' integers.

    ``original`` is the graph before corrections and training.
    """

    original: Graph
    graph: Graph
    target: str
    placement: Placement
    ranges: Mapping[str, Range]
    steps: Mapping[str, Steps]
    weights: Mapping[str, Weights]
