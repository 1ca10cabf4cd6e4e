"""Calibration samples are drawn by the seed, and never from what the network is judged on."""

import pytest
import torch
from torch.utils.data import TensorDataset

from secateur.calibration.samples import draw_samples
from secateur.errors import DataError


def numbered(low: int, high: int) -> TensorDataset:
    return TensorDataset(torch.arange(low, high, dtype=torch.float32)[:, None], torch.zeros(high - low))


def drawn(samples: object) -> list[float]:
    return [float(value) for batch in samples for value in batch.flatten()]  # type: ignore[attr-defined]


def test_nothing_of_the_evaluation_data_is_drawn() -> None:
    samples = draw_samples(numbered(0, 40), numbered(10, 60), num_samples=100, batch_size=4, seed=0)
    assert sorted(drawn(samples)) == list(range(10))
    assert samples.num_shared == 30


def test_samples_follow_from_the_seed_and_come_again() -> None:
    one, same, other = (
        draw_samples(numbered(0, 100), numbered(200, 201), num_samples=12, batch_size=5, seed=seed)
        for seed in (3, 3, 4)
    )
    assert drawn(one) == drawn(one) == drawn(same) != drawn(other)
    assert [len(batch) for batch in one] == [5, 5, 2]


def test_a_set_that_is_all_evaluation_data_is_refused() -> None:
    with pytest.raises(DataError, match="all of 8 samples in the evaluation data too"):
        draw_samples(numbered(0, 8), numbered(0, 8), num_samples=4, batch_size=2, seed=0)
