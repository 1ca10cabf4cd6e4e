"""Maximise the area under the ROC curve in several processes, averaging often and seldom, and by cross-entropy.

    python benchmarks/coda.py MNIST/mnist.npz.xz [--processes 2] [--steps 150]

The task is to tell nines, a tenth of the digits, from the rest under noise, by a small convolutional network. Every
process has digits of its own, and takes the same number of steps at every interval. Writes results/coda.json: the area
on the test digits, rounds of averaging, bytes sent by a process, and seconds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lenet import read
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional

from secateur.backends.machine import machine_facts
from secateur.pipeline.coda import Classes, Coda

RESULTS = Path(__file__).parent / "results" / "coda.json"
INTERVALS = (1, 16, 64)
NOISE = 1.5
RATE = 0.05
BATCH = 64


def network() -> nn.Module:
    """Return a small network: [batch, 1, 28, 28] to [batch] scores."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.ELU(), nn.Conv2d(8, 16, 5, stride=2), nn.ELU(), nn.Flatten(),
        nn.Linear(256, 1), nn.Flatten(0),
    )  # fmt: skip


def batches(digits: Tensor, nines: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield noisy digits without end, a fifth of them nines."""
    generator = torch.Generator().manual_seed(seed)
    positive, negative = nines.nonzero().squeeze(1), (~nines).nonzero().squeeze(1)
    labels = (torch.arange(BATCH) % 5 == 0).float()
    while True:
        draws = [some[torch.randint(len(some), (BATCH,), generator=generator)] for some in (negative, positive)]
        chosen = torch.where(labels == 1, draws[1], draws[0])
        yield digits[chosen] + NOISE * torch.randn(BATCH, 1, 28, 28, generator=generator), labels


def weighed(scores: Tensor, labels: Tensor) -> Classes:
    """Weigh every nine alike, and every other digit."""
    return Classes(scores=scores, positives=labels / labels.sum(), negatives=(1 - labels) / (1 - labels).sum())


def area(module: nn.Module, data: dict[str, Tensor]) -> float:
    """Return the area under the ROC curve on the test digits under noise, ties half."""
    noise = NOISE * torch.randn(data["x_test"].shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = torch.cat([module(some) for some in (data["x_test"] + noise).split(1000)])
    positive, negative = (scores[(data["y_test"] == 9) == which].sort().values for which in (True, False))
    below, upto = (torch.searchsorted(negative, positive, right=right).double() for right in (False, True))
    return float(((below + upto) / 2).mean() / len(negative))


def worker(rank: int, processes: int, data: dict[str, Tensor], steps: int, folder: str) -> None:
    """Train in one process at every interval; the first one writes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    own, rows = slice(rank, None, processes), list[dict[str, Any]]()
    for interval in INTERVALS:
        torch.manual_seed(0)
        module, started = network(), time.perf_counter()
        coda = Coda(num_stages=3, num_steps=steps, interval=interval, learning_rate=RATE)
        result = coda(module, batches(data["x"][own], data["y"][own] == 9, rank), weighed)
        rows.append({
            "loss": "AUC", "processes": processes, "interval": interval, "steps": result.num_steps,
            "rounds": result.num_rounds, "sent_bytes": result.sent_bytes, "area": area(module, data),
            "seconds": time.perf_counter() - started,
        })  # fmt: skip
    if rank == 0:
        (Path(folder) / "rows.json").write_text(json.dumps(rows))
    distributed.destroy_process_group()


def by_cross_entropy(data: dict[str, Tensor], steps: int) -> dict[str, Any]:
    """Train one network by cross-entropy, in one process, for as many steps in stages of the same rates."""
    torch.manual_seed(0)
    module, draw = network(), batches(data["x"], data["y"] == 9, 0)
    for stage in range(3):
        optimiser = torch.optim.SGD(module.parameters(), lr=RATE / 3**stage)
        for _ in range(steps * 3**stage):
            inputs, labels = next(draw)
            loss = functional.binary_cross_entropy_with_logits(module(inputs), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {"loss": "cross-entropy", "processes": 1, "steps": 13 * steps, "area": area(module, data)}


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=150, help="of the first stage; the next have 3 and 9 times as many"
    )
    arguments = parser.parse_args()
    data = read(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.processes, data, arguments.steps, folder
        multiprocessing.spawn(worker, given, nprocs=arguments.processes)
        rows = json.loads((Path(folder) / "rows.json").read_text())
    rows.append(by_cross_entropy(data, arguments.steps))
    for row in rows:
        print(row)
    RESULTS.write_text(json.dumps({"rows": rows, "machine": machine_facts().model_dump()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
