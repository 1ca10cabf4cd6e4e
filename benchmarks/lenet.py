"""Cut LeNet-5 on MNIST to a tenth of its cost, as table 1 of Theis et al. 2018 (arXiv 1801.05787) does, and compare.

    python benchmarks/lenet.py MNIST/mnist.npz.xz --kept FOLDER [--seeds 3] [--seconds 300]

The network is Caffe's LeNet-5 (20 and 50 maps of 5 x 5, 500 hidden units). Every way starts at the same trained network
and goes to the budgets in the same rounds, or one channel after the other as the paper does, trained meanwhile and
afterwards for the same number of steps with the uncut network's predictions, by the product's optimiser, schedule,
running average and distance. All train on every picture and five copies of it, shifted, turned and scaled a little.
Cost counts multiplications, additions and biases, as the paper does. Published: error 0.80 % at the whole cost, 0.79 %
at 10 % (Fisher, with the cost term), 0.86 % at 17 % (automatic), 0.84 % at 26 % (without).

Writes results/lenet.json row by row; a run goes on from what is there and from the uncut networks in FOLDER, and begins
no further way after so many seconds. What Fisher pruning with FLOPs pays for a multiply-add is chosen by the loss on
10,000 training pictures that were held out from a network of their own. ``--validate`` holds these out and judges by
them: settings are chosen so, never by the test pictures.
"""

import argparse
import copy
import io
import json
import lzma
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lenet_ways import TASK, WAYS, betas, cut, cut_gradually
from torch import Tensor, nn
from torch.nn import functional

from secateur.backends.machine import machine_facts
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.finetune.averaging import Averaging, WeightAverage
from secateur.pipeline.finetune.checkpoint import write_state
from secateur.pipeline.finetune.optimizer import build_optimizer
from secateur.pipeline.finetune.schedule import learning_rate

RESULTS = Path(__file__).parent / "results" / "lenet.json"
BUDGETS = (0.26, 0.17, 0.10, 0.05)
"""Shares of the cost: the paper's three, and half of its least."""
BATCH, NUM_COPIES = 256, 5
TEMPERATURE = 4.0
LONGEST_GRADIENT = 5.0
ROUND = 0.7
"""What a round leaves of a network's operations."""
GRADUAL_RATE = 2.5e-3


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
    network: nn.Module, data: dict[str, Tensor], num_steps: int, rate: float, wanted: Tensor | None = None,
    is_gradual: bool = False,
) -> None:  # fmt: skip
    """Train in place by AdamW in mixed precision; what stays is the running average of the weights.

    With what a teacher says of every picture, ``wanted``, nine tenths of the loss are the distance to that. Gradually,
    between removals, it is SGD with momentum at a constant rate, and the last weights stay.
    """
    network.train().to(memory_format=torch.channels_last)
    name, momentum = ("sgd", 0.9) if is_gradual else ("adamw", 0.0)
    optimiser = build_optimizer(network, name, weight_decay=0.0 if is_gradual else 0.01, momentum=momentum)
    average = WeightAverage.of(network, Averaging(decay=0.998))
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = rate if is_gradual else learning_rate(step, num_steps, rate, warmup=0.05)
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
    if not is_gradual:
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


