"""Trainings that are cut off, and what they end with when they are taken up."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, Metric, Model, Task
from secateur.errors import StorageError, TrainingError
from secateur.pipeline.finetune import Averaging, DistillationWeights, Finetune, SoftTargets

QUICK = Finetune(epochs=3, batch_size=16, learning_rate=1e-2, validation_share=0.2, checkpoint_every_s=0.0)


class StopError(Exception):
    """Stands for whatever ends a process."""


class StopAt:
    def __init__(self, step, error=StopError):
        self.step, self.error = step, error

    def __call__(self, description, done, total):
        if done == self.step:
            raise self.error


@pytest.fixture
def train(student, teacher, task, data, groups):
    def with_settings(settings=QUICK, **other):
        given = {"groups": groups(teacher), "student_groups": groups(student), **other}
        return settings(student, teacher, given.pop("task", task), data, **given)

    return with_settings


def same(a, b):
    theirs = b.module.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.module.state_dict().items())


# 77 pictures to train on are four steps an epoch: 3 and 9 are in the middle of one, 4 and 12 at an end.
@pytest.mark.parametrize(
    ("stops", "settings"),
    [
        ((1,), QUICK),
        ((4,), replace(QUICK, optimizer="sgd")),
        ((3, 9), QUICK),
        ((3, 9), replace(QUICK, optimizer="sgd")),
        ((12,), QUICK),
    ],
)
def test_a_training_that_was_cut_off_ends_bit_for_bit_as_if_it_had_not_been(train, tmp_path, stops, settings):
    whole, whole_result = train(settings)
    for stop in stops:
        with pytest.raises(StopError):
            train(settings, checkpoint_folder=tmp_path, progress=StopAt(stop))
    torch.manual_seed(1234)
    steps = []
    resumed, result = train(settings, checkpoint_folder=tmp_path, progress=lambda _, done, total: steps.append(done))
    assert same(resumed, whole)
    assert result == whole_result
    assert steps[0] == stops[-1] + (0 if stops[-1] % 4 == 0 else 1)


def test_without_checkpoints_in_between_an_epoch_is_begun_anew(train, tmp_path):
    settings = replace(QUICK, checkpoint_every_s=3600.0)
    with pytest.raises(KeyboardInterrupt):
        train(settings, checkpoint_folder=tmp_path, progress=StopAt(7, KeyboardInterrupt))
    steps = []
    resumed, _ = train(settings, checkpoint_folder=tmp_path, progress=lambda _, done, total: steps.append(done))
    assert steps == list(range(5, 13))
    assert same(resumed, train(settings)[0])


def test_a_finished_training_is_not_repeated(train, tmp_path):
    first, result = train(checkpoint_folder=tmp_path)
    again, result_again = train(checkpoint_folder=tmp_path, progress=StopAt(1))
    assert same(first, again)
    assert result == result_again


def test_another_training_s_checkpoint_is_refused(train, tmp_path, student):
    train(checkpoint_folder=tmp_path)
    wanted = r"checkpoint of another training.*Delete the file, or name another checkpoint folder"
    with pytest.raises(TrainingError, match=wanted):
        train(replace(QUICK, learning_rate=2e-2), checkpoint_folder=tmp_path)
    with pytest.raises(TrainingError, match=wanted):
        train(checkpoint_folder=tmp_path, importance={"conv1": torch.arange(8.0)})
    with torch.no_grad():
        student.module.linear.bias[0] += 1
    with pytest.raises(TrainingError, match=wanted):
        train(checkpoint_folder=tmp_path)


def test_settings_that_do_not_change_the_result_may_change_in_between(train, tmp_path):
    with pytest.raises(StopError):
        train(checkpoint_folder=tmp_path, progress=StopAt(5))
    resumed, _ = train(replace(QUICK, num_workers=1, checkpoint_every_s=9.0), checkpoint_folder=tmp_path)
    assert same(resumed, train()[0])


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_damaged_checkpoint_is_named(train, tmp_path, keep):
    with pytest.raises(StopError):
        train(checkpoint_folder=tmp_path, progress=StopAt(2))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"damaged checkpoint.*Delete the file; the training starts anew"):
        train(checkpoint_folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_named(train, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"checkpoint that cannot be written.*Free some space or name another fold"):
        train(checkpoint_folder=tmp_path / "file" / "folder")


def test_the_checkpoint_is_one_file_without_pickles(train, tmp_path):
    train(checkpoint_folder=tmp_path)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    assert {"student.conv1.weight", "best.bn1.running_var", "optimizer.0.exp_avg"} <= names


def test_a_training_that_diverges_keeps_the_last_good_checkpoint_and_names_it(train, task, tmp_path):
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return task.loss(outputs, targets) * (float("nan") if len(calls) == 9 else 1.0)

    with pytest.raises(TrainingError, match=r"loss that is not finite.*last good checkpoint is .*safetensors"):
        train(task=replace(task, loss=loss), checkpoint_folder=tmp_path)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    steps = []
    resumed, _ = train(checkpoint_folder=tmp_path, progress=lambda _, done, total: steps.append(done))
    assert steps[0] > 1
    assert same(resumed, train()[0])


def test_weights_that_are_not_finite_are_not_written_down(train, task, tmp_path):
    """An infinite step from finite gradients is found before the checkpoint is written, not one loss later."""
    huge = replace(QUICK, learning_rate=3e38, optimizer="sgd", weight_decay=0.0, batch_norm="frozen", clip_norm=None)
    with pytest.raises(TrainingError, match=r"values of .* not finite|loss that is not finite"):
        train(huge, task=replace(task, loss=lambda o, t: 1e3 * task.loss(o, t)), checkpoint_folder=tmp_path)
    assert not list(tmp_path.iterdir())


def killed_training(folder: Path, progress) -> Model:
    """Train a network that needs no fixtures, in this process or in one that is killed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
    inputs = torch.randn(128, 8)
    parts = TensorDataset(inputs, (inputs[:, 0] * inputs[:, 1] > 0).long())
    task = Task(
        name="sign",
        loss=lambda o, t: functional.cross_entropy(o, t, reduction="none"),
        metrics={"right": Metric(per_sample=lambda o, t: (o.argmax(1) == t).float())},
        primary="right",
        distill=lambda o, r, _: (o - r).square().mean(1),
    )
    model = Model(module=net.eval(), example_inputs=(inputs[:1],))
    settings = replace(
        QUICK, weights=DistillationWeights(task=1.0, output=0.1), averaging=Averaging(decay=0.9),
        targets=SoftTargets(mixup=0.4),
    )  # fmt: skip
    data = Data(train=parts, test=parts)
    return settings(model, model, task, data, checkpoint_folder=folder, progress=progress)[0]


def test_a_process_killed_in_the_middle_leaves_a_checkpoint_that_is_taken_up(tmp_path):
    child = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    steps = []
    resumed = killed_training(tmp_path / "killed", lambda _, done, total: steps.append(done))
    assert steps[0] == 9
    assert same(resumed, killed_training(tmp_path / "whole", lambda *_: None))


def die_at_eight(description: str, done: int, total: int) -> None:
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    killed_training(Path(sys.argv[1]), die_at_eight)
