"""Choose the labels behind the gate gradients: true ones, a teacher's, or the network's own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, Model, Task, as_tuple
from secateur.calibration.batches import Loss, device_of, first_tensor, to_device
from secateur.calibration.observe import observing
from secateur.errors import DataError

LabelKind = Literal["true", "teacher", "sampled"]


def choose_labels(task: Task, wanted: LabelKind | Literal["auto"]) -> LabelKind:
    """Return the kind of labels; ``auto`` is sampled where the task can sample, else true.

    The gradients of true labels come from few hard samples once a network fits its data; those of sampled ones do not.
    Networks cut by them are the better ones too (benchmarks/pruning_quality.py, "fisher, true labels").
    """
    if wanted == "auto":
        return "true" if task.sampled_loss is None else "sampled"
    return wanted


def label_loss(task: Task, kind: LabelKind, *, temperature: float = 1.0, seed: int = 0) -> Loss:
    """Return the loss that is differentiated.

    ``true`` is the task's own loss (the empirical Fisher of Theis et al. 2018, arXiv 1801.05787). ``teacher`` is the
    mean distance to the outputs of teachers, which stand in place of the targets, see `labelled_batches`. ``sampled``
    draws labels from the network's own predictions softened by ``temperature``: far fewer samples settle the spectrum,
    because no few hard samples dominate it. Raises DataError where the task cannot sample labels.
    """
    if kind == "true":
        return task.loss
    if kind == "teacher":
        return lambda outputs, theirs: torch.stack([task.distill(outputs, one, temperature) for one in theirs]).mean(0)
    sampled = task.sampled_loss
    if sampled is None:
        raise DataError(
            f"task {task.name}", "no sampled_loss", "one, for sampled labels",
            "Use true or teacher labels: the network's outputs are not a distribution to sample from.",
        )  # fmt: skip
    generators: dict[torch.device, torch.Generator] = {}

    def loss(outputs: Any, _: Any) -> Tensor:
        device = first_tensor(outputs).device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        return sampled(outputs, temperature, generators[device])

    return loss


def labelled_batches(kind: LabelKind, batches: Iterable[Batch], teachers: Sequence[Model]) -> Iterable[Batch]:
    """Return batches with the targets that the loss for these labels wants: the teachers' outputs for ``teacher``.

    Raises DataError for labels of teachers where there are none: against its own outputs a network has no gradient.
    """
    if kind != "teacher":
        return batches
    if not teachers:
        raise DataError(
            "labels: teacher", "no teacher", "another network, since the distance to a network's own outputs is least",
            "Give teachers (finetune.distillation.teachers in a recipe), or choose sampled or true labels.",
        )  # fmt: skip
    return _taught(batches, [teacher.module for teacher in teachers])


def _taught(batches: Iterable[Batch], teachers: Sequence[nn.Module]) -> Iterator[Batch]:
    """Yield the same inputs with the outputs of each teacher, in eval mode, as targets."""
    for inputs, _ in batches:
        outputs = []
        for teacher in teachers:
            with observing(teacher), torch.no_grad():
                outputs.append(teacher(*to_device(as_tuple(inputs), device_of(teacher))))
        yield inputs, tuple(outputs)
