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
EIGHTS_AND_BLOCKS = "ours, widths in eights, whole blocks"
UNIFORM = "uniform width, l2"
COMPARED = {
    "ours": DEFAULT,
    AT_ONCE: replace(DEFAULT, rounds=1),
    UNIFORM: Ours(signal="l2", allocator="uniform"),
    "ours, widths in eights": replace(DEFAULT, multiple=8),
    EIGHTS_AND_BLOCKS: replace(DEFAULT, multiple=8, branches=True),
    "ours, inside blocks only": replace(DEFAULT, inner=True),
}
LATER = (EIGHTS_AND_BLOCKS, "ours, widths in eights", "ours, inside blocks only")
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
RATES = {
    "resnet20": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "resnet56": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "mobilenet_v2": (3e-5, 1e-4, 3e-4, 1e-3),
}
"""Peak learning rates, of which every way takes its own best at every budget."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row to be made; with ``tuning`` the one that finds the learning rate, on held-out training pictures."""

    network: str
    way: str
    ratio: float
    seed: int
    tuning: bool = False

    @property
    def file(self) -> str:
        """What the network is called on disk."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.network}-{self.way}-{self.ratio:g}".lower())

    @property
    def tuned(self) -> "Job":
        """The row that finds this one's learning rate: parts of ours have that of the whole."""
        way = AT_ONCE if self.way in ABLATION else "ours" if self.way in LATER else self.way
        return Job(network=self.network, way=way, ratio=self.ratio, seed=0, tuning=True)

    @property
    def source(self) -> "Source":
        """What pictures it is made of."""
        return Source(network=self.network, seed=self.seed, held_out=self.tuning)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A seed's pictures for a network; with ``held_out`` a tenth of the training ones takes the place of the test's."""

    network: str
    seed: int
    held_out: bool = False


def jobs(networks: list[str], seeds: int) -> list[Job]:
    """Return all rows, the most telling first."""
    found = [Job(network=network, way="uncut", ratio=1.0, seed=seed) for network in networks for seed in range(seeds)]
    first = ["ours", AT_ONCE, *peers(), UNIFORM]
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


def tuned_first(found: list[Job]) -> list[Job]:
    """Return the rows, and before the first that wants a learning rate the one that finds it."""
    return list(dict.fromkeys(each for job in found for each in ((job,) if job.way == "uncut" else (job.tuned, job))))


def facts_of(job: Job) -> dict[str, Any]:
    """Return what tells a row from the others."""
    facts = {name: value for name, value in vars(job).items() if name != "tuning" or value}
    return facts | ({"ablation": True} if job.way in ABLATION else {})


def place_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from the others."""
    return row["network"], row["way"], row["ratio"], row["seed"], row.get("tuning", False)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were made."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
