"""Quantisation-aware training: a network learns to be rounded, from what it was before."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.artifacts import Data, FinetuneResult, Model, Task
from secateur.equality import Agreement
from secateur.errors import ExportError
from secateur.pipeline.finetune import Finetune
from secateur.pipeline.finetune.progress import Progress
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.fake import FakeQuantized
from secateur.pipeline.quantize.placement import TARGETS
from secateur.pipeline.quantize.quantize import WEIGHT_BITS
from secateur.pipeline.quantize.rewrite import layer_weights
from secateur.pipeline.quantize.running import Running, Samples, arrays

TOLERANCE = 1e-3
"""Largest relative difference between a file in float32 and the network that is trained in its place."""


@dataclass(frozen=True, kw_only=True)
class Qat:
    """Training of a network that is rounded as its file will be, by distillation from the network in float32.

    ``finetune`` says how; features, and the teacher's weights, are not compared. ``learn_scales``: scales are trained
    too (LSQ, Esser et al. 2019, arXiv 1902.08153). ``stages`` are widths in bits that weights of fewer pass through on
    the way down, each for a whole training, so that coarse grids begin from weights that know rounding. ``keep_zeros``:
    weights that are zero stay zero, as those of sparse layers must.
    """

    finetune: Finetune = field(default_factory=lambda: Finetune(epochs=2, learning_rate=1e-4))
    learn_scales: bool = True
    stages: Sequence[int] = ()
    keep_zeros: bool = False

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not falling or not set(self.stages) <= set(WEIGHT_BITS):
            raise ExportError(
                "qat, stages", str(list(self.stages)), "falling bits, 8 to 2", "Give [6, 4], for example."
            )

    def __call__(
        self,
        calibrated: Calibrated,
        teacher: Model,
        task: Task,
        data: Data,
        samples: Samples,
        *,
        checkpoint_folder: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[Calibrated, tuple[FinetuneResult, ...]]:
        """Return what was calibrated with trained weights, biases and scales, and the history of every stage.

        What is to be written is the best epoch by the task's primary metric on what is held out; epoch 0, the network
        as it was calibrated, is one of them.

        Args:
            calibrated: the network, with its corrections.
            teacher: the network in float32 that the file was exported from.
            task: its task.
            data: what it trains on.
            samples: calibration samples, on the first of which both are compared before anything is trained.
            checkpoint_folder: where a training that is interrupted goes on when it is called again.
            progress: is told of steps.

        Raises:
            ExportError: an operator that cannot be trained here, or a file with a fixed batch size.
            EqualityError: what would be trained computes something else than the file.
            TrainingError, RecipeError, StorageError: as `Finetune`.
        """
        if not TARGETS[calibrated.target].grid.integral:
            raise ExportError(
                "training of a quantised file", "floats of eight bits", "integers",
                "Leave the training out, or choose another target.",
            )  # fmt: skip
        if calibrated.graph.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
            raise ExportError(
                "training of a quantised file", "a fixed batch size", "an open one", "Export with dynamic_batch: true."
            )
        now, results = calibrated, list[FinetuneResult]()
        weights = replace(self.finetune.weights, feature=0.0, parameter=0.0)
        finetune = replace(self.finetune, weights=weights)
        for bits in (*self._stages(calibrated), None):
            now = _at_least(now, calibrated, bits or 0)
            module = FakeQuantized(now, teacher, learn_scales=self.learn_scales).eval()
            if not results:
                _require_equal(module.calibrated(now), module, samples)
            masks = {f"trained.{name}": w.detach() != 0 for name, w in module.trained.items() if w.dim() > 1}
            student, result = finetune(
                Model(module=module, example_inputs=teacher.example_inputs), teacher, task, data,
                masks=masks if self.keep_zeros else None, progress=progress,
                checkpoint_folder=None if checkpoint_folder is None else checkpoint_folder / f"{bits or 'last'}",
            )  # fmt: skip
            assert isinstance(student.module, FakeQuantized)
            now = student.module.calibrated(now)
            results.append(result)
        return now, tuple(results)

    def _stages(self, calibrated: Calibrated) -> list[int]:
        """Return the stages that are wider than the narrowest layer."""
        bits = [weights.bits for weights in calibrated.weights.values()]
        return [stage for stage in self.stages if min(bits) < stage]


def _at_least(now: Calibrated, wanted: Calibrated, bits: int) -> Calibrated:
    """Return what was calibrated with the widths that are wanted, or so many bits where they are fewer."""
    weights = dict(now.weights)
    for node in now.placement.layers:
        output, width = node.output[0], max(bits, wanted.weights[node.output[0]].bits)
        if weights[output].bits != width:
            scale = now.steps[now.placement.scales[node.input[0]]].scale
            weights[output] = layer_weights(now.graph, node, scale, width)
    return replace(now, weights=weights)


def _require_equal(calibrated: Calibrated, module: FakeQuantized, samples: Samples) -> None:
    """Raise EqualityError where the network, not rounded, computes something else than the file on the first batch."""
    proto = calibrated.graph.proto
    names = [value.name for value in proto.graph.output]
    inputs = next(arrays(proto, samples))
    wanted = Running(proto, names)(inputs)
    module.rounding = False
    with torch.no_grad():
        leaves = pytree.tree_leaves(module(*(torch.from_numpy(array) for array in inputs)))
    module.rounding = True
    found = [leaf.numpy() for leaf in leaves if isinstance(leaf, Tensor)]
    Agreement(
        where="training of a quantised file", reference="the file in float32", candidate="the network to train",
        output_names=tuple(names), tolerance=TOLERANCE,
    ).check([("calibration samples", [wanted[name] for name in names], found)])  # fmt: skip
