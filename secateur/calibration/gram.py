"""Measure what every channel is worth, and which channels stand for each other, in one pass over a few batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.artifacts import Batch, Group, Reader, as_tuple
from secateur.calibration.batches import Loss, batch_size_of, device_of, per_sample, to_device
from secateur.calibration.layout import Layout, find_layouts
from secateur.calibration.observe import observing
from secateur.calibration.processes import total
from secateur.calibration.readers import Transform, channel_axis, tap_readers, weights_of
from secateur.errors import DataError, StorageError, TraceError, TrainingError


@dataclass(frozen=True, kw_only=True, eq=False)
class GateGram:
    """The gate-gradient Gram matrix of every group, in nats where the loss is.

    ``gram`` maps a group's name to M = (1/N) sum_n g_n g_n^T, float64 [num_channels, num_channels], where
    g_ni = sum over positions of a_ni * dloss_n/da_ni is the derivative of sample n's loss with respect to a gate that
    multiplies channel i. ``labels`` says which labels the loss had.
    """

    gram: Mapping[str, Tensor]
    num_samples: int
    labels: str = "true"

    def saliency(self, name: str) -> Float64[Tensor, " num_channels"]:
        """Return M_ii / 2, the loss that removing channel i costs (Theis et al. 2018, arXiv 1801.05787, eq. 9)."""
        return self.gram[name].diagonal() / 2

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        partial = path.with_name(path.name + ".part")
        facts = {"num_samples": str(self.num_samples), "labels": self.labels}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: matrix.contiguous() for name, matrix in self.gram.items()}, partial, metadata=facts)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                str(path), str(error), "a file that can be written", "Free space or choose another folder."
            ) from error


def load_gate_gram(path: Path) -> GateGram:
    """Read what `GateGram.save` wrote; raise StorageError where the file is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            gram = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return GateGram(gram=gram, num_samples=int(facts["num_samples"]), labels=facts["labels"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageError(str(path), str(error), "a gate Gram file", "Delete it and collect it again.") from error


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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Wiring:
    """Which gates a layer's input channels belong to: entry k of ``source`` adds to gate ``target[k]`` of all gates."""

    source: Tensor
    target: Tensor


def _wire(
    groups: Sequence[Group], device: torch.device, layers: Callable[[Group], tuple[Reader, ...]]
) -> dict[str, _Wiring]:
    """Return the wiring of every gated layer; the gates of all groups stand one after the other."""
    sources: dict[str, list[np.ndarray]] = {}
    targets: dict[str, list[np.ndarray]] = {}
    offset = 0
    for group in groups:
        gates = np.arange(offset, offset + group.num_channels)
        offset += group.num_channels
        for reader in layers(group):
            sources.setdefault(reader.weight, []).append(reader.positions.ravel())
            targets.setdefault(reader.weight, []).append(np.repeat(gates, reader.positions.shape[1]))

    def index(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return {name: _Wiring(source=index(sources[name]), target=index(targets[name])) for name in sources}


def collect_gate_gram(
    module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch], loss: Loss, *, labels: str = "true"
) -> GateGram:
    """Return the gate-gradient Gram matrix of every group, one forward and one backward a batch.

    ``loss(outputs, targets)`` gives one value a sample or the batch's mean (see `per_sample`). The gate of a channel
    sits on the inputs of all layers that read it, and on the outputs that are queries; what it gets from each of them
    is added before it is squared (Liu et al. 2021, arXiv 2108.00708, for coupled channels). The network is in eval mode
    meanwhile, no weight gradient is computed, and everything about it is left as it was. Memory beyond the forward's is
    that of the matrices.

    In several connected processes each gives batches of its own, and all return the matrix of all samples: what is
    added up over the processes is g g^T, never g, which belongs to one sample.

    Raises TraceError where a reading layer is never met or mixes samples, TrainingError where the loss of a batch is
    not finite, DataError where batches are malformed or absent.
    """
    device = device_of(module)
    exact = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    widths = [group.num_channels for group in groups]
    gram = {
        group.name: torch.zeros(group.num_channels, group.num_channels, dtype=torch.float64, device=exact)
        for group in groups
    }
    inputs_of, outputs_of = _wire(groups, device, lambda g: g.readers), _wire(groups, device, lambda g: g.writers)
    met, each = list({**inputs_of, **outputs_of}), per_sample(loss)
    num_samples, layouts, probed = 0, dict[str, Layout](), False
    with observing(module), torch.enable_grad():
        for number, (raw_inputs, raw_targets) in enumerate(batches):
            batch = batch_size_of(raw_inputs)
            inputs, targets = to_device(as_tuple(raw_inputs), device), to_device(raw_targets, device)
            if not probed:
                layouts, probed = find_layouts(module, met, inputs, batch), batch > 1
            gates = torch.zeros(batch, sum(widths), device=device, dtype=_gate_type(module))
            start = gates.new_zeros((), requires_grad=True)
            taps = [_taps(module, wiring, layouts, gates, start) for wiring in (inputs_of, outputs_of)]
            with tap_readers(module, *taps) as seen:
                losses = each(module(*inputs), targets)
                _check(losses, number, sorted(set(met) - seen))
                if losses.requires_grad:
                    torch.autograd.grad(losses.sum(), start)
            for name, g in zip(gram, torch.split(gates.to(exact, torch.float64), widths, dim=1), strict=True):
                gram[name].addmm_(g.mT, g)
            num_samples += batch
    num_samples = int(total(torch.tensor(num_samples, device=exact)))
    if num_samples == 0:
        raise DataError("gate Gram", "no batches", "at least one", "Give a data set with samples.")
    return GateGram(
        gram={name: (total(matrix) / num_samples).cpu() for name, matrix in gram.items()},
        num_samples=num_samples,
        labels=labels,
    )


def _gate_type(module: nn.Module) -> torch.dtype:
    """Return the type in which gates are summed: the network's own, float32 at least."""
    types = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    return torch.float64 if torch.float64 in types else torch.float32


def _taps(
    module: nn.Module,
    wiring: Mapping[str, _Wiring],
    layouts: Mapping[str, Layout],
    gates: Float[Tensor, "batch gates"],
    start: Tensor,
) -> dict[str, Transform]:
    """Return taps that add each layer's gate gradients to ``gates`` during the backward pass, which ends at start."""

    def tap(name: str, weight: Tensor) -> Transform:
        wires, layout, axis = wiring[name], layouts[name], channel_axis(weight)

        def collect(activation: Tensor, gradient: Tensor) -> None:
            product = activation.to(gates.dtype) * gradient.to(gates.dtype)
            per_channel = layout.sum(product, axis, len(gates))
            gates.index_add_(1, wires.target, per_channel[:, wires.source])

        return lambda channels: _Tap.apply(channels, start, collect)

    return {name: tap(name, weight) for name, weight in weights_of(module, wiring).items()}


def _check(losses: Tensor, number: int, missing: list[str]) -> None:
    """Raise where a batch has a loss that is not finite, or a reading layer was not met."""
    if missing:
        raise TraceError(
            missing[0], "a weight that no convolution or linear layer was called with",
            "layers that are called with the parameter itself",
            "Remove parametrisations (for example weight norm) before pruning, or keep this layer out.",
        )  # fmt: skip
    if not torch.isfinite(losses).all():
        raise TrainingError(
            f"gate Gram, batch {number}", f"a loss of {losses[~torch.isfinite(losses)][0].item()}", "a finite loss",
            "Check the network's weights and this batch's targets.",
        )  # fmt: skip
