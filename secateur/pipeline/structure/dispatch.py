"""Run networks under modes that see ATen operators before PyTorch takes them apart."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
META = torch.device("meta")


@contextmanager
def seeing(mode: TorchDispatchMode) -> Iterator[None]:
    """Let a mode see every operator as it is called, within the context; nothing is recorded for gradients."""
    with torch._C._AutoDispatchBelowAutograd(), mode:
        yield


def mapped(arguments: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to arguments, those in lists included."""
    if isinstance(arguments, (tuple, list)):
        return type(arguments)([mapped(a, function) for a in arguments])
    if isinstance(arguments, dict):
        return {name: mapped(a, function) for name, a in arguments.items()}
    return function(arguments)


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """List the tensors that an operator writes into."""
    if not func._schema.is_mutable:
        return []
    places = [(n, a.name) for n, a in enumerate(func._schema.arguments) if a.is_write]
    found = [args[n] if n < len(args) else kwargs.get(name) for n, name in places]
    return [t for each in found for t in (each if isinstance(each, (tuple, list)) else [each]) if isinstance(t, Tensor)]


class WithoutValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Let operators return tensors of the right shapes on the meta device, whatever device they are called for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call an operator with all that belongs to a device moved."""
        kwargs = dict(kwargs or {})
        if func in _LIKE_INPUT:
            return torch.empty_like(args[0], device=META)
        if func is _aten.grid_sampler.default:  # otherwise taken apart, too
            return torch.empty((*args[0].shape[:2], *args[1].shape[1:-1]), dtype=args[0].dtype, device=META)
        if any(argument.name == "device" for argument in func._schema.arguments[len(args) :]):
            kwargs["device"] = META
        return func(*mapped(args, _on_meta), **mapped(kwargs, _on_meta))


_LIKE_INPUT = frozenset({_aten.batch_norm.default, _aten.instance_norm.default, _aten.layer_norm.default,
                         _aten.group_norm.default, _aten.rms_norm.default})  # fmt: skip
"""Norms return what is like their input; without values PyTorch takes them apart and long over it."""


def without_values(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape, strides and type on the meta device."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def _on_meta(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument if argument.is_meta else without_values(argument)
    return META if isinstance(argument, torch.device) else argument


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Let operators compute in double precision, whatever the precision of their inputs or the one they are asked for.

    Parameters are converted when they are used and not kept, so that a network needs no copy in double precision.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._written: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call an operator with all that has a precision converted."""
        kwargs = kwargs or {}
        for tensor in written(func, args, kwargs):
            if tensor.dtype in _WIDER:  # what is written into must be found again
                self._written.setdefault(id(tensor), (tensor, tensor.to(_WIDER[tensor.dtype])))
        result = func(*mapped(args, self._widened), **mapped(kwargs, self._widened))
        return mapped(result, self._widened)

    def _widened(self, argument: Any) -> Any:
        if isinstance(argument, Tensor) and argument.dtype in _WIDER:
            known = self._written.get(id(argument))
            return argument.to(_WIDER[argument.dtype]) if known is None else known[1]
        return _WIDER.get(argument, argument) if isinstance(argument, torch.dtype) else argument


_WIDER = {
    torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
    torch.complex32: torch.complex128, torch.complex64: torch.complex128,
}  # fmt: skip
