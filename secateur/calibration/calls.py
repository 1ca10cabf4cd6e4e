"""Stand in for the calls of convolutions and linear layers, however they are called."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from secateur.calibration.patches import LAYERS

Layer = Callable[[str, Callable[..., Tensor], tuple[Any, ...], Mapping[str, Any]], Tensor]
"""Called in place of a layer, with the name of its weight, the function that it is and the function's arguments."""


class Calls(TorchFunctionMode):
    """Hand the calls of the layers of these weights, by their identity, to a function."""

    def __init__(self, names: Mapping[int, str], layer: Layer) -> None:
        super().__init__()
        self._names, self._layer = names, layer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in LAYERS:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            if id(weight) in self._names:
                return self._layer(self._names[id(weight)], func, args, kwargs)
        return func(*args, **kwargs)
