"""A file as a network of torch, so that a task's metrics can be measured on what the file says."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.artifacts import Model
from secateur.onnx_reading import read_onnx
from secateur.pipeline.quantize.running import Running


class Returned:
    """What a network returns, put together from its tensors in their order."""

    def __init__(self, model: Model) -> None:
        with torch.no_grad():
            leaves, self._spec = pytree.tree_flatten(model.clone().module.eval()(*model.example_inputs))
        self._constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]

    def __call__(self, tensors: Iterable[Tensor]) -> Any:
        """Return them as the network does, with what it returns that is no tensor."""
        given = iter(tensors)
        leaves = [
            next(given) if is_tensor else constant
            for constant, is_tensor in zip(self._constants, self._is_tensor, strict=True)
        ]
        return pytree.tree_unflatten(leaves, self._spec)


class FileModule(nn.Module):
    """An ONNX file that is called as the network it was exported from, and returns what that returns.

    It is computed as it is written, rounding for rounding, in ONNX Runtime without optimisations.
    """

    def __init__(self, path: Path, model: Model) -> None:
        super().__init__()
        proto = read_onnx(path)
        self._names = [value.name for value in proto.graph.output]
        self._running = Running(proto, self._names)
        self._size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        self._returned = Returned(model)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the outputs; a file of a fixed batch size is called as often as it takes, the last call filled up."""
        fed = tuple(tensor.detach().cpu().numpy() for tensor in inputs)
        size = self._size or len(fed[0])
        parts = [self._call(fed, start, size) for start in range(0, len(fed[0]), size)]
        return self._returned(torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in self._names)

    def _call(self, fed: tuple[np.ndarray, ...], start: int, size: int) -> dict[str, np.ndarray]:
        present = [array[start : start + size] for array in fed]
        missing = size - len(present[0])
        filled = tuple(np.concatenate([array, *[array[-1:]] * missing]) for array in present)
        return {name: array[: size - missing] for name, array in self._running(filled).items()}
