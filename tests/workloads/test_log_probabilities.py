"""Every built-in task that predicts chances says what they are, as its own distance and loss have them."""

import pytest
import torch

from secateur.workloads import TASKS

OUTPUTS = {
    "classification": torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),
    "gaze": torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1)).flatten(1).log_softmax(1).view(4, 3, 5),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_they_sum_to_one_and_give_the_tasks_own_divergence(name, temperature):
    task, mine = TASKS[name](), OUTPUTS[name]
    theirs = mine.roll(1, dims=0)
    student, teacher = (task.log_probabilities(outputs, temperature) for outputs in (mine, theirs))
    torch.testing.assert_close(student.exp().sum(1), torch.ones(4))
    divergence = temperature**2 * (teacher.exp() * (teacher - student)).sum(1)
    torch.testing.assert_close(task.distill(mine, theirs, temperature), divergence)
