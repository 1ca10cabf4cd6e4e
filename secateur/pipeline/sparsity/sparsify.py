"""Set two of every four weights to zero."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from secateur.artifacts import Data, Model, Task
from secateur.errors import LoadError
from secateur.pipeline.sparsity.discovery import Discovery
from secateur.pipeline.sparsity.two_of_four import sparse_layers, two_of_four


@dataclass(frozen=True, kw_only=True)
class Sparsify:
    """2:4 sparsity of linear layers and convolutions, for sparse tensor cores.

    ``method`` finds what stays: "magnitude" at once by the largest |w|, "discovery" by training. ``keep`` names modules
    that stay dense. Convolutions in groups, and layers whose inputs are no multiple of four, stay dense as well.
    """

    method: Literal["magnitude", "discovery"] = "magnitude"
    keep: Sequence[str] = ()
    discovery: Discovery = field(default_factory=Discovery)

    def __call__(self, model: Model, task: Task, data: Data) -> tuple[Model, dict[str, Tensor]]:
        """Return the sparse network, and the masks by the names of the weights, which `Finetune` holds them to.

        The network given stays as it was. An exported file carries the zeros.

        Raises:
            LoadError: no layer can be sparse, or a path to keep is that of no module.
            TrainingError: the loss of the discovery is not finite.
        """
        result = model.clone()
        weights, dense = sparse_layers(result.module, self.keep)
        if not weights:
            raise LoadError(
                "sparsity", f"no layer that can be sparse ({dense or 'no layers'})",
                "a linear layer or convolution whose inputs are a multiple of four", "Keep fewer modules dense.",
            )  # fmt: skip
        if self.method == "magnitude":
            masks = {name: two_of_four(weight.detach().abs()) for name, weight in weights.items()}
            values = {name: weight.detach() for name, weight in weights.items()}
        else:
            masks, values = self.discovery(result, task, data, weights)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(values[name] * masks[name])
        return result, masks
