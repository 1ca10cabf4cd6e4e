"""Normalise over some channels only, as a network does from which the others were cut."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from secateur.artifacts import Group
from secateur.calibration.readers import weights_of


def layer_norm(
    gate: Tensor, input: Tensor, normalized_shape: Sequence[int], weight: Tensor, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    """Normalise the last axis by the mean and variance of its gated entries."""
    count = _number(gate.sum())
    mean = (input * gate).sum(-1, keepdim=True) / count
    variance = ((input - mean).square() * gate).sum(-1, keepdim=True) / count
    result = (input - mean) * (variance + eps).rsqrt() * weight
    return result if bias is None else result + bias


def rms_norm(
    gate: Tensor, input: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float | None = None
) -> Tensor:
    """Divide the last axis by the root of the mean square of its gated entries."""
    mean_square = (input.square() * gate).sum(-1, keepdim=True) / _number(gate.sum())
    return input * (mean_square + (torch.finfo(input.dtype).eps if eps is None else eps)).rsqrt() * weight


def group_norm(
    gate: Tensor, input: Tensor, num_groups: int, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    """Normalise each group of channels, axis 1, by the mean and variance of its gated channels."""
    parts = input.reshape(input.shape[0], num_groups, input.shape[1] // num_groups, -1)
    gates = gate.reshape(1, num_groups, -1, 1)
    count = _number(gates.sum(2, keepdim=True)) * parts.shape[-1]
    mean = (parts * gates).sum((2, 3), keepdim=True) / count
    variance = ((parts - mean).square() * gates).sum((2, 3), keepdim=True) / count
    by_channel = (-1,) + (1,) * (input.ndim - 2)
    result = ((parts - mean) * (variance + eps).rsqrt()).reshape(input.shape) * weight.reshape(by_channel)
    return result if bias is None else result + bias.reshape(by_channel)


def _number(total: Tensor) -> Tensor:
    """Return how many channels count, 1 where none does, as in a branch that is removed."""
    return torch.where(total == 0, torch.ones_like(total), total)


GATED: dict[Any, Callable[..., Tensor]] = {
    functional.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    functional.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
    functional.group_norm: group_norm,
    torch.group_norm: group_norm,
}


class _GatedNorms(TorchFunctionMode):
    """Let the norms whose weights are listed look at gated channels only."""

    def __init__(self, gates: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._gates = gates

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in GATED:
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            gate = self._gates.get(id(weight))
            if gate is not None:
                return GATED[func](gate.to(weight), *args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def gated_norms(module: nn.Module, groups: Sequence[Group], gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Let norms over channels take their statistics over gated channels only, within the context.

    Where a norm's statistics run over channels (layer, group and RMS norm), those of a cut network run over the
    survivors; multiplying the removed channels by zero would not be the same. ``gates`` has one number a channel,
    [num_channels] by group: 0 for one that is left out, 1 for one that counts; groups that are not in it stay whole.
    """
    weights = weights_of(module, {norm.weight for group in groups for norm in group.norms})
    by_id: dict[int, Tensor] = {}
    for group in groups:
        if group.name in gates:
            for norm in group.norms:
                weight = weights[norm.weight]
                index = torch.from_numpy(norm.positions).to(weight.device)
                values = gates[group.name].to(weight)[:, None].expand(index.shape)
                before = by_id.get(id(weight), torch.ones_like(weight))
                by_id[id(weight)] = before.index_put((index,), values)
    with _GatedNorms(by_id) if by_id else nullcontext():
        yield
