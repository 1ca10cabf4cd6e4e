"""Feed data sets to networks: validated batches, the metrics and losses of a network over them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from secateur.artifacts import Batch, Evaluation, Task, as_tuple
from secateur.calibration.observe import observing
from secateur.errors import DataError

Loss = Callable[[Any, Any], Tensor]


class _Numbered(Dataset[tuple[int, Any]]):
    """A data set whose items come with their index, so that messages can name them."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]


def _checked_inputs(index: int, item: Any) -> tuple[Tensor, ...]:
    """Return the inputs of one item as a tuple of finite tensors."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(
            f"item {index}", type(item).__name__, "a pair (inputs, target)", "Return both from __getitem__."
        )
    for tensor in item[0] if isinstance(item[0], (tuple, list)) else (item[0],):
        if not isinstance(tensor, Tensor):
            raise DataError(
                f"item {index}", f"an input of type {type(tensor).__name__}", "tensors",
                "Convert inputs to tensors in __getitem__.",
            )  # fmt: skip
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"item {index}", "an input with NaN or infinity", "finite inputs", "Repair or drop the item."
            )
    return as_tuple(item[0])


def collate(items: Iterable[tuple[int, Any]]) -> Batch:
    """Stack numbered items ``(index, (inputs, target))`` into a batch.

    Inputs must be tensors of one shape, finite; targets are stacked by ``torch.utils.data.default_collate``. One input
    stays a tensor, several become a tuple. Raises DataError naming the item that does not fit.
    """
    numbered = list(items)
    inputs = [_checked_inputs(index, item) for index, item in numbered]
    shapes = [tuple(tuple(tensor.shape) for tensor in sample) for sample in inputs]
    for (index, _), shape in zip(numbered, shapes, strict=True):
        if shape != shapes[0]:
            raise DataError(
                f"item {index}", f"input shapes {list(shape)}", f"{list(shapes[0])} as in item {numbered[0][0]}",
                "Resize or pad all samples to one shape.",
            )  # fmt: skip
    try:
        targets = default_collate([item[1] for _, item in numbered])
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"items {numbered[0][0]} to {numbered[-1][0]}", f"targets that cannot be stacked ({error})",
            "targets of one shape and type", "Pad targets to one shape in __getitem__.",
        ) from error  # fmt: skip
    stacked = tuple(torch.stack(tensors) for tensors in zip(*inputs, strict=True))
    single = isinstance(numbered[0][1][0], Tensor)
    return (stacked[0] if single else stacked), targets


def batches(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    limit: int | None = None,
    seed: int | None = None,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Yield a map-style data set in batches; the last one may be smaller.

    With a ``seed`` the samples come in a random order that depends on nothing else; ``limit`` stops after that many
    samples (a random subset with a seed, the first ones without). The global random state is not touched.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise DataError("batches", f"batch_size {batch_size}, limit {limit}", "positive numbers", "Raise them.")
    num_samples = len(dataset)  # type: ignore[arg-type]
    if num_samples == 0:
        raise DataError("data set", "no samples", "at least one", "Check the folder and the split.")
    generator = torch.Generator().manual_seed(seed or 0)
    order = range(num_samples) if seed is None else torch.randperm(num_samples, generator=generator).tolist()
    yield from DataLoader(
        _Numbered(dataset),
        batch_size=batch_size,
        sampler=order[:limit],
        collate_fn=collate,
        num_workers=num_workers,
        generator=generator,
    )


def batch_size_of(inputs: Any) -> int:
    """Return the common size of the first axis of all inputs; raise DataError where they differ."""
    sizes = [len(tensor) if tensor.ndim else 0 for tensor in as_tuple(inputs)]
    if not sizes or len(set(sizes)) != 1 or sizes[0] == 0:
        raise DataError(
            "batch", f"inputs with {sizes} samples", "the same positive number in every input",
            "Put the batch on the first axis of every input.",
        )  # fmt: skip
    return sizes[0]


def to_device(tree: Any, device: torch.device) -> Any:
    """Move the tensors in nested tuples, lists and dictionaries to a device."""
    if isinstance(tree, Tensor):
        return tree.to(device, non_blocking=True)
    if isinstance(tree, Mapping):
        return {key: to_device(value, device) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(to_device(value, device) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(to_device(value, device) for value in tree)
    return tree


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter, cpu where there is none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def per_sample(loss: Loss) -> Loss:
    """Make a loss that gives the batch's mean usable where one loss a sample is wanted.

    The scalar is repeated for every sample, so that the sum over the batch is the mean times the batch size: its
    gradient with respect to one sample's activations is that sample's own gradient, as if the loss had not been
    averaged. Losses of shape [batch] pass through; anything else raises DataError.
    """

    def of_each_sample(outputs: Any, targets: Any) -> Tensor:
        value = loss(outputs, targets)
        num_samples = len(first_tensor(outputs))
        if value.ndim == 0:
            return value.expand(num_samples)
        if value.shape != (num_samples,):
            raise DataError(
                "loss", f"shape {list(value.shape)}", f"[{num_samples}], one value a sample, or the batch's mean",
                "Reduce the loss over all axes but the first.",
            )  # fmt: skip
        return value

    return of_each_sample


def first_tensor(tree: Any) -> Tensor:
    """Return the first tensor in nested tuples, lists and dictionaries; raise DataError where there is none."""
    if isinstance(tree, Tensor):
        return tree
    children = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (tuple, list)) else ()
    for child in children:
        return first_tensor(child)
    raise DataError(
        "outputs", type(tree).__name__, "a tensor, or tuples, lists and dictionaries of tensors",
        "Return tensors from the network.",
    )  # fmt: skip


def mean_loss(module: nn.Module, loss: Loss, batches: Iterable[Batch]) -> float:
    """Return the mean of a loss over the samples, the network in eval mode; `per_sample` is applied to the loss."""
    device, total, num_samples = device_of(module), 0.0, 0
    each = per_sample(loss)
    with observing(module), torch.no_grad():
        for inputs, targets in batches:
            num_samples += batch_size_of(inputs)
            outputs = module(*to_device(as_tuple(inputs), device))
            total += float(each(outputs, to_device(targets, device)).double().sum())
    if num_samples == 0:
        raise DataError("mean loss", "no batches", "at least one", "Give a data set with samples.")
    return total / num_samples


def evaluate(module: nn.Module, task: Task, dataset: Dataset[Any], batch_size: int, num_workers: int = 0) -> Evaluation:
    """Return every metric of the task for every sample of a data set, in its order, the network in eval mode."""
    device = device_of(module)
    values: dict[str, list[float]] = {name: [] for name in task.metrics}
    with observing(module), torch.no_grad():
        for inputs, targets in batches(dataset, batch_size, num_workers=num_workers):
            num_samples = batch_size_of(inputs)
            outputs = module(*to_device(as_tuple(inputs), device))
            moved = to_device(targets, device)
            for name, metric in task.metrics.items():
                value = metric.per_sample(outputs, moved)
                if value.shape != (num_samples,):
                    raise DataError(
                        f"metric {name}", f"shape {list(value.shape)}", f"[{num_samples}], one value a sample",
                        "Return one value for each sample of the batch.",
                    )  # fmt: skip
                values[name].extend(value.double().tolist())
    return Evaluation(
        num_samples=len(next(iter(values.values()))),
        metrics={name: math.fsum(samples) / len(samples) for name, samples in values.items()},
        per_sample={name: tuple(samples) for name, samples in values.items()},
        higher_is_better={name: metric.higher_is_better for name, metric in task.metrics.items()},
        units={name: metric.unit for name, metric in task.metrics.items()},
    )
