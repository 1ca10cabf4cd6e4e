"""How a row of `pruning_healed` is made: pictures, evidence, learning rate and lessons are shared by many rows."""

import argparse
import copy
import math
import os
import time
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from healed_jobs import ABLATION, COMPARED, RATES, Job, Source, facts_of
from healing import Healing
from pictures_on_device import DevicePictures, Draws
from pruning_ways import SUBJECTS, Evidences, accuracy, ours, peer, peers, settled
from torch import Tensor, nn

from secateur.artifacts import Batch, Model
from secateur.errors import BudgetError
from secateur.pipeline.structure.storage import save_model


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
        """Return where the learning rate that a row finds is written."""
        return self.arguments.out / f"rate-{job.file}"

    def rate(self, job: Job) -> float:
        """Return a row's learning rate, once it has been found."""
        while not self.trial(job.tuned).exists():
            time.sleep(0.2)
        return float(self.trial(job.tuned).read_text())

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
        test = self.parts(job.source)[1].batches(500 if subject.side < 100 else 100)
        facts = facts_of(job)
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
        start = time.perf_counter()
        if job.tuning:
            found = {rate: accuracy(self.healed(job, small, rate), test) for rate in RATES[job.network]}
            rate = max(found, key=lambda rate: found[rate])
            return facts | {
                "accuracies": {f"{rate:g}": value for rate, value in found.items()}, "learning_rate": rate,
                "num_test": _num(test), "finetune_s": time.perf_counter() - start,
            }  # fmt: skip
        rate = self.rate(job)
        small = self.healed(job, small, rate)
        facts |= {"accuracy": accuracy(small, test), "finetune_s": time.perf_counter() - start}
        self.keep(job, small)
        healing = self.healing(job.network)
        return facts | {
            "num_test": _num(test), "steps": healing.num_steps, "batch_size": healing.batch_size, "learning_rate": rate,
        }  # fmt: skip

    def healed(self, job: Job, network: nn.Module, rate: float) -> nn.Module:
        """Return a copy of the network that was trained with a learning rate."""
        small, (draws, taught) = copy.deepcopy(network), self.lessons(job.source)
        healing = replace(self.healing(job.network), learning_rate=rate)
        if job.way == "no distillation":
            healing = replace(healing, soft=0.0)
        torch.backends.cudnn.allow_tf32 = True
        healing(small, SUBJECTS[job.network].task, self.parts(job.source)[0], draws, taught)
        torch.backends.cudnn.allow_tf32 = False
        return small

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


def _num(test: list[Batch]) -> int:
    return sum(len(targets) for _, targets in test)
