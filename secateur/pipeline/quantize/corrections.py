"""What is done to a float32 graph so that its rounded self comes closer to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from secateur.pipeline.quantize.adaround import adapted
from secateur.pipeline.quantize.bias_correction import corrected
from secateur.pipeline.quantize.equalisation import equalised
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.running import Samples
from secateur.pipeline.quantize.weights import Weights

Rounding = Callable[
    [
        Graph,
        Sequence[onnx.NodeProto],
        Mapping[str, Weights],
        Callable[[Mapping[str, Weights]], onnx.ModelProto],
        Samples,
    ],
    dict[str, Weights],
]
After = Callable[[Graph, onnx.ModelProto, tuple[onnx.NodeProto, ...], Samples], Graph]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A change of the float32 graph, before ranges are collected or with the rounded graph at hand, or of integers."""

    before: Callable[[Graph], Graph] | None = None
    rounding: Rounding | None = None
    after: After | None = None


CORRECTIONS: dict[str, Correction] = {
    "equalisation": Correction(before=equalised),
    "adaround": Correction(rounding=adapted),
    "bias": Correction(after=corrected),
}
"""In the order in which they are made, whatever the order in which they are asked for."""
