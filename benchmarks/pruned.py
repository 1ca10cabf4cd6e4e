"""Two trained networks and what pruning leaves of them, for the benchmarks of precision and storage.

ResNet-56 on CIFAR-10 keeps half of its multiply-adds and the gaze network three tenths, widths in eights, by Fisher
signal, hierarchical allocation and least squares, and takes ``steps`` steps of fine-tuning with distillation from the
uncut network. What was made is kept in a folder and read from there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from secateur.artifacts import Data, Model, Task
from secateur.pipeline.finetune import DistillationWeights, Finetune
from secateur.pipeline.prune import Prune
from secateur.pipeline.structure import load_model, save_model
from secateur.workloads import gaze
from secateur.workloads.classification import cifar10, resnet56, task


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network with its task, its data, and how it is pruned and healed."""

    build: Callable[[Path], nn.Module]
    task: Callable[[], Task]
    data: Callable[[Path], Data]
    inputs: tuple[int, ...]
    keep: float
    finetune: Finetune

    def whole(self, weights: Path) -> Model:
        """Return the uncut network."""
        return Model(module=self.build(weights).eval(), example_inputs=(torch.zeros(2, *self.inputs),))


SUBJECTS = {
    "resnet56": Subject(
        build=lambda weights: resnet56(weights / "resnet56-4bfd9763.th"),
        task=lambda: task(10),
        data=cifar10,
        inputs=(3, 32, 32),
        keep=0.5,
        finetune=Finetune(
            learning_rate=0.002, batch_size=128, temperature=4.0, validation_share=0.0,
            weights=DistillationWeights(task=0.1, output=0.9, feature=0.0),
        ),
    ),
    "gaze": Subject(
        build=lambda weights: gaze.teacher(),
        task=gaze.task,
        data=lambda folder: gaze.rendered(num_train=400, num_test=200),
        inputs=(3, 192, 256),
        keep=0.3,
        finetune=Finetune(
            learning_rate=0.001, batch_size=16, validation_share=0.0,
            weights=DistillationWeights(task=0.1, output=0.9, feature=0.0),
        ),
    ),
}  # fmt: skip


def pruned(name: str, weights: Path, data: Data, folder: Path, steps: int) -> Model:
    """Return the pruned network, made where the folder does not hold it."""
    subject, place = SUBJECTS[name], folder / f"{name}-pruned-{steps}"
    whole = subject.whole(weights)
    if not (place / "model.json").exists():
        prune = Prune(keep=subject.keep, rounds=1, multiple=8, samples=256, compensation="least-squares")
        cut, _ = prune(whole, subject.task(), data)
        if steps:
            cut, _ = replace(subject.finetune, num_steps=steps)(cut, whole, subject.task(), data)
        save_model(cut, place)
    return load_model(place, whole.module, whole.example_inputs)
