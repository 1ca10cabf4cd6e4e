"""The curve of gaze prediction: a trained network cut in every way to falling budgets, ours and others'.

Each way starts at the same trained network and goes from budget to budget. To every budget all networks take the same
number of steps of the same distillation: after the cut, or, in the ways that train while they cut, half of them on the
way there.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from gaze_family import MOBILE, family_of, half_precision, multiply_adds, rebuilt, shapes_of
from gaze_one_at_a_time import OneAtATime
from gaze_pool import Views, whole_pictures
from gaze_run import Run
from gaze_training import TRUNK_RATES, WHILE_CUTTING, Fit, Limit, distil
from gaze_ways import Cut, Given, Peer, Way, loss_on
from torch import nn

from secateur.artifacts import Batch
from secateur.pipeline.allocation import ALLOCATORS

BATCH = 16


def ways() -> dict[str, Callable[[Given], Cut]]:
    """Return every way that cuts at once by its name, Torch-Pruning's where it is installed."""
    own: dict[str, Callable[[Given], Cut]] = {
        "ours": Way(labels="sampled", allocator=ALLOCATORS["hierarchical"], compensation="least-squares", multiple=8),
        "Fisher, automatic beta": Way(allocator=ALLOCATORS["automatic"]),
        "Fisher with FLOPs": Way(),
        "Fisher, beta = 0": Way(allocator=ALLOCATORS["ranked"]),
        "uniform width": Way(signal="l2", allocator=ALLOCATORS["uniform"]),
    }
    try:
        import torch_pruning
    except ImportError:
        return own
    return own | {
        "Torch-Pruning, GroupTaylor": Peer(importance=torch_pruning.importance.GroupTaylorImportance),
        "Torch-Pruning, GroupMagnitude": Peer(
            importance=lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2)
        ),
    }


ONE_AT_A_TIME = {
    "Fisher, automatic beta, one at a time": ALLOCATORS["automatic"],
    "Fisher with FLOPs, one at a time": None,
    "Fisher, beta = 0, one at a time": ALLOCATORS["ranked"],
}
"""The ways that train while they cut, by what decides between groups; without any it is `OneAtATime`'s choice."""


def curve(run: Run, name: str, network: nn.Module, views: Views, size: tuple[int, int]) -> None:
    """Cut a network in every way to every budget, each from the one before, and train all of them equally."""
    given = run.arguments
    network.to(memory_format=torch.contiguous_format)
    samples, judged = (_chosen(run, part, size) for part in ("train", "validation"))
    left = {way: (cut, network) for way, cut in _asked(given).items()}
    for ratio, budget in zip(given.ratios, budgets_of(network, size, given.ratios), strict=True):
        for way, (cut, current) in list(left.items()):
            row = f"{name}, {way}, 1/{ratio:g}"
            if row in run.weights:
                left[way] = cut, rebuilt(name, run.results[row]["shapes"], run.weights[row]).to(run.device)
                continue
            if time.perf_counter() - run.started > given.total_seconds:
                run.note(row, {"skipped": f"after {given.total_seconds:g} s"})
                continue
            task = Given(
                network=current, budget=budget, samples=samples, judged=judged, size=size,
                train=partial(_train_while_cutting, run, name, views, size), num_steps=given.steps,
            )  # fmt: skip
            found = run.tried(row, partial(_cut, run, row, cut, task, views))
            if found is None:
                del left[way]
                continue
            left[way] = cut, found
            if name == MOBILE or (way == "ours" and ratio >= 5):
                run.weights[row] = half_precision(found)
                run.write_weights()


def budgets_of(network: nn.Module, size: tuple[int, int], ratios: Sequence[float]) -> list[int]:
    """Return the multiply-adds that each ratio leaves of a network's."""
    whole = multiply_adds(network, size)
    return [math.floor(whole / ratio) for ratio in ratios]


def _asked(given: argparse.Namespace) -> dict[str, Callable[[Given], Cut]]:
    slow = {
        name: OneAtATime(
            allocator=allocator, multiple=given.maps_a_removal, num_samples=given.samples_a_removal,
            num_steps=given.steps_a_removal,
        )
        for name, allocator in ONE_AT_A_TIME.items()
    }  # fmt: skip
    return {name: way for name, way in (ways() | slow).items() if name in given.ways}


def _chosen(run: Run, part: str, size: tuple[int, int]) -> list[Batch]:
    """Return pictures from all over a part with their fixations, in whole batches."""
    every = whole_pictures(run.pool, part)
    number = min(run.arguments.samples, len(every))
    some = every.of(torch.linspace(0, len(every) - 1, number).long().to(run.device))
    pixels, counts = some.pixels(run.pool, size), some.counts(run.pool)
    pairs = zip(pixels.split(BATCH), counts.split(BATCH), strict=True)
    return [(pixels.contiguous(), counts) for pixels, counts in pairs if len(pixels) == min(BATCH, number)]


def _cut(run: Run, row: str, way: Callable[[Given], Cut], task: Given, views: Views) -> nn.Module:
    """Cut a network, train what is left, and score it."""
    given, started = run.arguments, time.perf_counter()
    torch.manual_seed(given.seed)
    cut = way(task)
    small = cut.network.requires_grad_(True)
    seconds, after_cut = time.perf_counter() - started, loss_on(small, task.samples)
    limit = Limit(steps=task.num_steps - cut.num_steps)
    fit = Fit(limit=limit, learning_rate=given.learning_rate, trunk=TRUNK_RATES.get(family_of(row), 1.0))
    trained = distil(small, run.pool, views, task.size, given.batch_size, fit)
    small.to(memory_format=torch.contiguous_format)
    facts = {**cut.facts, "macs": multiply_adds(small, task.size), "budget": task.budget, "shapes": shapes_of(small)}
    run.score(row, [small], task.size, trained=trained, cut_seconds=seconds, loss_after_cut=after_cut, **facts)
    return small


def _train_while_cutting(
    run: Run, name: str, views: Views, size: tuple[int, int], network: nn.Module, num_steps: int
) -> None:  # fmt: skip
    fit = Fit(limit=Limit(steps=num_steps), trunk=TRUNK_RATES.get(name, 1.0), **WHILE_CUTTING)
    distil(network.requires_grad_(True), run.pool, views, size, run.arguments.batch_size, fit)
    network.to(memory_format=torch.contiguous_format)
