"""Classification: which of several classes a sample belongs to."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from secateur.artifacts import Metric, Task
from secateur.errors import DataError, LoadError, RecipeError
from secateur.workloads.classification.picture import Illustration

__all__ = ["task"]


def task(
    num_classes: int | None = None,
    label_smoothing: float = 0.0,
    classes: tuple[str, ...] = (),
) -> Task:
    """Return the task of telling classes apart: cross-entropy in nats, accuracy, distillation by softened predictions.

    Outputs are logits [batch, num_classes], targets int64 [batch]. ``num_classes`` is checked where it is given; from
    50 classes on, ``top5`` is reported beside ``top1`` (with fewer, five guesses say little). ``label_smoothing`` in
    [0, 1) moves that share of each label evenly to all classes, in the loss only. ``classes`` names them in pictures.
    """
    if num_classes is not None and num_classes < 2:
        raise RecipeError("task.num_classes", str(num_classes), "at least 2 classes", "Count the classes.")
    if not 0 <= label_smoothing < 1:
        raise RecipeError("task.label_smoothing", str(label_smoothing), "a share in [0, 1)", "0.1 is usual.")
    if classes and num_classes is not None and len(classes) != num_classes:
        raise RecipeError("task.classes", f"{len(classes)} names", f"{num_classes} names", "Name every class once.")
    top_k = (1, 5) if num_classes is not None and num_classes >= 50 else (1,)
    return Task(
        name="classification",
        loss=CrossEntropy(num_classes=num_classes, label_smoothing=label_smoothing),
        metrics={f"top{k}": Metric(per_sample=Accuracy(k=k, num_classes=num_classes)) for k in top_k},
        primary="top1",
        distill=divergence,
        sampled_loss=sampled_cross_entropy,
        illustrate=Illustration(classes=classes),
        log_probabilities=log_probabilities,
    )


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Give -log p(label) a sample, in nats, with labels smoothed by a share."""

    num_classes: int | None = None
    label_smoothing: float = 0.0

    def __call__(self, outputs: Any, targets: Any) -> Float[Tensor, " batch"]:
        """Return the loss of every sample."""
        logits, labels = checked(outputs, targets, self.num_classes)
        return functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Give 1 where the label is among the k likeliest classes, 0 elsewhere."""

    k: int = 1
    num_classes: int | None = None

    def __call__(self, outputs: Any, targets: Any) -> Float[Tensor, " batch"]:
        """Return 0 or 1 for every sample."""
        logits, labels = checked(outputs, targets, self.num_classes)
        likeliest = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
        return (likeliest == labels[:, None]).any(dim=1).float()


def divergence(
    outputs: Float[Tensor, "batch classes"], teacher_outputs: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), nats; its gradient keeps its size as T grows.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", arXiv:1503.02531.
    """
    student, teacher = log_probabilities(outputs, temperature), log_probabilities(teacher_outputs, temperature)
    return temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def log_probabilities(outputs: Float[Tensor, "batch classes"], temperature: float) -> Float[Tensor, "batch classes"]:
    """Return log softmax(logits / T), nats."""
    return functional.log_softmax(outputs.float() / temperature, dim=1)


def sampled_cross_entropy(
    outputs: Float[Tensor, "batch classes"], temperature: float, generator: torch.Generator
) -> Float[Tensor, " batch"]:
    """Return -log p_T(y) of labels y drawn from the network's own p_T = softmax(logits / T).

    The gradients' second moment over such labels is the Fisher information of the softened predictions, and not only an
    estimate that holds where the network fits its labels (Kunstner, Balles and Hennig 2019, arXiv:1905.12558).
    """
    logits = outputs.float() / temperature
    chances = logits.detach().softmax(dim=1)
    drawn = torch.multinomial(chances.to(generator.device), 1, generator=generator)[:, 0]
    return functional.cross_entropy(logits, drawn.to(logits.device), reduction="none")


def checked(
    outputs: Any, targets: Any, num_classes: int | None
) -> tuple[Float[Tensor, "batch classes"], Int64[Tensor, " batch"]]:
    """Return logits and labels after a look at their shapes and range; LoadError or DataError where they are wrong."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or (num_classes and outputs.shape[1] != num_classes):
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise LoadError(
            "network outputs", found, f"logits [batch, {num_classes or 'num_classes'}]",
            "Give a network that returns one tensor of logits, or correct num_classes.",
        )  # fmt: skip
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape[:1] or targets.dtype != torch.int64:
        found = (
            f"{targets.dtype} {tuple(targets.shape)}".removeprefix("torch.")
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise DataError("labels", found, f"int64 [{outputs.shape[0]}]", "Give one class index a sample.")
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= outputs.shape[1]):
        raise DataError(
            "labels", f"class indices {int(targets.min())} to {int(targets.max())}", f"0 to {outputs.shape[1] - 1}",
            "Number the classes from 0, and give the network as many outputs as there are classes.",
        )  # fmt: skip
    return outputs, targets
