"""Cut trained networks to a half, a quarter and a tenth, train all of them equally, and compare.

Each way of `pruning_ways` that is compared makes its networks of the same calibration pictures; all settle, and then
take the same steps of the same fine-tuning (`healing`), with distillation from the uncut network, on the same pictures
in the same order. Every seed draws calibration pictures and steps anew. The learning rate is the one of three with
which networks of uniform width end best, the same for all ways: the choice is the baseline's. It is made on a tenth of
the training pictures, which these trials neither cut by nor learn from; no way ever chooses anything on test pictures.
``ours`` are the defaults; the ablation takes away or exchanges one part of the cut at once at a time. A way that cannot
reach a budget says so in its row. Accuracy is that on CIFAR-10's test set; of the ImageNet pictures each seed tests on
another third and learns from the others, and nobody sees more.

Rows are made by ``--workers`` processes that share a device, the most telling first, and written one by one to
``rows.jsonl`` in ``--out``: what is not done after ``--seconds`` is left, and a rerun goes on from there. The networks
of the first seed are kept beside them, in half precision, and packed into ``networks.tar``. `pruning_latency` times
them, and writes results/pruning_healed.json and .png.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_healed.py --weights models/cifar10_resnet_akamaster --cifar10 cifar10 --out /tmp/healed
    python benchmarks/pruning_healed.py --weights models --imagenet imagenet_val1300 --out /tmp/healed

Without a GPU few steps are possible; ``--steps`` and ``--ratios`` say how many and what is left out:

    python benchmarks/pruning_healed.py --weights models/cifar10_resnet_akamaster --cifar10 cifar10 --out /tmp/healed \
        --networks resnet20 --steps 120 --batch-size 64 --test 5000 --ways ours "uniform*" "Torch-Pruning*"
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import tarfile
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from healing import Healing
from pictures_on_device import DevicePictures, Draws, decode_cifar10, decode_imagenet
from pruning_ways import DEFAULT, SUBJECTS, Evidences, Ours, accuracy, ours, peer, peers, settled
from torch import Tensor, nn

from secateur.artifacts import Batch, Model
from secateur.errors import BudgetError
from secateur.pipeline.structure.storage import save_model

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
LARGEST_TAR = 15 << 20


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What one process needs for its rows, made when it is first asked for."""

    arguments: argparse.Namespace

    @cached_property
    def device(self) -> torch.device:
        """Where everything lies."""
        return torch.device(self.arguments.device)

    @lru_cache(maxsize=4)  # noqa: B019 (lives as long as the process)
    def pictures(self, kind: str, seed: int) -> tuple[DevicePictures, DevicePictures]:
        """Return training and test pictures, once the first process has decoded them."""
        path = self.arguments.out / f"{kind}.npz"
        while not path.exists():
            time.sleep(0.2)
        held = np.load(path)
        if kind == "cifar10":
            train, test = ((held[f"{part}_pixels"], held[f"{part}_labels"]) for part in ("train", "test"))
            num_test, margin = self.arguments.test, 4
        else:
            third = len(held["labels"]) // 3
            turned = np.roll(np.arange(len(held["labels"])), -seed * third)
            (test, train), num_test, margin = (
                ((held["pixels"][i], held["labels"][i]) for i in np.split(turned, [third])), None, 16,
            )  # fmt: skip
        return (
            DevicePictures.of(*train, margin, self.device),
            DevicePictures.of(test[0][:num_test], test[1][:num_test], margin, self.device),
        )

    def parts(self, source: Source) -> tuple[DevicePictures, DevicePictures]:
        """Return training and test pictures."""
        small = source.network == "mobilenet_v2"
        train, test = self.pictures("imagenet", source.seed) if small else self.pictures("cifar10", 0)
        return train.split(len(train) - len(train) // 10) if source.held_out else (train, test)

    @cache  # noqa: B019
    def network(self, name: str) -> nn.Module:
        """Return the uncut network."""
        return SUBJECTS[name].build(self.arguments.weights).to(self.device)

    @cache  # noqa: B019
    def samples(self, source: Source) -> list[Batch]:
        """Return the calibration pictures."""
        return self.parts(source)[0].batches(32, limit=self.arguments.calibration, seed=source.seed)

    @cache  # noqa: B019
    def evidence(self, source: Source) -> Evidences:
        """Return what our signals look at."""
        network = source.network
        return Evidences(SUBJECTS[network], self.network(network), self.samples(source), source.seed)

    def trial(self, job: Job) -> Path:
        """Return where the accuracy of a learning rate is written."""
        return self.arguments.out / f"rate-{job.file}-{job.rate:g}"

    @cache  # noqa: B019
    def rate(self, network: str) -> float:
        """Return the best learning rate, once all have been tried."""

        def trials(rate: float) -> list[Path]:
            return [self.trial(Job(network=network, way="uniform width, l2", ratio=ratio, seed=0, rate=rate))
                    for ratio in TUNED[network]]  # fmt: skip

        found = {rate: trials(rate) for rate in RATES[network]}
        while not all(path.exists() for paths in found.values() for path in paths):
            time.sleep(0.2)
        return max(found, key=lambda rate: sum(float(path.read_text()) for path in found[rate]))

    def healing(self, network: str) -> Healing:
        """Return the fine-tuning of a network, its learning rate aside; it is the same for all seeds."""
        arguments = self.arguments
        small = network == "mobilenet_v2"
        batch_size = 64 if small else arguments.batch_size
        epochs = arguments.imagenet_epochs if small else arguments.epochs
        per_epoch = len(self.parts(Source(network=network, seed=0))[0]) // batch_size
        return Healing(
            num_steps=arguments.steps or max(1, epochs * per_epoch), batch_size=batch_size,
            learning_rate=RATES[network][0], graphs=arguments.graphs,
        )  # fmt: skip

    @lru_cache(maxsize=4)  # noqa: B019
    def lessons(self, source: Source) -> tuple[Draws, Tensor]:
        """Return what all ways learn from; the first process that wants the teacher's outputs computes them."""
        healing, (train, _), network = self.healing(source.network), self.parts(source), self.network(source.network)
        kind = "trial" if source.held_out else "row"
        draws = healing.draws(train, source.seed)
        path = self.arguments.out / f"taught-{source.network}-{kind}-{source.seed}.pt"
        try:
            os.close(os.open(path.with_suffix(".started"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            while not path.exists():
                time.sleep(0.1)
        else:
            partial = path.with_name(path.name + ".part")
            try:
                torch.save(healing.teach(network, train, draws).cpu(), partial)
            except Exception:
                path.with_suffix(".started").unlink()  # another process may try
                raise
            partial.replace(path)
        return draws, torch.load(path, weights_only=True).to(self.device)

    def row(self, job: Job) -> dict[str, Any]:
        """Cut, train and measure one network."""
        subject, uncut = SUBJECTS[job.network], self.network(job.network)
        train, tested = self.parts(job.source)
        test = tested.batches(500 if subject.side < 100 else 100)
        facts = _facts(job)
        torch.backends.cudnn.allow_tf32 = False
        start = time.perf_counter()
        if job.way == "uncut":
            self.keep(job, uncut)
            return facts | {"macs": subject.macs(uncut), "accuracy": accuracy(uncut, test), "num_test": _num(test)}
        budget = math.floor(subject.macs(uncut) / job.ratio)
        small = self.cut(job, budget)
        if small is None:
            return facts | {"unreachable": f"no network within {budget:,} multiply-adds"}
        facts |= {"macs": subject.macs(small), "parameters": sum(p.numel() for p in small.parameters())}
        facts |= {"accuracy_before": accuracy(small, test), "cut_s": time.perf_counter() - start}
        draws, taught = self.lessons(job.source)
        healing = replace(self.healing(job.network), learning_rate=job.rate or self.rate(job.network))
        if job.way == "no distillation":
            healing = replace(healing, soft=0.0)
        start = time.perf_counter()
        torch.backends.cudnn.allow_tf32 = True
        healing(small, subject.task, train, draws, taught)
        torch.backends.cudnn.allow_tf32 = False
        facts |= {"accuracy": accuracy(small, test), "finetune_s": time.perf_counter() - start}
        if job.rate is None:
            self.keep(job, small)
        return facts | {
            "num_test": _num(test), "steps": healing.num_steps, "batch_size": healing.batch_size,
            "learning_rate": healing.learning_rate,
        }  # fmt: skip

    def cut(self, job: Job, budget: int) -> nn.Module | None:
        """Return the network cut in the way of the job; None where it cannot get so small."""
        subject, uncut, samples = SUBJECTS[job.network], self.network(job.network), self.samples(job.source)
        if job.way in peers():
            left = peer(peers()[job.way], subject, uncut, budget, samples)
            return left if left is None else settled(left, samples, subject.task.loss)
        way = {**COMPARED, **ABLATION}[job.way]
        try:
            return ours(way, uncut, budget, samples, self.evidence(job.source))
        except BudgetError as error:
            print(f"{job}: {error}", flush=True)
            return None

    def keep(self, job: Job, network: nn.Module) -> None:
        """Write a network of the first seed to disk, where it is to be timed."""
        if job.seed == 0 and job.way not in ABLATION:
            halved = Model(module=network, example_inputs=SUBJECTS[job.network].example()).clone()
            save_model(replace(halved, module=halved.module.cpu().half()), self.arguments.out / "networks" / job.file)


def _facts(job: Job) -> dict[str, Any]:
    """Return what tells a row from the others."""
    facts = {name: value for name, value in vars(job).items() if value is not None}
    return facts | ({"ablation": True} if job.way in ABLATION else {})


def _num(test: list[Batch]) -> int:
    return sum(len(targets) for _, targets in test)


def work(arguments: argparse.Namespace, todo: list[Job], taken: Any, end: float) -> None:
    """Make rows until none is left or the time is up."""
    torch.set_num_threads(1)
    own = Work(arguments=arguments)
    while time.time() < end:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(todo):
            return
        job, start = todo[number], time.perf_counter()
        try:
            row = own.row(job)
        except Exception as error:  # one row less must not end the others
            row = _facts(job) | {"failed": f"{type(error).__name__}: {error}"}
        row["row_s"] = time.perf_counter() - start
        if job.rate is not None:
            _write(own.trial(job), str(row.get("accuracy", 0.0)))
        with (arguments.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    partial.replace(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were made."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def decode(arguments: argparse.Namespace) -> None:
    """Decode the pictures that are wanted, for all processes."""
    for kind, folder, decoded in (
        ("cifar10", arguments.cifar10, decode_cifar10), ("imagenet", arguments.imagenet, decode_imagenet),
    ):  # fmt: skip
        path = arguments.out / f"{kind}.npz"
        if folder and not path.exists():
            partial = path.with_suffix(".part.npz")
            np.savez(partial, **decoded(folder, arguments.num))
            partial.replace(path)


def pack(folder: Path, todo: list[Job]) -> None:
    """Pack the kept networks, the most telling first, as far as they fit."""
    left = LARGEST_TAR
    with tarfile.open(folder / "networks.tar", "w") as tar:
        for job in todo:
            path = folder / "networks" / job.file
            size = sum(file.stat().st_size + 1024 for file in path.glob("*.*"))
            if job.seed == 0 and 0 < size <= left:
                tar.add(path, arcname=path.name)
                left -= size


def main() -> None:
    """Make the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--imagenet-epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="in place of epochs")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--num", type=int, help="pictures of each part, all where absent")
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--ways", nargs="*", help="patterns of names; all where absent")
    parser.add_argument("--ratios", type=float, nargs="*", default=list(RATIOS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--graphs", action="store_true", help="record a step on the GPU and play it")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    arguments = parser.parse_args()
    end = time.time() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = [n for n in arguments.networks if (arguments.imagenet if n == "mobilenet_v2" else arguments.cifar10)]
    done = {_place(row) for row in read_rows(arguments.out / "rows.jsonl") if "failed" not in row}
    everything = jobs(names, arguments.seeds)
    todo = [job for job in everything if _place(vars(job)) not in done and _wanted(job, arguments)]
    for started in arguments.out.glob("taught-*"):
        started.unlink()  # of other settings, or left by a run that was stopped
    context = multiprocessing.get_context("spawn")
    taken = context.Value("i", 0)
    processes = [
        context.Process(target=work, args=(arguments, todo, taken, end), daemon=True) for _ in range(arguments.workers)
    ]
    for process in processes:
        process.start()
    decode(arguments)
    for process in processes:
        process.join(None if math.isinf(end) else max(0.0, end - time.time()))
    for process in processes:
        process.kill()
        process.join()
    pack(arguments.out, everything)
    facts = {
        "epochs": arguments.epochs, "imagenet_epochs": arguments.imagenet_epochs, "steps": arguments.steps,
        "device": _device(arguments.device),
        "num_calibration": arguments.calibration, "torch": torch.__version__, "torch_pruning": version("torch-pruning"),
    }  # fmt: skip
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{len(read_rows(arguments.out / 'rows.jsonl'))} of {len(everything)} rows", flush=True)


def _wanted(job: Job, arguments: argparse.Namespace) -> bool:
    """Tell whether a row was asked for; those that choose the learning rate and the uncut networks always are."""
    named = any(fnmatch(job.way, pattern) for pattern in arguments.ways or ["*"])
    return job.rate is not None or job.way == "uncut" or (named and job.ratio in arguments.ratios)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from the others."""
    return row["network"], row["way"], row["ratio"], row["seed"], row.get("rate")


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name == "cuda" else name


if __name__ == "__main__":
    main()
