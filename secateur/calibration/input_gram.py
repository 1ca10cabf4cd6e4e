"""Second moments of what layers read, patch by patch: all that a least-squares fit of their weights needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, Group, as_tuple
from secateur.calibration.batches import batch_size_of, device_of, to_device
from secateur.calibration.calls import Calls
from secateur.calibration.observe import observing
from secateur.calibration.patches import Application
from secateur.calibration.processes import total
from secateur.calibration.quantities import exact
from secateur.calibration.readers import weights_of
from secateur.errors import DataError


def collect_input_grams(module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return the second moments of what each reading layer reads, by the name of its weight.

    For rows P of the layer's input, one a place, that is P^T P / num_samples, float64 [entries, entries]: an entry is
    an input channel at one place of the kernel, in the order of the weight's axes. One forward a batch; memory is the
    square of the kernels' size. In several connected processes each gives batches of its own, and all return the
    moments of all samples. Raises DataError for layers other than linear ones and convolutions without groups,
    and where batches are absent.
    """
    weights = weights_of(module, [reader.weight for group in groups for reader in group.readers])
    grams: dict[str, Tensor] = {}
    num_samples, device = 0, device_of(module)

    def layer(name: str, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        application = Application.of(func, args, kwargs)
        if application.groups > 1:
            raise _unknown(name, f"a convolution in {application.groups} groups")
        rows = exact(application.patches(slice(None)).squeeze(1))
        gram = rows.mT @ rows
        grams[name] = grams[name] + gram if name in grams else gram
        return func(*args, **kwargs)

    with observing(module), torch.no_grad(), Calls({id(weight): name for name, weight in weights.items()}, layer):
        for inputs, _ in batches:
            num_samples += batch_size_of(inputs)
            module(*to_device(as_tuple(inputs), device))
    if num_samples == 0:
        raise DataError("input Gram", "no batches", "at least one", "Give a data set with samples.")
    if missing := [name for name in weights if name not in grams]:
        raise _unknown(missing[0], "a layer of another kind")
    number = float(total(next(iter(grams.values())).new_tensor(num_samples))) if grams else 1.0
    return {name: (total(gram) / number).cpu() for name, gram in grams.items()}


def _unknown(name: str, found: str) -> DataError:
    return DataError(
        f"input Gram, {name}", found, "linear layers and convolutions without groups",
        "Choose a signal that needs no such statistics, for example fisher.",
    )  # fmt: skip
