"""Measure which filters' gradients stand for each other, in one pass over a few batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, Slice, as_tuple
from secateur.calibration.batches import Loss, batch_size_of, device_of, per_sample, to_device
from secateur.calibration.observe import observing
from secateur.calibration.processes import total
from secateur.calibration.readers import weights_of
from secateur.errors import DataError, TrainingError


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightGradientGram:
    """The Gram matrix of filters' gradients of every group.

    ``gram`` maps a group's name to (1/N) sum_b G_b G_b^T, float64 [num_channels, num_channels]. Row i of G_b is the
    gradient of batch b's summed loss in all weights that write channel i, side by side. ``num_columns`` counts those
    of all G_b together.
    """

    gram: Mapping[str, Tensor]
    num_columns: Mapping[str, int]
    num_samples: int
    labels: str = "true"


def collect_weight_gradient_gram(
    module: nn.Module,
    writers: Mapping[str, Sequence[Slice]],
    batches: Iterable[Batch],
    loss: Loss,
    *,
    labels: str = "true",
) -> WeightGradientGram:
    """Return the Gram matrix of the gradients of every group's filters, one forward and one backward a batch.

    ``writers`` maps groups' names to the slices of weights that write their channels. Gradients are taken of whole
    batches, because that needs no backward of every sample: products of different samples' gradients have mean 0 where
    labels are drawn from the network's own predictions, and are small at a minimum of the loss. Batches of one sample
    leave them out. In several connected processes each gives batches of its own, and all return the matrix of all
    samples. The network is in eval mode meanwhile and is left as it was. Raises TraceError where a weight is
    not the network's, TrainingError where a loss is not finite, DataError where batches are absent.
    """
    device = device_of(module)
    exact = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    weights = weights_of(module, {part.tensor for parts in writers.values() for part in parts})
    names, each = list(weights), per_sample(loss)
    gram, num_columns = dict[str, Tensor](), dict.fromkeys(writers, 0)
    num_samples = 0
    with observing(module), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        for number, (raw, targets) in enumerate(batches):
            losses = each(module(*to_device(as_tuple(raw), device)), to_device(targets, device))
            if not torch.isfinite(losses).all():
                raise TrainingError(
                    f"weight gradients, batch {number}", "a loss that is not finite", "a finite loss",
                    "Check the network's weights and this batch's targets.",
                )  # fmt: skip
            found = torch.autograd.grad(
                losses.sum(), [weights[n] for n in names], allow_unused=True, materialize_grads=True
            )
            gradients = dict(zip(names, found, strict=True))
            for group, parts in writers.items():
                for part in parts:
                    index = torch.from_numpy(part.indices).to(device)
                    rows = gradients[part.tensor].movedim(part.axis, 0)[index].flatten(1).to(exact, torch.float64)
                    product = rows @ rows.mT
                    gram[group] = gram[group] + product if group in gram else product
                    num_columns[group] += rows.shape[1]
            num_samples += batch_size_of(raw)
    if num_samples == 0:
        raise DataError("weight gradients", "no batches", "at least one", "Give a data set with samples.")
    num_samples, *columns = total(torch.tensor([num_samples, *num_columns.values()], device=exact)).tolist()
    return WeightGradientGram(
        gram={name: (total(matrix) / num_samples).cpu() for name, matrix in gram.items()},
        num_columns=dict(zip(num_columns, columns, strict=True)), num_samples=num_samples, labels=labels,
    )  # fmt: skip
