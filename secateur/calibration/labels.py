"""Choose the labels behind the gate gradients: true ones, a teacher's, or the network's own."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, Task, as_tuple
from secateur.calibration.batches import Loss, device_of, first_tensor, to_device
from secateur.calibration.observe import observing
from secateur.errors import DataError

LabelKind = Literal["true", "teacher", "sampled"]


def choose_labels(task: Task, wanted: LabelKind | Literal["auto"]) -> LabelKind:
    """Return the kind of labels; ``auto`` is sampled where the task can sample, else true.

    The gradients of true labels come from few hard samples once a network fits its data; those of sampled ones do not.
    """
    if wanted == "auto":
        return "true" if task.sampled_loss is None else "sampled"
    return wanted


def label_loss(task: Task, kind: LabelKind, *, temperature: float = 1.0, seed: int = 0) -> Loss:
    """Return the loss that is differentiated.

    ``true`` is the task's own loss (the empirical Fisher of Theis et al. 2018, arXiv 1801.05787). ``teacher`` distils
    against teacher outputs in place of targets, see `teacher_batches`. ``sampled`` draws labels from the network's own
    predictions softened by ``temperature``: far fewer samples settle the spectrum, because no few hard samples
    dominate it. Raises DataError where the task cannot sample labels.
    """
    if kind == "true":
        return task.loss
    if kind == "teacher":
        return lambda outputs, teacher_outputs: task.distill(outputs, teacher_outputs, temperature)
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


def teacher_batches(teacher: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the same inputs with the teacher's outputs as targets, the teacher in eval mode."""
    device = device_of(teacher)
    for inputs, _ in batches:
        with observing(teacher), torch.no_grad():
            outputs = teacher(*to_device(as_tuple(inputs), device))
        yield inputs, outputs
