"""The rows of `pruning_healed`: which networks are cut in which ways to which budgets, and in what order."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning_ways import DEFAULT, Ours, peers

RATIOS = (4.0, 10.0, 2.0)
"""Uncut by cut multiply-adds, the most telling first."""
AT_ONCE = "ours, at once"
COMPARED = {
    "ours": DEFAULT,
    AT_ONCE: replace(DEFAULT, rounds=1),
    "uniform width, l2": Ours(signal="l2", allocator="uniform"),
    "ours, widths in eights": replace(DEFAULT, multiple=8),
    "ours, inside blocks only": replace(DEFAULT, inner=True),
}
LATER = ("ours, widths in eights", "ours, inside blocks only")
ABLATION_RATIO = 4.0
ABLATION = {
    "effective filters as floors": replace(COMPARED[AT_ONCE], floors=True),
    "no compensation": replace(COMPARED[AT_ONCE], compensation="none"),
    "no cost term": replace(COMPARED[AT_ONCE], allocator="ranked"),
    "joint signal": replace(COMPARED[AT_ONCE], signal="joint"),
    "obs signal": replace(COMPARED[AT_ONCE], signal="obs"),
    "l2 signal": replace(COMPARED[AT_ONCE], signal="l2"),
    "true labels": replace(COMPARED[AT_ONCE], labels="true"),
    "no distillation": COMPARED[AT_ONCE],
}
RATES = {"resnet20": (0.003, 0.01, 0.03), "resnet56": (0.003, 0.01, 0.03), "mobilenet_v2": (1e-4, 3e-4, 1e-3)}
"""Peak learning rates to choose from, with networks of uniform width at ``TUNED`` budgets."""
TUNED = {"resnet20": (4.0, 10.0), "resnet56": (4.0, 10.0), "mobilenet_v2": (2.0,)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row to be made; with a ``rate`` only the accuracy that this learning rate leads to is of interest.

    That is measured on training pictures, which are held out.
    """

    network: str
    way: str
    ratio: float
    seed: int
    rate: float | None = None

    @property
    def file(self) -> str:
        """What the network is called on disk."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.network}-{self.way}-{self.ratio:g}".lower())

    @property
    def source(self) -> "Source":
        """What pictures it is made of."""
        return Source(network=self.network, seed=self.seed, held_out=self.rate is not None)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A seed's pictures for a network; with ``held_out`` a tenth of the training ones takes the place of the test's."""

    network: str
    seed: int
    held_out: bool = False


def jobs(networks: list[str], seeds: int) -> list[Job]:
    """Return all rows, the most telling first."""
    found = [
        Job(network=network, way="uniform width, l2", ratio=ratio, seed=0, rate=rate)
        for network in networks
        for rate in RATES[network]
        for ratio in TUNED[network]
    ]
    found += [Job(network=network, way="uncut", ratio=1.0, seed=seed) for network in networks for seed in range(seeds)]
    first = ["ours", AT_ONCE, *peers(), "uniform width, l2"]
    parts = [(first, RATIOS[:2]), (first, RATIOS[2:]), (list(ABLATION), (ABLATION_RATIO,)), (list(LATER), RATIOS)]
    for ways, ratios in parts:
        found += [
            Job(network=network, way=way, ratio=ratio, seed=seed)
            for seed in range(seeds)
            for way in ways
            for ratio in ratios
            for network in networks
            if network != "mobilenet_v2" or way in first
        ]
    return sorted(found, key=lambda job: job.network == "mobilenet_v2")


def facts_of(job: Job) -> dict[str, Any]:
    """Return what tells a row from the others."""
    facts = {name: value for name, value in vars(job).items() if value is not None}
    return facts | ({"ablation": True} if job.way in ABLATION else {})


def place_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from the others."""
    return row["network"], row["way"], row["ratio"], row["seed"], row.get("rate")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were made."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
