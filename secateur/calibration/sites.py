"""Find the layers of a network that can be fitted, and the batch norms that read them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from secateur.calibration.observe import observing
from secateur.calibration.patches import LAYERS


def find_sites(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor | None]:
    """Return the weights of the layers that one forward in eval mode applies once, in the order of their application.

    Each with the running mean of the batch norm that reads the layer's very outputs, None where there is none or where
    it reads others as well. The network is left as it was.
    """
    watch = _Watch({id(parameter): name for name, parameter in module.named_parameters()})
    with observing(module), torch.no_grad(), watch:
        module(*inputs)
    return {
        name: mean if mean is not None and watch.num_reads[id(mean)] == 1 else None
        for name, mean in watch.means.items()
        if watch.num_calls[name] == 1
    }


class _Watch(TorchFunctionMode):
    """Note the layers that are applied, and which running mean is taken from what they make."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self._makers: list[tuple[Tensor, int, str]] = []
        self.num_calls = Counter[str]()
        self.num_reads = Counter[int]()
        self.means: dict[str, Tensor | None] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        if func in LAYERS:
            name = self._names.get(id(kwargs["weight"] if "weight" in kwargs else args[1]))
            if name is not None:
                self.num_calls[name] += 1
                self.means.setdefault(name, None)
                self._makers.append((result, result._version, name))
        elif func is functional.batch_norm:
            given = dict(zip(("input", "running_mean"), args, strict=False)) | kwargs
            mean = given["running_mean"]
            if mean is not None:
                self.num_reads[id(mean)] += 1
                # What was written over in between is no longer what the layer made.
                self.means |= {
                    name: mean
                    for made, version, name in self._makers
                    if made is given["input"] and made._version == version
                }
        return result
