"""What layers multiply their weights with, as sums over the calibration samples that say all about their error."""

import numpy as np
import onnx
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from secateur.calibration.patches import Application
from secateur.pipeline.quantize.graph import Graph, attribute, channel_axis

ROWS_AT_A_TIME = 2**14
"""Rows of patches that are held at once."""


class Reading:
    """Sums of one layer over rows x' that reach it in the rounded network and rows x that do in the exact one.

    With y = W x, channel by channel, ``gram`` is the sum of x' x'^T, float64 [groups, entries, entries], ``cross`` that
    of x' y^T [groups, entries, outputs] and ``power`` that of y^2 [groups, outputs]; ``num_rows`` is how many rows were
    summed.
    """

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self._node = node
        self._axis, self._groups = channel_axis(node), int(attribute(node, "group", 1.0))
        values = graph.array(node.input[1])
        self._weight = torch.tensor(values).movedim(self._axis, 0)
        self._matrix = self.rows(values)
        groups, outputs, entries = self._matrix.shape
        self.num_rows = 0
        self.gram = torch.zeros(groups, entries, entries, dtype=torch.float64)
        self.cross = torch.zeros(groups, entries, outputs, dtype=torch.float64)
        self.power = torch.zeros(groups, outputs, dtype=torch.float64)

    def see(self, rounded: np.ndarray, exact: np.ndarray) -> None:
        """Add a batch of what reached the layer's input in both networks."""
        both = self._application(rounded), self._application(exact)
        num_samples = len(both[0].inputs)
        places = max(1, int(np.prod(rounded.shape)) // max(1, rounded.shape[0] * self._weight.shape[1]))
        at_a_time = max(1, ROWS_AT_A_TIME // places)
        for start in range(0, num_samples, at_a_time):
            part = slice(start, start + at_a_time)
            x, reference = (side.patches(part).movedim(1, 0) for side in both)
            self.num_rows += x.shape[1]
            y = reference.double() @ self._matrix.mT
            self.gram += (x.mT @ x).double()
            self.cross += x.mT.double() @ y
            self.power += y.square().sum(1)

    def error(self, values: Float[np.ndarray, "..."]) -> Float[Tensor, " outputs"]:
        """Return the sum of (W' x' - W x)^2 of every output channel, for weights W' of the layer's shape."""
        rows = self.rows(values)
        own = torch.einsum("god,gde,goe->go", rows, self.gram, rows)
        return (own - 2 * torch.einsum("god,gdo->go", rows, self.cross) + self.power).flatten()

    def rows(self, values: Shaped[np.ndarray, "..."]) -> Float[Tensor, "groups outputs entries"]:
        """Lay weights of the layer's shape out as the matrices that multiply its rows, float64."""
        weight = torch.tensor(values).movedim(self._axis, 0).double()
        return weight.reshape(self._groups, len(weight) // self._groups, -1)

    def weights(self, rows: Float[Tensor, "groups outputs entries"]) -> Float[Tensor, "..."]:
        """Put matrices back into the layer's shape."""
        return rows.reshape(self._weight.shape).movedim(0, self._axis)

    def _application(self, inputs: np.ndarray) -> Application:
        given, node = torch.from_numpy(inputs), self._node
        if node.op_type != "Conv":
            given = given.mT if attribute(node, "transA", 0.0) else given
            return Application(
                inputs=given.reshape(-1, given.shape[-1]), weight=self._weight, bias=None, stride=(), padding=(),
                dilation=(), groups=1,
            )  # fmt: skip
        rank = self._weight.ndim - 2
        found = {a.name: tuple(a.ints) for a in node.attribute}
        pads = found.get("pads", (0,) * 2 * rank)
        margins = [m for axis in reversed(range(rank)) for m in (pads[axis], pads[axis + rank])]
        return Application(
            inputs=functional.pad(given, margins), weight=self._weight, bias=None,
            stride=found.get("strides", (1,) * rank), padding=(0,) * rank, dilation=found.get("dilations", (1,) * rank),
            groups=self._groups,
        )  # fmt: skip
