"""Turn what a recipe says of pruning and healing into the objects that do it."""

from dataclasses import replace

from secateur.pipeline.allocation import ALLOCATORS, Allocator
from secateur.pipeline.allocation.hierarchical import Hierarchical
from secateur.pipeline.allocation.ranked import Ranked
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.finetune import Averaging, DistillationWeights, Finetune, SoftTargets
from secateur.pipeline.finetune.acceleration import Precision
from secateur.pipeline.signals import Combination
from secateur.recipe import Recipe
from secateur.recipe_pruning import AllocatorSettings, CombinedSignal

PRECISIONS: dict[str, Precision] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""What accelerate calls the precisions that recipes name; its "no" means False in YAML."""


def allocator(settings: AllocatorSettings) -> Allocator:
    """Return the allocator that a recipe names, with its parameters."""
    chosen = ALLOCATORS[settings.name]
    if isinstance(chosen, Theis):
        return replace(chosen, beta=settings.beta or 0.0, by_class=settings.by_class)
    return replace(chosen, by_class=settings.by_class) if isinstance(chosen, (Ranked, Hierarchical)) else chosen


def signal(wanted: str | CombinedSignal) -> str | Combination:
    """Return the signal that a recipe names or puts together."""
    return wanted if isinstance(wanted, str) else Combination(**wanted.model_dump())


def finetuning(recipe: Recipe, num_steps: int | None = None, validation_share: float | None = None) -> Finetune:
    """Return the training that a recipe asks for, or so many steps of it."""
    settings = recipe.finetune
    loss = settings.distillation
    return Finetune(
        epochs=settings.epochs, num_steps=num_steps, learning_rate=settings.learning_rate, warmup=settings.warmup,
        batch_size=settings.batch_size, optimizer=settings.optimizer, momentum=settings.momentum,
        weight_decay=settings.weight_decay, clip_norm=settings.clip_norm,
        weights=DistillationWeights(
            task=loss.task, output=loss.output, feature=loss.feature, parameter=loss.parameter
        ),
        temperature=loss.temperature, method=loss.method,
        targets=SoftTargets(label_smoothing=settings.label_smoothing, mixup=settings.mixup),
        averaging=None if settings.ema is None else Averaging(decay=settings.ema),
        precision=PRECISIONS[settings.precision], device=settings.device, seed=recipe.seed,
        validation_share=settings.validation if validation_share is None else validation_share,
    )  # fmt: skip
