"""Cut LeNet-5 on MNIST to a tenth of its cost, as table 1 of Theis et al. 2018 (arXiv 1801.05787) does, and compare.

    python benchmarks/lenet.py MNIST/mnist.npz.xz --kept FOLDER [--seeds 3] [--seconds 300]

The network is Caffe's LeNet-5 (20 and 50 maps of 5 x 5, 500 hidden units). Every way starts at the same trained network
and goes to the budgets in the same rounds, trained between them and afterwards for the same number of steps with the
uncut network's predictions, by the product's optimiser, schedule, running average and distance. All train on every
picture and five copies of it, shifted, turned and scaled a little. Cost counts multiplications, additions and biases,
as the paper does. Published: error 0.80 % at the whole cost, 0.79 % at 10 %
(Fisher, with the cost term), 0.86 % at 17 % (automatic), 0.84 % at 26 % (without).

Writes results/lenet.json row by row; a run goes on from what is there and from the uncut networks in FOLDER, and begins
no further way after so many seconds. ``--validate`` holds the last 10,000 training pictures out and judges by them:
settings are chosen so, never by the test pictures.
"""

import argparse
import copy
import io
import json
import lzma
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.backends.machine import machine_facts
from secateur.calibration.labels import LabelKind, label_loss
from secateur.pipeline.allocation import ALLOCATORS, Allocator
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.compensation import Removal
from secateur.pipeline.finetune.averaging import Averaging, WeightAverage
from secateur.pipeline.finetune.checkpoint import write_state
from secateur.pipeline.finetune.optimizer import build_optimizer
from secateur.pipeline.finetune.schedule import learning_rate
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import collect_evidence, saliency, signal_of
from secateur.pipeline.structure import trace
from secateur.workloads.classification import task

RESULTS = Path(__file__).parent / "results" / "lenet.json"
TASK = task(10)
BUDGETS = (0.26, 0.17, 0.10, 0.05)
"""Shares of the cost: the paper's three, and half of its least."""
BATCH, NUM_COPIES = 256, 5
TEMPERATURE = 4.0
LONGEST_GRADIENT = 5.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """How channels are chosen, and what makes up for them."""

    labels: LabelKind
    allocator: Allocator
    compensation: str = "none"


WAYS = {
    "ours": Way(labels="sampled", allocator=ALLOCATORS["hierarchical"], compensation="least-squares"),
    "Fisher, automatic beta": Way(labels="true", allocator=ALLOCATORS["automatic"]),
    # The classifier's losses are about a thousandth of a gaze network's, and so is its cost.
    "Fisher with FLOPs": Way(labels="true", allocator=Theis(beta=0.3)),
    "Fisher, beta = 0": Way(labels="true", allocator=ALLOCATORS["ranked"]),
}


class LeNet(nn.Sequential):
    """LeNet-5 as in Caffe (LeCun et al. 1998): [batch, 1, 28, 28] to [batch, 10] logits."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
        )  # fmt: skip


def operations(network: nn.Module) -> int:
    """Count multiplications, additions and biases of one picture: outputs x (2 inputs of each + 1)."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * (2 * layer.weight[0].numel() + 1)

    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return total


def train(
    network: nn.Module, data: dict[str, Tensor], num_steps: int, rate: float, wanted: Tensor | None = None
) -> None:  # fmt: skip
    """Train in place by AdamW in mixed precision; what stays is the running average of the weights.

    With what a teacher says of every picture, ``wanted``, nine tenths of the loss are the distance to that.
    """
    network.train().to(memory_format=torch.channels_last)
    optimiser = build_optimizer(network, "adamw", weight_decay=0.01, momentum=0.0)
    average = WeightAverage.of(network, Averaging(decay=0.998))
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, num_steps, rate, warmup=0.05)
        chosen = torch.randint(len(data["views"]), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(data["views"][chosen].float() / 255).float()
        loss = functional.cross_entropy(logits, data["view_labels"][chosen])
        if wanted is not None:
            loss = 0.1 * loss + 0.9 * TASK.distill(logits, wanted[chosen], TEMPERATURE).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LONGEST_GRADIENT)
        optimiser.step()
        average.update(network, step)
    write_state(network, average.state)
    network.eval()


@torch.no_grad()
def said_by(network: nn.Module, views: Tensor) -> Tensor:
    """Return a network's logits of every view."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([network(some.float() / 255).float() for some in views.split(1000)])


def error(network: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Return the share of pictures that are told wrong, in percent."""
    with torch.no_grad():
        wrong = sum(
            int((network(p).argmax(1) != t).sum()) for p, t in zip(pictures.split(500), labels.split(500), strict=True)
        )
    return 100 * wrong / len(pictures)


def cut(network: nn.Module, way: Way, share: float, samples: Sequence[tuple[Tensor, Tensor]]) -> nn.Module:
    """Return the network cut so that at most ``share`` of the whole one's operations are left."""
    structure = trace(network, (torch.zeros(2, 1, 28, 28),))
    needs = signal_of("fisher").needs
    loss = label_loss(TASK, way.labels, temperature=4.0)
    evidence = collect_evidence(needs, network, structure, samples, loss, labels=way.labels)
    scores, cost = saliency(signal_of("fisher"), evidence, structure.groups), structure.cost_terms("macs")
    budget = math.floor(share * structure.macs())
    keep = way.allocator(scores, cost, budget, structure.groups, {})
    removal = Removal(module=network, structure=structure, keep=keep, samples=samples, gate_gram=evidence.gate_gram)
    return Settle(compensation=way.compensation)(removal, TASK.loss).module


