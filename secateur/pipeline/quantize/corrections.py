"""What is done to a float32 graph so that its rounded self comes closer to it."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from secateur.pipeline.quantize.bias_correction import corrected
from secateur.pipeline.quantize.equalisation import equalised
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.running import Samples

After = Callable[[Graph, onnx.ModelProto, tuple[onnx.NodeProto, ...], Samples], Graph]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A change of the float32 graph: before ranges are collected, or with the rounded graph at hand."""

    before: Callable[[Graph], Graph] | None = None
    after: After | None = None


CORRECTIONS: dict[str, Correction] = {
    "equalisation": Correction(before=equalised),
    "bias": Correction(after=corrected),
}
