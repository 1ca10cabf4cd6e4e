"""Re-estimated statistics are those of the data; nothing else about the network changes."""

import pytest
import torch
from torch import nn

from secateur.calibration.batch_norm import reestimate_batch_norm, running_norms
from secateur.errors import DataError


def test_statistics_become_the_average_over_batches() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    module.train()
    module[2].eval()
    weights = {name: p.clone() for name, p in module.named_parameters()}
    images = torch.randn(8, 3, 5, 5) * 3 + 1
    reestimate_batch_norm(module, [(images[:4], None), (images[4:], None)])
    features = module[0](images)
    norm = module[1]
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
    halves = torch.stack([half.var((0, 2, 3)) for half in features.split(4)])
    torch.testing.assert_close(norm.running_var, halves.mean(0))
    assert norm.momentum == 0.3
    assert [m.training for m in module] == [True, True, False, True]
    assert all(torch.equal(p, weights[name]) for name, p in module.named_parameters())
    assert all(p.grad is None for p in module.parameters())


def test_layers_without_running_statistics_are_left_alone() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3))
    assert running_norms(module) == []
    reestimate_batch_norm(module, [])


def test_a_single_value_and_no_batches_are_refused() -> None:
    module = nn.BatchNorm1d(3)
    with pytest.raises(DataError, match=r"batch-norm statistics: found Expected more than 1 value per channel"):
        reestimate_batch_norm(module, [(torch.zeros(1, 3), None)])
    assert module.momentum == 0.1
    with pytest.raises(DataError, match="batch-norm statistics: found no batches"):
        reestimate_batch_norm(module, [])
