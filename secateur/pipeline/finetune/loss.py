"""What a cut student is trained to minimise."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import convert_to_fp32
from jaxtyping import Float
from torch import Tensor, nn

from secateur.artifacts import Task
from secateur.calibration.batches import per_sample
from secateur.calibration.processes import gathered
from secateur.errors import RecipeError
from secateur.pipeline.finetune.anchor import Anchor
from secateur.pipeline.finetune.features import FeatureDistance, Recording
from secateur.pipeline.finetune.relations import relation_distance
from secateur.pipeline.finetune.soft_targets import Mixture

__all__ = ["DistillationLoss", "DistillationMethod", "DistillationWeights", "LossParts"]

DistillationMethod = Literal["kd", "dist"]
"""``kd`` is the distance that the task declares, ``dist`` compares relations, see `relation_distance`."""


@dataclass(frozen=True, kw_only=True)
class DistillationWeights:
    """What the parts of the loss count. A part of weight 0 is not computed.

    0.1 for the task and 0.9 for the teacher's outputs are those of Theis et al. 2018, arXiv:1801.05787, section 2.4.
    """

    task: float = 0.1
    output: float = 0.9
    feature: float = 0.1
    parameter: float = 0.0

    def __post_init__(self) -> None:
        values = (self.task, self.output, self.feature, self.parameter)
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise RecipeError(
                "distillation weights",
                f"task {self.task}, output {self.output}, feature {self.feature}, parameter {self.parameter}",
                "finite weights >= 0, one of them above 0", "Give 0.1, 0.9, 0.1 and 0, for example.",
            )  # fmt: skip


class LossParts(NamedTuple):
    """A batch's mean losses: the weighted total and the parts without their weights, 0 where the weight is 0."""

    total: Float[Tensor, ""]
    task: Float[Tensor, ""]
    output: Float[Tensor, ""]
    feature: Float[Tensor, ""]
    parameter: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True, eq=False)
class DistillationLoss:
    """Weigh the task's loss, the distances to the teachers' outputs, to the teacher's features and to its weights.

    The teachers run in eval mode without gradients on the very inputs that the student sees (so that all see the same
    augmentation), and only where one of their parts counts. The first is the uncut network, to whose features and
    weights those of the student are compared; of several teachers' outputs the distances are averaged. For distances
    that are a divergence or a squared error this has the gradient of the distance to the teachers' mean prediction.
    """

    task: Task
    teachers: tuple[nn.Module, ...]
    weights: DistillationWeights
    temperature: float
    features: FeatureDistance
    method: DistillationMethod = "kd"
    label_smoothing: float = 0.0
    anchor: Anchor | None = None
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    _student: Recording = field(default_factory=Recording)
    _teacher: Recording = field(default_factory=Recording)

    def __post_init__(self) -> None:
        for wanting, name in (
            (self.method == "dist", "distillation.method"),
            (self.label_smoothing, "label_smoothing"),
        ):
            if wanting and self.task.log_probabilities is None:
                raise RecipeError(
                    f"finetune.{name}", f"task {self.task.name}, whose outputs are no distributions",
                    "a task with log_probabilities", "Leave it out, or give the task log_probabilities.",
                )  # fmt: skip

    def __call__(self, student: nn.Module, batch: Mixture) -> LossParts:
        """Return the parts of the loss of one batch."""
        weights = self.weights
        recorded = self.features.weights if weights.feature else ()
        outputs = self._outputs(student, batch.inputs, self._student, recorded)
        task = output = feature = parameter = torch.zeros((), device=batch.inputs[0].device)
        if weights.task:
            task = self._task(outputs, batch)
        if weights.output or recorded:
            asked = self.teachers if weights.output else self.teachers[:1]
            with torch.no_grad():
                references = [self._outputs(asked[0], batch.inputs, self._teacher, recorded)]
                references += [self._outputs(other, batch.inputs, self._teacher, ()) for other in asked[1:]]
            if weights.output:
                output = (
                    self._relations(outputs, references)
                    if self.method == "dist"
                    else self._distance(outputs, references)
                )
            if recorded:
                distance = self.features(self._student, self._teacher)
                feature = feature if distance is None else distance
            self._student.inputs.clear()
            self._teacher.inputs.clear()
        total = weights.task * task + weights.output * output + weights.feature * feature
        if self.anchor is not None and weights.parameter:
            parameter = self.anchor(student)
            total = total + weights.parameter * parameter
        return LossParts(total, task, output, feature, parameter)

    def _outputs(
        self, module: nn.Module, inputs: tuple[Tensor, ...], recording: Recording, recorded: tuple[str, ...]
    ) -> Any:
        with recording.of(module, recorded) if recorded else nullcontext(), self.autocast():
            return convert_to_fp32(module(*inputs))

    def _task(self, outputs: Any, batch: Mixture) -> Float[Tensor, ""]:
        """Return the task's loss, of mixed samples and with smoothed labels where that is wanted."""
        loss = per_sample(self.task.loss)
        values = loss(outputs, batch.targets)
        if batch.share < 1:
            values = batch.share * values + (1 - batch.share) * loss(outputs, batch.partners)
        if self.label_smoothing:
            even = -self._log_probabilities(outputs, 1.0).flatten(1).mean(1)
            values = (1 - self.label_smoothing) * values + self.label_smoothing * even
        return values.mean()

    def _distance(self, outputs: Any, references: list[Any]) -> Float[Tensor, ""]:
        """Return the mean over samples and teachers of the task's own distance."""
        distances = [per_sample(self._distill)(outputs, reference).mean() for reference in references]
        return distances[0] if len(distances) == 1 else torch.stack(distances).mean()

    def _relations(self, outputs: Any, references: list[Any]) -> Float[Tensor, ""]:
        """Return the distance of relations to the teachers' mean prediction, over the samples of all processes."""
        theirs = [self._log_probabilities(reference, self.temperature).exp() for reference in references]
        mine = self._log_probabilities(outputs, self.temperature).exp()
        return relation_distance(gathered(mine), gathered(torch.stack(theirs).mean(0)), self.temperature)

    def _log_probabilities(self, outputs: Any, temperature: float) -> Float[Tensor, "batch outcomes ..."]:
        assert self.task.log_probabilities is not None  # seen to in __post_init__
        return self.task.log_probabilities(outputs, temperature)

    def _distill(self, outputs: Any, reference: Any) -> Tensor:
        return self.task.distill(outputs, reference, self.temperature)
