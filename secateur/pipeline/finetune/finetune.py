"""Fine-tuning: bring a cut network back to its teacher."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from secateur.artifacts import Data, FinetuneResult, Group, Model, Task
from secateur.calibration.processes import num_processes
from secateur.calibration.randomness import randomness_kept
from secateur.errors import DataError, RecipeError
from secateur.pipeline.finetune.acceleration import Device, Precision, accelerated
from secateur.pipeline.finetune.anchor import Anchor, anchor_to
from secateur.pipeline.finetune.averaging import Averaging, WeightAverage
from secateur.pipeline.finetune.batch_norm import BatchNormMode, learning_norms
from secateur.pipeline.finetune.checkpoint import Checkpoint, Position, fingerprint_of
from secateur.pipeline.finetune.features import FeatureDistance, match_readers
from secateur.pipeline.finetune.loss import DistillationLoss, DistillationMethod, DistillationWeights
from secateur.pipeline.finetune.memory import Memory
from secateur.pipeline.finetune.memory_layout import channels_last
from secateur.pipeline.finetune.optimizer import OptimizerName, build_optimizer
from secateur.pipeline.finetune.progress import Progress, silent
from secateur.pipeline.finetune.randomness import SeededItems, split
from secateur.pipeline.finetune.schedule import learning_rate
from secateur.pipeline.finetune.soft_targets import SoftTargets
from secateur.pipeline.finetune.training import Plan, Training

__all__ = ["Finetune"]


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a cut student on the task and on its uncut teacher's outputs and features.

    Attributes:
        epochs: passes over the training part.
        num_steps: train exactly so many steps, whatever ``epochs`` says; for a short recovery between pruning rounds.
        learning_rate: its peak; it rises linearly over the share ``warmup`` of the steps and falls as half a cosine.
        batch_size: samples a step and process; a last batch that would be smaller is left out of the epoch.
        weights: what the parts of the loss count.
        temperature: softening of both networks' outputs.
        method: how outputs are compared, ``kd`` or ``dist``, see `DistillationMethod`.
        targets: label smoothing and mixup, see `SoftTargets`.
        averaging: keep a running average of the weights, and evaluate and return that; None for the weights themselves.
        optimizer: ``adamw``, or ``sgd`` with Nesterov ``momentum``.
        weight_decay: of tensors with two or more axes; norms' scales and biases never decay.
        clip_norm: longest gradient, None for no limit.
        batch_norm: which batch-norm layers learn new statistics, see `learning_norms`.
        validation_share: share of the training set, at most ``validation_limit`` samples, that is held out; the epoch
            with the best primary metric on it is kept, be it epoch 0, the student as given. Random augmentation draws
            the same numbers for it in every epoch. With 0 the last epoch is kept.
        num_readers: layers a group at which features are compared, the last that reads it first.
        device: ``auto`` is the fastest device there is.
        precision: ``bf16`` and ``fp16`` are mixed precision.
        num_workers: processes that read data; the result does not depend on it.
        checkpoint_every_s: longest time between checkpoints, besides the one after every epoch.
        seed: every random choice follows from it.
    """

    epochs: int = 20
    num_steps: int | None = None
    learning_rate: float = 1e-3
    warmup: float = 0.05
    batch_size: int = 64
    weights: DistillationWeights = field(default_factory=DistillationWeights)
    temperature: float = 2.0
    method: DistillationMethod = "kd"
    targets: SoftTargets = field(default_factory=SoftTargets)
    averaging: Averaging | None = None
    optimizer: OptimizerName = "adamw"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float | None = 5.0
    batch_norm: BatchNormMode = "auto"
    validation_share: float = 0.1
    validation_limit: int = 500
    num_readers: int = 1
    device: Device = "auto"
    precision: Precision = "no"
    num_workers: int = 0
    checkpoint_every_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 0, "0 or more"),
            "num_steps": (self.num_steps is None or self.num_steps >= 0, "0 or more"),
            "learning_rate": (0 < self.learning_rate < float("inf"), "a number above 0"),
            "warmup": (0 <= self.warmup < 1, "a share in [0, 1)"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "temperature": (0 < self.temperature < float("inf"), "a number above 0"),
            "momentum": (0 <= self.momentum < 1, "a number in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "0 or more"),
            "clip_norm": (self.clip_norm is None or self.clip_norm > 0, "a number above 0, or none"),
            "validation_share": (0 <= self.validation_share < 1, "a share in [0, 1)"),
            "validation_limit": (self.validation_limit >= 0, "0 or more"),
            "num_readers": (self.num_readers >= 1, "1 or more"),
            "num_workers": (self.num_workers >= 0, "0 or more"),
            "checkpoint_every_s": (self.checkpoint_every_s >= 0, "0 or more"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise RecipeError(f"finetune.{name}", str(getattr(self, name)), wanted, "Correct the value.")

    def __call__(
        self,
        student: Model,
        teacher: Model,
        task: Task,
        data: Data,
        *,
        groups: Sequence[Group] = (),
        student_groups: Sequence[Group] = (),
        importance: Mapping[str, Tensor] | None = None,
        fisher: Mapping[str, Tensor] | None = None,
        other_teachers: Sequence[Model] = (),
        masks: Mapping[str, Tensor] | None = None,
        memory: Memory | None = None,
        checkpoint_folder: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[Model, FinetuneResult]:
        """Return the trained student in eval mode, on the device it came on, and the history of the training.

        Both networks given stay as they are. ``groups`` are the teacher's, ``student_groups`` those of the student's
        own structure; without them features are not compared. ``importance`` gives each group's channels, as they were
        before any cut, their worth (Fisher saliency); ``fisher`` gives each of the teacher's parameters its Fisher
        information, which the weight of the ``parameter`` term needs. ``other_teachers`` are distilled from as well.
        Where ``masks``, by the student's parameters, are False, weights are zero after every step. With a ``memory`` of
        an earlier training this one goes on from it, and leaves its own there.
        With a ``checkpoint_folder`` a rerun goes on where the last one stopped.

        In processes that ``torchrun`` started, all of which make the same call, the training is that of one process
        with as many times the ``batch_size``; it is up to the caller that only one of them saves the network.

        Raises:
            TrainingError: a loss, gradient or weight is not finite; a checkpoint of another training; nothing to train.
            RecipeError: a setting that the task or what else is given does not allow.
            StorageError: the checkpoint cannot be written or read.
        """
        with accelerated(self.device, self.precision) as accelerator, randomness_kept(accelerator.device):
            example = tuple(tensor.to(accelerator.device) for tensor in teacher.example_inputs)
            pupil = channels_last(student.clone().module.to(accelerator.device), example)
            masters = tuple(
                channels_last(model.clone().module.to(accelerator.device), example).eval().requires_grad_(False)
                for model in (teacher, *other_teachers)
            )
            readers = match_readers(student, teacher, student_groups, groups, importance or {}, self.num_readers)
            chosen, held_out = self._split(data)
            optimizer = build_optimizer(pupil, self.optimizer, self.weight_decay, self.momentum)
            before = memory or Memory()
            before.recall(pupil, optimizer)
            training = Training(
                student=pupil,
                norms=learning_norms(pupil, self.batch_norm, num_processes() * self.batch_size),
                optimizer=optimizer,
                accelerator=accelerator,
                loss=DistillationLoss(
                    task=task,
                    teachers=masters,
                    weights=self.weights,
                    temperature=self.temperature,
                    method=self.method,
                    label_smoothing=self.targets.label_smoothing,
                    features=FeatureDistance(readers=readers),
                    anchor=self._anchor(teacher, student, groups, fisher, accelerator.device),
                    autocast=accelerator.autocast,
                ),
                targets=self.targets,
                masks={name: mask.to(accelerator.device) for name, mask in (masks or {}).items()},
                average=WeightAverage.of(pupil, self.averaging) if self.averaging is not None else None,
                part=chosen,
                validation=held_out,
                plan=self._plan(len(chosen), before.num_steps),
                checkpoint=Checkpoint(folder=checkpoint_folder) if checkpoint_folder is not None else None,
                progress=progress or silent,
                position=Position(
                    step=before.num_steps,
                    fingerprint=self._fingerprint(
                        {"student": student, "teacher": teacher}
                        | {f"teacher {number}": model for number, model in enumerate(other_teachers, 2)},
                        task,
                        data,
                        {f"importance.{name}": values for name, values in (importance or {}).items()}
                        | {f"fisher.{name}": values for name, values in (fisher or {}).items()}
                        | {f"mask.{name}": mask for name, mask in (masks or {}).items()}
                        | {f"memory.{name}": values for name, values in before.tensors.items()},
                        before.num_steps,
                    ),
                ),
            )
            result = training.run()
            if memory is not None:
                memory.keep(pupil, optimizer, training.position.step)
            pupil.zero_grad(set_to_none=True)
            return replace(student, module=pupil.to(student.device).eval()), result

    def _anchor(
        self,
        teacher: Model,
        student: Model,
        groups: Sequence[Group],
        fisher: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> Anchor | None:
        if not self.weights.parameter:
            return None
        if fisher is None:
            raise RecipeError(
                "finetune.distillation.parameter", f"{self.weights.parameter} without Fisher information",
                "that of the teacher's parameters", "Give fisher=collect_parameter_fisher(...).fisher.",
            )  # fmt: skip
        return anchor_to(teacher, student, groups, fisher, device)

    def _split(self, data: Data) -> tuple[SeededItems, SeededItems | None]:
        """Return the part to train on and the part held out."""
        num_samples = len(data.train)  # type: ignore[arg-type]
        num_held_out = min(self.validation_limit, round(self.validation_share * num_samples), num_samples - 1)
        train, held_out = split(num_samples, num_held_out, self.seed)
        part = SeededItems(dataset=data.train, indices=train, seed=self.seed)
        return part, replace(part, indices=held_out) if held_out else None

    def _plan(self, num_samples: int, first: int) -> Plan:
        per_epoch = max(1, num_samples // (num_processes() * self.batch_size))
        share = min(self.batch_size, num_samples // num_processes())
        if share == 0:
            raise DataError(
                "fine-tuning", f"{num_samples} samples for {num_processes()} processes", "at least one for each",
                "Start fewer processes.",
            )  # fmt: skip
        num_steps = self.epochs * per_epoch if self.num_steps is None else self.num_steps
        return Plan(
            num_steps=num_steps,
            first=first,
            steps_per_epoch=per_epoch,
            batch_size=self.batch_size,
            share=share,
            rate=partial(learning_rate, num_steps=num_steps, peak=self.learning_rate, warmup=self.warmup),
            clip_norm=self.clip_norm,
            num_workers=self.num_workers,
            checkpoint_every_s=self.checkpoint_every_s,
            seed=self.seed,
        )

    def _fingerprint(
        self,
        models: Mapping[str, Model],
        task: Task,
        data: Data,
        worth: Mapping[str, Tensor],
        first: int,
    ) -> str:
        settings = {
            **{
                name: value for name, value in asdict(self).items() if name not in ("num_workers", "checkpoint_every_s")
            },
            "task": task.name,
            "data": [data.fingerprint, data.description, len(data.train)],  # type: ignore[arg-type]
            "processes": num_processes(),
            "first": first,
        }
        kept = {f"{who} kept.{name}": i for who, model in models.items() for name, i in model.kept.items()}
        modules = {who: model.module for who, model in models.items()}
        return fingerprint_of(json.dumps(settings, sort_keys=True), modules, {**kept, **worth})
