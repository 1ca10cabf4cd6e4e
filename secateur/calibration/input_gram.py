"""Second moments of what layers read, patch by patch: all that a least-squares fit of their weights needs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Batch, Group, as_tuple
from secateur.calibration.batches import batch_size_of, device_of, to_device
from secateur.calibration.observe import observing
from secateur.calibration.quantities import exact
from secateur.calibration.readers import Transform, tap_readers, weights_of
from secateur.errors import DataError

Patches = Callable[[Tensor], Tensor]
"""Turns a layer's inputs into rows [places, entries], so that the layer is rows @ weight.flatten(1).T."""


def collect_input_grams(module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return the second moments of what each reading layer reads, by the name of its weight.

    For rows P of the layer's input, one a place, that is P^T P / num_samples, float64 [entries, entries]: an entry is
    an input channel at one place of the kernel, in the order of the weight's axes. One forward a batch; memory is the
    square of the kernels' size. Raises DataError for layers other than linear ones and plain convolutions over one or
    two axes, and where batches are absent.
    """
    patches = {
        name: _patches(module, name, weight)
        for name, weight in weights_of(module, [reader.weight for group in groups for reader in group.readers]).items()
    }
    grams: dict[str, Tensor] = {}
    num_samples, device = 0, device_of(module)

    def tap(name: str, rows_of: Patches) -> Transform:
        def collect(inputs: Tensor) -> Tensor:
            rows = exact(rows_of(inputs))
            gram = rows.mT @ rows
            grams[name] = grams[name] + gram if name in grams else gram
            return inputs

        return collect

    taps = {name: tap(name, rows_of) for name, rows_of in patches.items()}
    with observing(module), torch.no_grad(), tap_readers(module, taps):
        for inputs, _ in batches:
            num_samples += batch_size_of(inputs)
            module(*to_device(as_tuple(inputs), device))
    if num_samples == 0:
        raise DataError("input Gram", "no batches", "at least one", "Give a data set with samples.")
    return {name: (gram / num_samples).cpu() for name, gram in grams.items()}


def _patches(module: nn.Module, name: str, weight: Tensor) -> Patches:
    """Return how a layer's inputs become rows."""
    if weight.ndim == 2:
        return lambda inputs: inputs.flatten(0, -2)
    path, _, attribute = name.rpartition(".")
    layer: Any = module.get_submodule(path)
    if attribute != "weight" or not isinstance(layer, (nn.Conv1d, nn.Conv2d)) or layer.groups > 1:
        raise DataError(
            f"input Gram, {name}", type(layer).__name__ + (" with groups" if getattr(layer, "groups", 1) > 1 else ""),
            "a linear layer, or a module that convolves over one or two axes without groups",
            "Choose a signal that needs no such statistics, for example fisher.",
        )  # fmt: skip
    return lambda inputs: _unfolded(layer, inputs)


def _unfolded(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor) -> Float[Tensor, "rows entries"]:
    # Other modes than zeros pad before the function whose inputs are seen here.
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice) if layer.padding_mode == "zeros" else inputs
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        padded, kernel, stride, dilation = padded.unsqueeze(-2), (1, *kernel), (1, *stride), (1, *dilation)
    return functional.unfold(padded, kernel, dilation=dilation, stride=stride).movedim(1, -1).flatten(0, 1)
