"""Find the layers of a network that can be fitted, and the batch norms that read them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from secateur.calibration.calls import Calls
from secateur.calibration.observe import observing


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """A layer as one forward applies it.

    ``running_mean`` is that of the batch norm that reads the layer's very outputs, None where there is none or where it
    reads others as well; ``num_bytes`` is the memory of what the layer reads and makes.
    """

    running_mean: Tensor | None
    num_bytes: int


def find_sites(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Site]:
    """Return the layers that one forward in eval mode applies once, by their weights, in the order of application.

    The network is left as it was.
    """
    num_calls, num_reads = Counter[str](), Counter[int]()
    makers: list[tuple[Tensor, int, str]] = []
    num_bytes: dict[str, int] = {}
    means: dict[str, Tensor] = {}

    def layer(name: str, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        result = func(*args, **kwargs)
        num_calls[name] += 1
        num_bytes[name] = result.nbytes + (kwargs["input"] if "input" in kwargs else args[0]).nbytes
        makers.append((result, result._version, name))
        return result

    def norm(given: Tensor, mean: Tensor) -> None:
        num_reads[id(mean)] += 1
        # What was written over in between is no longer what the layer made.
        means.update({name: mean for made, version, name in makers if made is given and made._version == version})

    names = {id(parameter): name for name, parameter in module.named_parameters()}
    with observing(module), torch.no_grad(), Calls(names, layer), _Norms(norm):
        module(*inputs)
    own = {name: mean for name, mean in means.items() if num_reads[id(mean)] == 1}
    return {
        name: Site(running_mean=own.get(name), num_bytes=num_bytes[name])
        for name, calls in num_calls.items()
        if calls == 1
    }


class _Norms(TorchFunctionMode):
    """Show what every batch norm is about to read, and its running mean."""

    def __init__(self, norm: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self._norm = norm

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.batch_norm:
            given = dict(zip(("input", "running_mean"), args, strict=False)) | kwargs
            if given["running_mean"] is not None:
                self._norm(given["input"], given["running_mean"])
        return func(*args, **kwargs)