def measure(
    name: str, whole: nn.Module, wanted: Tensor, data: dict[str, Tensor], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Cut from budget to budget in rounds of at most a third, train in between, and tell the errors."""
    rows, current, cost = list[dict[str, Any]](), copy.deepcopy(whole), operations(whole)
    samples = list(zip(data["x"][:512].split(64), data["y"][:512].split(64), strict=True))
    for budget in arguments.budgets:
        started = time.perf_counter()
        while (now := operations(current) / cost) > budget:
            target = max(budget, 0.7 * now)
            current = cut(current, WAYS[name], 0.999 * target / now, samples)
            train(current, data, arguments.round_steps, arguments.rate, wanted)
        last = copy.deepcopy(current)
        train(last, data, arguments.steps, arguments.rate, wanted)
        widths = [layer.weight.shape[0] for layer in last if isinstance(layer, (nn.Conv2d, nn.Linear))]
        rows.append({
            "way": name, "budget": budget, "cost_share": operations(last) / cost, "widths": widths,
            "error_percent": error(last, data["x_test"], data["y_test"]), "seconds": time.perf_counter() - started,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def read(file: Path, validate: bool) -> dict[str, Tensor]:
    """Read MNIST, pictures as float32 in 0..1 [picture, 1, 28, 28], in a fixed random order, and make the views."""
    with np.load(io.BytesIO(lzma.decompress(file.read_bytes()))) as arrays:
        found = {
            short: torch.from_numpy(arrays[name])
            for short, name in (("x", "x_train"), ("y", "y_train"), ("x_test", "x_test"), ("y_test", "y_test"))
        }
    order = torch.randperm(len(found["x"]), generator=torch.Generator().manual_seed(0))
    found |= {"x": found["x"][order], "y": found["y"][order]}
    if validate:
        kept, judged = slice(0, -10_000), slice(-10_000, None)
        found = {short: found[short[0]][judged if "test" in short else kept] for short in found}
    data = {name: t[:, None].float() / 255 if "x" in name else t.long() for name, t in found.items()}
    views = torch.cat([(255 * data["x"]).round().to(torch.uint8), varied(data["x"])])
    return data | {"views": views, "view_labels": data["y"].repeat(1 + NUM_COPIES)}


def varied(pictures: Tensor) -> Tensor:
    """Return copies of all pictures, uint8: shifted by 2 pixels at most, turned by 10 degrees, scaled by a tenth."""
    generator, copies = torch.Generator().manual_seed(0), []
    for some in pictures.repeat(NUM_COPIES, 1, 1, 1).split(5000):
        spread = 2 * torch.rand(4, len(some), generator=generator) - 1
        turn, scale = math.radians(10) * spread[0], 1 + 0.1 * spread[1]
        cosine, sine = turn.cos() * scale, turn.sin() * scale
        rows = [torch.stack([cosine, -sine, spread[2] / 7], 1), torch.stack([sine, cosine, spread[3] / 7], 1)]
        where = functional.affine_grid(torch.stack(rows, 1), list(some.shape), align_corners=False)
        copies.append((255 * functional.grid_sample(some, where, align_corners=False)).round().to(torch.uint8))
    return torch.cat(copies)


def trained(seed: int, data: dict[str, Tensor], arguments: argparse.Namespace) -> LeNet:
    """Return the uncut network of a seed, from the folder where it is there."""
    torch.manual_seed(seed)
    network, file = LeNet(), arguments.kept / f"lenet_{seed}{'_validated' if arguments.validate else ''}.pt"
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    train(network, data, arguments.whole_steps, arguments.whole_rate)
    arguments.kept.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), file)
    return network


def main() -> None:
    """Train, cut, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--whole-steps", type=int, default=3000, help="of the uncut network's training")
    parser.add_argument("--whole-rate", type=float, default=2e-3, help="of learning of the uncut network")
    parser.add_argument("--round-steps", type=int, default=150, help="of training between two cuts")
    parser.add_argument("--steps", type=int, default=3000, help="of training after the last cut")
    parser.add_argument("--rate", type=float, default=3e-3, help="of learning, after a cut")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--validate", action="store_true", help="say what the settings do, and write nothing")
    arguments = parser.parse_args()
    started = time.perf_counter()
    data = read(arguments.data, arguments.validate)
    settings = {
        name: getattr(arguments, name) for name in ("whole_steps", "whole_rate", "round_steps", "steps", "rate")
    }
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.validate else {}
    rows: list[dict[str, Any]] = before["rows"] if before.get("settings") == settings else []
    for seed in range(arguments.seeds):
        left = [way for way in arguments.ways if not any((row["seed"], row["way"]) == (seed, way) for row in rows)]
        if not left:
            continue
        whole = trained(seed, data, arguments)
        wanted = said_by(whole, data["views"])
        base = {"way": "uncut", "budget": 1.0, "cost_share": 1.0, "widths": [20, 50, 500, 10], "seed": seed}
        base["error_percent"] = error(whole, data["x_test"], data["y_test"])
        rows = [row for row in rows if (row["seed"], row["way"]) != (seed, "uncut")] + [base]
        print(base, flush=True)
        for name in left:
            if time.perf_counter() - started > arguments.seconds:
                return
            torch.manual_seed(seed)
            rows += [row | {"seed": seed} for row in measure(name, whole, wanted, data, arguments)]
            if not arguments.validate:
                content = {"rows": rows, "operations": operations(whole), "settings": settings,
                           "machine": machine_facts().model_dump()}  # fmt: skip
                RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
