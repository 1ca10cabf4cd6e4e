"""A training goes on through a cut: the samples that come next, and what the optimiser remembers of what stayed."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset

from secateur.artifacts import Data, Model
from secateur.errors import TrainingError
from secateur.pipeline.finetune import Averaging, Finetune, Memory
from secateur.pipeline.structure import trace

FEW = Finetune(num_steps=4, batch_size=16, learning_rate=0.01, validation_share=0.0, device="cpu")


class Noted(Dataset):
    """A data set that notes which samples are read."""

    def __init__(self, of: Dataset) -> None:
        self.of, self.read = of, []

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> object:
        self.read.append(index)
        return self.of[index]


def test_samples_come_as_in_one_training(student, teacher, task, data):
    def read(*steps: int, memory: Memory | None) -> list[int]:
        noted, model = Noted(data.train), student
        for num in steps:
            model, _ = replace(FEW, num_steps=num)(
                model, teacher, task, Data(train=noted, test=data.test), memory=memory
            )
        return noted.read

    together = read(8, memory=None)
    assert read(4, 3, 1, memory=Memory()) == together
    assert read(4, 4, memory=None) == together[:64] * 2
    assert together[64:] != together[:64]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_remembered_is_what_one_training_would_have(student, teacher, task, data, optimizer):
    """At a rate of nearly nothing two trainings are one, in every mean and every count of steps."""
    still, memory, whole = replace(FEW, learning_rate=1e-30, optimizer=optimizer, weight_decay=0.0), Memory(), Memory()
    model = student
    for _ in range(2):
        model, result = still(model, teacher, task, data, memory=memory)
    replace(still, num_steps=8)(student, teacher, task, data, memory=whole)
    assert memory.num_steps == whole.num_steps == 8
    assert memory.tensors.keys() == whole.tensors.keys() != set()
    for name, value in whole.tensors.items():
        assert torch.allclose(memory.tensors[name], value, rtol=1e-4, atol=1e-7), name
    assert [row.epoch for row in result.epochs] == [1, 2]


def test_a_cut_takes_the_memory_of_what_it_takes_and_no_other(teacher, task, data, cut):
    structure, memory = trace(teacher.module, teacher.example_inputs), Memory()
    first, second = torch.tensor([1, 4, 6]), torch.tensor([0, 5])
    trained, _ = FEW(teacher, teacher, task, data, memory=memory)
    before = dict(memory.tensors)
    small = cut(trained, first, second)
    memory.follow(trained, structure, small)
    after = memory.tensors
    assert torch.equal(after["conv2.weight.exp_avg"], before["conv2.weight.exp_avg"][second][:, first])
    assert torch.equal(after["bn1.bias.exp_avg_sq"], before["bn1.bias.exp_avg_sq"][first])
    assert torch.equal(after["linear.bias.exp_avg"], before["linear.bias.exp_avg"])
    assert after["conv2.weight.step"] == before["conv2.weight.step"] == 4
    again, _ = replace(FEW, averaging=Averaging(decay=0.5))(small, teacher, task, data, memory=memory)
    assert memory.state["conv2.weight"]["step"] == memory.num_steps == 8
    assert not torch.equal(again.module.conv2.weight, small.module.conv2.weight)


def test_the_memory_of_other_channels_is_refused(teacher, student, task, data):
    memory = Memory()
    trained, _ = FEW(student, teacher, task, data, memory=memory)
    other = Model(module=teacher.module, example_inputs=teacher.example_inputs, kept={"conv1": torch.tensor([1, 2])})
    with pytest.raises(TrainingError, match="group conv1"):
        memory.follow(trained, trace(trained.module, trained.example_inputs), other)


def test_a_training_that_goes_on_is_taken_up_where_it_was_killed(student, teacher, task, data, tmp_path):
    """Bit for bit, from the checkpoint alone and the memory that it began with."""

    class KilledError(Exception):
        pass

    def kill(_: str, done: int, total: int) -> None:
        if (done, total) == (3, 4):
            raise KilledError

    def begun() -> tuple[Model, Memory]:
        memory = Memory()
        return FEW(student, teacher, task, data, memory=memory)[0], memory

    model, memory = begun()
    whole, _ = FEW(model, teacher, task, data, memory=memory)
    model, killed = begun()
    often = replace(FEW, checkpoint_every_s=0.0)
    with pytest.raises(KilledError):
        often(model, teacher, task, data, memory=killed, checkpoint_folder=tmp_path, progress=kill)
    assert killed.num_steps == 4
    again, _ = often(model, teacher, task, data, memory=killed, checkpoint_folder=tmp_path)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name
    assert all(torch.equal(killed.tensors[name], value) for name, value in memory.tensors.items())
