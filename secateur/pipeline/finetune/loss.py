"""What a cut student is trained to minimise."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate.utils import convert_to_fp32
from jaxtyping import Float
from torch import Tensor, nn

from secateur.artifacts import Task
from secateur.calibration.batches import per_sample
from secateur.errors import RecipeError
from secateur.pipeline.finetune.features import FeatureDistance, Recording

__all__ = ["DistillationLoss", "DistillationWeights", "LossParts"]


@dataclass(frozen=True, kw_only=True)
class DistillationWeights:
    """What the parts of the loss count. A part of weight 0 is not computed.

    0.1 for the task and 0.9 for the teacher's outputs are those of Theis et al. 2018, arXiv:1801.05787, section 2.4.
    """

    task: float = 0.1
    output: float = 0.9
    feature: float = 0.1

    def __post_init__(self) -> None:
        values = (self.task, self.output, self.feature)
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise RecipeError(
                "distillation weights", f"task {self.task}, output {self.output}, feature {self.feature}",
                "finite weights >= 0, one of them above 0", "Give 0.1, 0.9 and 0.1, for example.",
            )  # fmt: skip


class LossParts(NamedTuple):
    """A batch's mean losses: the weighted total and the parts without their weights, 0 where the weight is 0."""

    total: Float[Tensor, ""]
    task: Float[Tensor, ""]
    output: Float[Tensor, ""]
    feature: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True, eq=False)
class DistillationLoss:
    """Weigh the task's loss, the distance to the teacher's outputs and the distance to its features.

    The teacher runs in eval mode without gradients on the very inputs that the student sees (so that both see the same
    augmentation), and only where one of its parts counts.
    """

    task: Task
    teacher: nn.Module
    weights: DistillationWeights
    temperature: float
    features: FeatureDistance
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    _student: Recording = field(default_factory=Recording)
    _teacher: Recording = field(default_factory=Recording)

    def __call__(self, student: nn.Module, inputs: tuple[Tensor, ...], targets: Any) -> LossParts:
        """Return the parts of the loss of one batch."""
        recorded = self.features.weights if self.weights.feature else ()
        outputs = self._outputs(student, inputs, self._student, recorded)
        zero = torch.zeros((), device=inputs[0].device)
        task = output = feature = zero
        if self.weights.task:
            task = per_sample(self.task.loss)(outputs, targets).mean()
        if self.weights.output or recorded:
            with torch.no_grad():
                reference = self._outputs(self.teacher, inputs, self._teacher, recorded)
            if self.weights.output:
                output = per_sample(self._distill)(outputs, reference).mean()
            if recorded:
                distance = self.features(self._student, self._teacher)
                feature = zero if distance is None else distance
            self._student.inputs.clear()
            self._teacher.inputs.clear()
        total = self.weights.task * task + self.weights.output * output + self.weights.feature * feature
        return LossParts(total, task, output, feature)

    def _outputs(
        self, module: nn.Module, inputs: tuple[Tensor, ...], recording: Recording, recorded: tuple[str, ...]
    ) -> Any:
        with recording.of(module, recorded) if recorded else nullcontext(), self.autocast():
            return convert_to_fp32(module(*inputs))

    def _distill(self, outputs: Any, reference: Any) -> Tensor:
        return self.task.distill(outputs, reference, self.temperature)
