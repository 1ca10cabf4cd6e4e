"""Reach the input or output of any convolution, linear layer or norm, however it is called."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from secateur.errors import TraceError

Transform = Callable[[Tensor], Tensor]

WEIGHT_AT: dict[Any, int] = {
    functional.conv1d: 1,
    functional.conv2d: 1,
    functional.conv3d: 1,
    functional.conv_transpose1d: 1,
    functional.conv_transpose2d: 1,
    functional.conv_transpose3d: 1,
    functional.linear: 1,
    functional.layer_norm: 2,
    torch.layer_norm: 2,
    functional.rms_norm: 2,
    torch.rms_norm: 2,
    functional.batch_norm: 3,
    torch.batch_norm: 1,
    functional.instance_norm: 3,
    torch.instance_norm: 1,
    functional.group_norm: 2,
    torch.group_norm: 2,
}
"""The functions that are tapped, with the place of the weight among their arguments."""

CHANNELS_SECOND = frozenset(
    {functional.batch_norm, torch.batch_norm, functional.instance_norm, torch.instance_norm, functional.group_norm,
     torch.group_norm}
)  # fmt: skip
"""Those whose channels lie on axis 1 though their weight is a vector: what is tapped has them last."""


def channel_axis(weight: Tensor) -> int:
    """Return the axis of a layer's input and output that holds channels, by its weight.

    -1 for linear layers and for norms, whose weight is a vector; -2 to -4 for convolutions.
    """
    return min(1 - weight.ndim, -1)


def weights_of(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the network's parameters of these names; raise TraceError where there is none of a name."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in names:
        if name not in parameters:
            raise TraceError(
                type(module).__name__, f"no parameter {name!r}", "the name of a layer's weight",
                "Trace the network again: these groups belong to another one.",
            )  # fmt: skip
    return {name: parameters[name] for name in names}


def _channels_last(transform: Transform, func: Any, tensor: Tensor) -> Tensor:
    """Apply a function to a tensor with its channels on the axis that `channel_axis` tells."""
    return transform(tensor.movedim(1, -1)).movedim(-1, 1) if func in CHANNELS_SECOND else transform(tensor)


class _Taps(TorchFunctionMode):
    """Pass the input, or the output, of each layer whose weight is listed through that weight's function."""

    def __init__(
        self,
        names: Mapping[int, list[str]],
        transforms: Mapping[str, Transform],
        outputs: Mapping[str, Transform],
        seen: set[str],
    ) -> None:
        super().__init__()
        self._names = names
        self._transforms = transforms
        self._outputs = outputs
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        place = WEIGHT_AT.get(func)
        if place is not None:
            weight = args[place] if len(args) > place else kwargs.get("weight")
            names = self._names.get(id(weight), [])
            self._seen.update(names)
            # One weight under several names is one layer: it is tapped once.
            for name in [n for n in names if n in self._transforms][:1]:
                if args:
                    args = (_channels_last(self._transforms[name], func, args[0]), *args[1:])
                else:
                    kwargs["input"] = _channels_last(self._transforms[name], func, kwargs["input"])
            for name in [n for n in names if n in self._outputs][:1]:
                return _channels_last(self._outputs[name], func, func(*args, **kwargs))
        elif func is functional.multi_head_attention_forward:
            # The mode is off inside the functions it sees; attention is the one that holds linear layers of its own.
            with self:
                return _attention(*args, **kwargs)
        return func(*args, **kwargs)


# The same attention, except that it does not hand itself to the mode again.
_attention = FunctionType(
    functional.multi_head_attention_forward.__code__,
    {**functional.multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    argdefs=functional.multi_head_attention_forward.__defaults__,
)


def require_met(missing: Sequence[str]) -> None:
    """Raise TraceError naming the first of the weights that a forward never met, see `tap_readers`."""
    if missing:
        raise TraceError(
            missing[0], "a weight that no convolution or linear layer was called with",
            "layers that are called with the parameter itself",
            "Remove parametrisations (for example weight norm) before pruning, or keep this layer out.",
        )  # fmt: skip


@contextmanager
def tap_readers(
    module: nn.Module, transforms: Mapping[str, Transform], outputs: Mapping[str, Transform] | None = None
) -> Iterator[set[str]]:
    """Pass the inputs of the layers of these weights through functions, within the context.

    ``transforms`` maps the name of a parameter of ``module`` to ``function(inputs) -> inputs``; the axis of the input
    channels is `channel_axis` of the weight. ``outputs`` does the same for what layers return. A layer is recognised by
    the identity of its weight, so nn modules, bare ``torch.nn.functional`` calls, layers that are called twice and
    multi-head attention are all seen. Contexts nest; the inner one's functions come first. Yields the set of weights
    met so far: what is not in it after a forward is applied in some other way (for example through a parametrisation),
    and was not tapped.
    """
    outputs = outputs or {}
    aliases: dict[int, list[str]] = {}
    for name, weight in weights_of(module, {**transforms, **outputs}).items():
        aliases.setdefault(id(weight), []).append(name)
    seen: set[str] = set()
    with _Taps(aliases, transforms, outputs, seen):
        yield seen