def measure(
    name: str,
    beta: float | None,
    whole: nn.Module,
    wanted: Tensor,
    data: dict[str, Tensor],
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Cut from budget to budget in rounds of at most a third, train in between, and tell the errors."""
    rows, current, cost = list[dict[str, Any]](), copy.deepcopy(whole), operations(whole)
    for budget in arguments.budgets:
        started = time.perf_counter()
        current = cut_to(current, budget * cost, name, beta, data, wanted, arguments)
        last = copy.deepcopy(current)
        train(last, data, arguments.steps, arguments.rate, wanted)
        widths = [layer.weight.shape[0] for layer in last if isinstance(layer, (nn.Conv2d, nn.Linear))]
        rows.append({
            "way": name, "budget": budget, "cost_share": operations(last) / cost, "widths": widths,
            "error_percent": error(last, data["x_test"], data["y_test"]), "seconds": time.perf_counter() - started,
        } | ({} if beta is None else {"beta": beta}))  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def cut_to(
    network: nn.Module, most: float, name: str, beta: float | None, data: dict[str, Tensor], wanted: Tensor,
    arguments: argparse.Namespace,
) -> nn.Module:  # fmt: skip
    """Cut a network to at most so many operations, trained ``--round-steps`` for every three tenths that go."""
    way, samples = WAYS[name], samples_of(data)
    allocator = way.allocator if beta is None else Theis(beta=beta)
    if way.is_gradual:
        due = 0.0

        def go_on(small: nn.Module, share: float) -> None:
            nonlocal due
            due += arguments.round_steps * math.log(share) / math.log(ROUND)
            if (steps := int(due)) > 0:
                train(small, data, steps, GRADUAL_RATE, wanted, is_gradual=True)
                due -= steps

        while (now := operations(network)) > most:
            network = cut_gradually(network, allocator, 0.999 * most / now, samples, go_on)
        return network
    while (now := operations(network)) > most:
        network = cut(network, way, allocator, 0.999 * max(most, ROUND * now) / now, samples)
        train(network, data, arguments.round_steps, arguments.rate, wanted)
    return network


def beta_of(way: str, price: dict[str, Any]) -> float | None:
    """Return the price of a way that has none of its own, None of one that needs none."""
    return price.get("chosen") if way in WAYS and WAYS[way].allocator is None else None


def samples_of(data: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the pictures that cuts are decided on."""
    return list(zip(data["x"][:512].split(64), data["y"][:512].split(64), strict=True))


def choose_beta(file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the price of a giga-multiply-add under which held-out training pictures have the least loss.

    Networks that never saw them are cut to the least budget, and trained while they are cut, not afterwards.
    """
    data, share = read(file, validate=True), min(arguments.budgets)
    whole = trained(0, data, arguments, validate=True)
    wanted, losses = said_by(whole, data["views"]), dict[float, float]()
    for beta in betas(whole, share, samples_of(data)):
        torch.manual_seed(0)
        small = cut_to(
            copy.deepcopy(whole), share * operations(whole), "Fisher with FLOPs", beta, data, wanted, arguments
        )
        with torch.no_grad():
            losses[beta] = float(functional.cross_entropy(small(data["x_test"]), data["y_test"]))
        print({"beta": beta, "loss": losses[beta]}, flush=True)
    return {"chosen": min(losses, key=losses.__getitem__), "loss_by_beta": losses, "share": share}


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


def trained(seed: int, data: dict[str, Tensor], arguments: argparse.Namespace, validate: bool) -> LeNet:
    """Return the uncut network of a seed, from the folder where it is there."""
    torch.manual_seed(seed)
    network, file = LeNet(), arguments.kept / f"lenet_{seed}{'_validated' if validate else ''}.pt"
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
    before = before if before.get("settings") == settings else {"rows": []}
    price: dict[str, Any] = before.get("price", {})
    if not price and any(WAYS[way].allocator is None for way in arguments.ways):
        price = choose_beta(arguments.data, arguments)
    # Rows at another price are of no use.
    rows = [row for row in before["rows"] if row.get("beta") == beta_of(row["way"], price)]
    for seed in range(arguments.seeds):
        left = [way for way in arguments.ways if not any((row["seed"], row["way"]) == (seed, way) for row in rows)]
        if not left:
            continue
        whole = trained(seed, data, arguments, arguments.validate)
        wanted = said_by(whole, data["views"])
        base = {"way": "uncut", "budget": 1.0, "cost_share": 1.0, "widths": [20, 50, 500, 10], "seed": seed}
        base["error_percent"] = error(whole, data["x_test"], data["y_test"])
        rows = [row for row in rows if (row["seed"], row["way"]) != (seed, "uncut")] + [base]
        print(base, flush=True)
        for name in left:
            if time.perf_counter() - started > arguments.seconds:
                return
            torch.manual_seed(seed)
            found = measure(name, beta_of(name, price), whole, wanted, data, arguments)
            rows += [row | {"seed": seed} for row in found]
            if not arguments.validate:
                content = {"rows": rows, "price": price, "operations": operations(whole), "settings": settings,
                           "machine": machine_facts().model_dump()}  # fmt: skip
                RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
