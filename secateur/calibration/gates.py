"""Run a network over batches and tell, sample by sample, what arrives at every channel: the pass behind statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, Group, as_tuple
from secateur.calibration.batches import Loss, batch_size_of, device_of, per_sample, to_device
from secateur.calibration.layout import Layout, find_layouts
from secateur.calibration.means import read_means
from secateur.calibration.observe import observing
from secateur.calibration.processes import total
from secateur.calibration.quantities import Quantity, Reading, exact, sum_type
from secateur.calibration.readers import Transform, channel_axis, require_met, tap_readers, weights_of
from secateur.calibration.wiring import SIDES, Side, Wires, wire
from secateur.errors import DataError, TrainingError


@runtime_checkable
class Tally(Protocol):
    """Takes quantities and keeps what it makes of them; what has one name is one quantity."""

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """What is wanted."""

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Take the quantities of one batch, each [batch, channels of all groups one after the other]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Passed:
    """How many samples went through, and the gradient of their mean loss at the weights that were asked for."""

    num_samples: int
    weight_gradients: Mapping[str, Tensor]


def pass_gates(
    module: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Batch],
    loss: Loss,
    tallies: Sequence[Tally],
    *,
    weights: Sequence[str] = (),
) -> Passed:
    """Hand all quantities to the tallies that want them: one forward and at most one backward a batch.

    ``loss(outputs, targets)`` gives one value a sample or the batch's mean (see `per_sample`); it is called only where
    a gradient is wanted. A channel is met on the inputs of all layers that read it, and on the outputs that are
    queries; what it gets from each of them is added (Liu et al. 2021, arXiv 2108.00708, for coupled channels).
    ``weights`` names parameters whose gradient is wanted too; no other parameter's is computed. The network is in eval
    mode meanwhile, and everything about it is left as it was. Memory beyond the forward's is that of the tallies. In
    several connected processes each gives batches of its own; what is returned counts those of all.

    Raises TraceError where a reading layer is never met or mixes samples, TrainingError where the loss of a batch is
    not finite, DataError where batches are malformed or absent.
    """
    device, dtype, each = device_of(module), sum_type(module), per_sample(loss)
    quantities = {name: quantity for tally in tallies for name, quantity in tally.quantities.items()}
    wiring, watched = wire(groups, device), weights_of(module, weights)
    differentiated = bool(watched) or any(quantity.needs_gradient for quantity in quantities.values())
    totals = {name: exact(torch.zeros_like(weight)) for name, weight in watched.items()}
    met, width = list(dict.fromkeys(name for _, name in wiring)), sum(group.num_channels for group in groups)
    means: Mapping[tuple[Side, str], Tensor] = {}
    if any(quantity.needs_mean for quantity in quantities.values()):
        batches = list(batches)
        means = read_means(module, wiring, batches)
    num_samples, layouts, probed = 0, dict[str, Layout](), False
    with observing(module), torch.set_grad_enabled(differentiated):
        for weight in watched.values():
            weight.requires_grad_(True)
        for number, (raw_inputs, raw_targets) in enumerate(batches):
            batch = batch_size_of(raw_inputs)
            inputs, targets = to_device(as_tuple(raw_inputs), device), to_device(raw_targets, device)
            if not probed:
                layouts, probed = find_layouts(module, met, inputs, batch), batch > 1
            values = {name: torch.zeros(batch, width, device=device, dtype=dtype) for name in quantities}
            start = torch.zeros((), device=device, dtype=dtype, requires_grad=differentiated)
            tap = _Tapping(
                quantities=quantities, layouts=layouts, means=means, values=values, num_samples=batch, start=start
            )
            with tap_readers(module, *tap.all(module, wiring)) as seen:
                outputs = module(*inputs)
                require_met(sorted(set(met) - seen))
                if differentiated:
                    losses = each(outputs, targets)
                    _require_finite(losses, number)
                    for name, gradient in _differentiate(losses, start, watched).items():
                        totals[name] += exact(gradient)
            for tally in tallies:
                tally.take({name: values[name] for name in tally.quantities})
            num_samples += batch
    num_samples = int(total(exact(torch.tensor(num_samples, device=device))))
    if num_samples == 0:
        raise DataError("calibration pass", "no batches", "at least one", "Give a data set with samples.")
    return Passed(
        num_samples=num_samples,
        weight_gradients={name: (total(gradient) / num_samples).cpu() for name, gradient in totals.items()},
    )


def _differentiate(losses: Tensor, start: Tensor, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run the backward pass, in which the taps collect; return the weights' gradients."""
    if not losses.requires_grad:
        return {}
    found = torch.autograd.grad(losses.sum(), (start, *watched.values()), allow_unused=True)[1:]
    return {name: gradient for name, gradient in zip(watched, found, strict=True) if gradient is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tapping:
    """Taps that add to ``values`` what each layer reads of one batch, the gradients on the way back to ``start``."""

    quantities: Mapping[str, Quantity]
    layouts: Mapping[str, Layout]
    means: Mapping[tuple[Side, str], Tensor]
    values: Mapping[str, Tensor]
    num_samples: int
    start: Tensor

    def all(self, module: nn.Module, wiring: Mapping[tuple[Side, str], Wires]) -> list[dict[str, Transform]]:
        """Return the taps of every side."""
        weights = weights_of(module, [name for _, name in wiring])
        return [
            {name: self._tap((s, name), wires, weights[name]) for (s, name), wires in wiring.items() if s == side}
            for side in SIDES
        ]

    def _tap(self, key: tuple[Side, str], wires: Wires, weight: Tensor) -> Transform:
        layout, axis, forward, back = self.layouts[key[1]], channel_axis(weight), self._those(False), self._those(True)

        def collect(wanted: Mapping[str, Quantity], entries: Tensor, gradient: Tensor) -> None:
            for name, quantity in wanted.items():
                sums = self.values[name]
                mean = self.means[key].to(sums) if quantity.needs_mean else sums.new_empty(0)
                reading = Reading(
                    entries=entries.to(sums.dtype), gradient=gradient.to(sums.dtype), mean=mean, channels=axis,
                    layout=layout, num_samples=self.num_samples,
                )  # fmt: skip
                sums.index_add_(1, wires.target, quantity.of(reading)[:, wires.source])

        def tap(entries: Tensor) -> Tensor:
            collect(forward, entries.detach(), entries.new_empty(0))
            return _Tap.apply(entries, self.start, lambda *seen: collect(back, *seen)) if back else entries

        return tap

    def _those(self, needs_gradient: bool) -> dict[str, Quantity]:
        return {n: quantity for n, quantity in self.quantities.items() if quantity.needs_gradient == needs_gradient}


class _Tap(torch.autograd.Function):
    """Let inputs through; on the way back, hand them with their gradient to a function.

    The second argument is a scalar that requires a gradient, so that the graph starts at the first tap even though
    inputs and weights require none: nothing before it is differentiated.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, start: Tensor, collect: Any) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.collect = collect
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (inputs,) = ctx.saved_tensors
        ctx.collect(inputs, gradient)
        start = gradient.new_zeros(()) if ctx.needs_input_grad[1] else None
        return (gradient if ctx.needs_input_grad[0] else None), start, None


def _require_finite(losses: Tensor, number: int) -> None:
    if not torch.isfinite(losses).all():
        raise TrainingError(
            f"calibration pass, batch {number}", f"a loss of {losses[~torch.isfinite(losses)][0].item()}",
            "a finite loss", "Check the network's weights and this batch's targets.",
        )  # fmt: skip
