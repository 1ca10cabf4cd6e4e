"""Structural redundancy counts planted copies exactly, and sees none in noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.pipeline.redundancy.covering import GraphCovering, greedy_cover, measure_covering
from secateur.pipeline.structure import trace

torch.set_num_threads(1)


def noise(num_channels: int, num_entries: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_channels, num_entries)))


def with_copies(share: float, seed: int = 0) -> torch.Tensor:
    """64 filters of which this share repeats the others, scaled."""
    num_own = round(64 * (1 - share))
    generator = np.random.default_rng(seed)
    own = generator.normal(size=(num_own, 288))
    rows = own[np.arange(64) % num_own] * 10 ** generator.uniform(-3, 3, size=(64, 1))
    return torch.from_numpy(generator.permutation(rows))


@pytest.mark.parametrize(("share", "wanted", "num"), [(0, 1.0, 64), (0.25, 4 / 3, 48), (0.5, 2.0, 32), (0.75, 4.0, 16)])
@pytest.mark.parametrize("seed", range(5))
def test_planted_copies_are_counted(share: float, wanted: float, num: int, seed: int) -> None:
    found = GraphCovering()(with_copies(share, seed))
    assert (found.num_components, found.num_cover) == (num, num)
    assert found.redundancy == pytest.approx(wanted)


@pytest.mark.parametrize("width", [16, 32, 64, 128, 256, 512])
@pytest.mark.parametrize("num_inputs", [3, 16, 512])
def test_random_filters_are_not_redundant_however_many_weights_they_have(width: int, num_inputs: int) -> None:
    for seed in range(3):
        assert 1 <= GraphCovering()(noise(width, 9 * num_inputs, seed)).redundancy < 1.05


def test_what_the_distance_would_be_with_the_root_of_the_fan_in() -> None:
    """The control of the test above: that threshold calls a wide random layer one point."""
    root_of_fan_in = GraphCovering(distance=0.023 * (512 * 9) ** 0.5, chance=float("inf"))
    assert root_of_fan_in(noise(512, 512 * 9)).redundancy > 100


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), num=st.integers(1, 30), entries=st.integers(1, 20))
def test_scale_order_and_rotation_do_not_matter(seed: int, num: int, entries: int) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(num, entries))
    rows[generator.random(num) < 0.4] = rows[0]
    rows[generator.random(num) < 0.1] = 0
    found = GraphCovering()(torch.from_numpy(rows))
    assert 1 <= found.num_components <= found.num_cover <= num
    scaled = generator.permutation(rows * 2.0 ** generator.integers(-30, 30, size=(num, 1)))
    turn = np.linalg.qr(generator.normal(size=(entries, entries)))[0]
    for other in (scaled, rows @ turn):
        again = GraphCovering()(torch.from_numpy(other))
        assert again.num_components == found.num_components
        assert found.num_cover == again.num_cover or other is scaled  # ties in the greedy order
    assert found.redundancy == pytest.approx(num / (0.35 * found.num_components + 0.65 * found.num_cover))


def test_filters_of_zeros_are_copies_of_each_other_and_near_no_others() -> None:
    rows = noise(12, 90)
    rows[[2, 5, 7]] = 0
    found = GraphCovering()(rows)
    assert (found.num_components, found.num_cover) == (10, 10)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), num=st.integers(1, 12), share=st.floats(0, 1))
def test_a_greedy_cover_covers_and_is_near_the_smallest(seed: int, num: int, share: float) -> None:
    half = np.random.default_rng(seed).random((num, num)) < share
    near = half | half.T | np.eye(num, dtype=bool)
    smallest = next(
        size
        for size in range(1, num + 1)
        for chosen in __import__("itertools").combinations(range(num), size)
        if near[list(chosen)].any(0).all()
    )
    assert smallest <= greedy_cover(near) <= smallest * (1 + np.log(num))


def test_a_chain_is_one_component_and_needs_several_covers() -> None:
    near = np.abs(np.subtract.outer(np.arange(9), np.arange(9))) <= 1
    assert greedy_cover(near) == 3


def test_the_groups_of_a_network_are_measured() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        module[0].weight[4:] = 3 * module[0].weight[:4]
    found = measure_covering(module, trace(module, (torch.randn(1, 3, 8, 8),)).groups)
    assert found["0"].redundancy == pytest.approx(2)
    assert found["2"].redundancy == 1
