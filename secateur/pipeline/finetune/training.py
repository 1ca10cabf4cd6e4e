"""One training under way: epochs, validation, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from secateur.artifacts import Batch, FinetuneEpoch, FinetuneResult, as_tuple
from secateur.calibration.batches import batch_size_of, batches, collate, evaluate, to_device
from secateur.calibration.finite import num_not_finite
from secateur.calibration.observe import observing
from secateur.calibration.processes import mean, num_processes, rank
from secateur.errors import TrainingError
from secateur.pipeline.finetune.averaging import WeightAverage
from secateur.pipeline.finetune.checkpoint import Checkpoint, Position, named_tensors, state_of, write_state
from secateur.pipeline.finetune.gradients import share_gradients
from secateur.pipeline.finetune.loss import DistillationLoss, LossParts
from secateur.pipeline.finetune.progress import Progress
from secateur.pipeline.finetune.randomness import NumberedItems, SeededItems, order_of_epoch, seed_step
from secateur.pipeline.finetune.soft_targets import SoftTargets, unmixed
from secateur.pipeline.finetune.synchronised_norm import synchronised

__all__ = ["Plan", "Training"]

PARTS = LossParts._fields


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training does: how many steps in which batches, and how often it is written down.

    Every process takes ``share`` samples a step, ``batch_size`` where the set has so many. Where the training goes on
    from another one, that took the steps before ``first``, which is where this one's begin.
    """

    num_steps: int
    first: int
    steps_per_epoch: int
    batch_size: int
    share: int
    rate: Callable[[int], float]
    clip_norm: float | None
    num_workers: int
    checkpoint_every_s: float
    seed: int

    @property
    def num_epochs(self) -> int:
        """The number of epochs, the last of which may be cut short."""
        return math.ceil(self.last / self.steps_per_epoch)

    @property
    def last(self) -> int:
        """The steps of this training and of those before it."""
        return self.first + self.num_steps


@dataclass(kw_only=True)
class Training:
    """A student, its optimiser and how far it has come; `run` trains it to the end of the plan.

    The student is in eval mode meanwhile, except for ``norms``: no dropout stands between its features and its
    teacher's, and networks that return something else in training mode do not. A cut network has no capacity to spare.

    Every draw of random numbers is a function of the seed and the position (see `randomness`), and the position is
    written together with the weights: a training that is taken up ends bit for bit as if it had not been interrupted.

    In several processes each takes its share of every batch; gradients, losses and batch statistics are those of all
    shares together, so that all processes hold the same weights. The first one writes and tells.
    """

    student: nn.Module
    norms: list[_BatchNorm]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    loss: DistillationLoss
    part: SeededItems
    validation: SeededItems | None
    plan: Plan
    checkpoint: Checkpoint | None
    progress: Progress
    position: Position
    targets: SoftTargets = field(default_factory=SoftTargets)
    average: WeightAverage | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> FinetuneResult:
        """Train to the end, and leave the student with the best epoch's weights."""
        with synchronised(self.norms):
            return self._run()

    def _run(self) -> FinetuneResult:
        self._train_mode()
        resumed = self.checkpoint and self.checkpoint.load(self.student, self.optimizer, self.position.fingerprint)
        if resumed:
            self.position, self.best, average = resumed
            if self.average is not None:
                self.average.restore(average)
        self._require_same_start()
        if not resumed:
            self.best = state_of(self.student)
            self._look_before()
        optimizer = self.accelerator.prepare(self.optimizer)
        if self.position.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.position.scaler)
        while self.position.step < self.plan.last:
            self._epoch(optimizer)
        write_state(self.student, self.best)
        return FinetuneResult(epochs=self.position.epochs, best_epoch=self.position.best_epoch)

    def _require_same_start(self) -> None:
        """Raise TrainingError where processes found different checkpoints."""
        step = torch.tensor(float(self.position.step), dtype=torch.float64, device=self._exact_device)
        if float(mean(step)) != self.position.step:
            raise TrainingError(
                "fine-tuning in several processes", f"step {self.position.step} in the checkpoint of process {rank()}",
                "the same checkpoint in all", "Give all processes the same checkpoint folder.",
            )  # fmt: skip

    @property
    def _exact_device(self) -> torch.device:
        """Where numbers in float64 can be shared: Apple's GPUs have none."""
        device = self.accelerator.device
        return torch.device("cpu") if device.type == "mps" else device

    def _train_mode(self) -> None:
        self.student.eval()
        for norm in self.norms:
            norm.train()

    def _look_before(self) -> None:
        """Describe the student as it was given as epoch 0: no training is kept that ends worse than it began."""
        if self.validation is None:
            return
        sums, num_samples = dict.fromkeys(PARTS, 0.0), 0
        with observing(self.student), torch.no_grad():
            for inputs, targets in batches(self.validation, num_processes() * self.plan.batch_size):
                batch = batch_size_of(inputs)
                for name, value in self._parts((inputs, targets), None)[1].items():
                    sums[name] += value * batch
                num_samples += batch
        self._describe_epoch(0, {name: value / num_samples for name, value in sums.items()}, 0.0)

    def _epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """Train to the end of the epoch under way, validate, and write the checkpoint."""
        plan, written = self.plan, time.monotonic()
        epoch = self.position.step // plan.steps_per_epoch + 1
        last = min(epoch * plan.steps_per_epoch, plan.last)
        rate = 0.0
        for batch in self._batches(epoch, last):
            step = self.position.step
            seed_step(plan.seed, step)
            rate = plan.rate(step - plan.first)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            parts = self._step(batch, optimizer, f"fine-tuning, epoch {epoch}, step {step + 1}", rate)
            num_samples = num_processes() * batch_size_of(batch[0])
            sums = {name: self.position.sums.get(name, 0.0) + value * num_samples for name, value in parts.items()}
            self.position = self.position.model_copy(
                update={"step": step + 1, "sums": sums, "num_samples": self.position.num_samples + num_samples}
            )
            if step + 1 < last and time.monotonic() - written >= plan.checkpoint_every_s:
                self._require_finite(f"fine-tuning, epoch {epoch}, step {step + 1}", rate)
                self._save()
                written = time.monotonic()
            if rank() == 0:
                told = f"fine-tuning, epoch {epoch} of {plan.num_epochs}, loss {parts['total']:.4g}"
                self.progress(told, step + 1 - plan.first, plan.num_steps)
        means = {name: value / self.position.num_samples for name, value in self.position.sums.items()}
        self.position = self.position.model_copy(update={"sums": {}, "num_samples": 0})
        self._require_finite(f"fine-tuning, epoch {epoch}", rate)
        if self.average is None:
            self._describe_epoch(epoch, means, rate)
        else:
            with self.average.in_place_of(self.student):
                self._describe_epoch(epoch, means, rate)
        self._save()

    def _batches(self, epoch: int, last: int) -> Iterator[Batch]:
        """Yield what is left of an epoch, of every batch this process's share."""
        size, per_epoch = self.plan.share, self.plan.steps_per_epoch
        order = order_of_epoch(len(self.part), self.plan.seed, epoch)
        first = (epoch - 1) * per_epoch
        items = SeededItems(dataset=self.part.dataset, indices=self.part.indices, seed=self.part.seed, epoch=epoch)
        yield from DataLoader(
            NumberedItems(items=items),
            batch_sampler=[
                order[i * size : (i + 1) * size]
                for i in (step * num_processes() + rank() for step in range(self.position.step - first, last - first))
            ],
            collate_fn=collate,
            num_workers=self.plan.num_workers,
            generator=torch.Generator().manual_seed(self.plan.seed),
        )

    def _parts(self, batch: Batch, step: int | None) -> tuple[Tensor, dict[str, float]]:
        """Return the loss to descend and all parts as numbers; a step's batch is mixed, where that is wanted."""
        inputs, targets = to_device(batch, self.accelerator.device)
        given = as_tuple(inputs)
        mixture = unmixed(given, targets) if step is None else self.targets.mix(given, targets, self.plan.seed, step)
        parts = self.loss(self.student, mixture)
        values = mean(torch.stack([part.detach().double() for part in parts])).tolist()
        return parts.total, dict(zip(PARTS, values, strict=True))

    def _step(self, batch: Batch, optimizer: torch.optim.Optimizer, where: str, rate: float) -> dict[str, float]:
        """Descend one step and return the parts of the loss."""
        total, parts = self._parts(batch, self.position.step)
        if not all(map(math.isfinite, parts.values())):
            raise self._diverged(where, f"a loss that is not finite ({_said(parts)})", rate)
        self.accelerator.backward(total)
        share_gradients(self.student)
        trainable = [parameter for parameter in self.student.parameters() if parameter.grad is not None]
        norm = self.accelerator.clip_grad_norm_(trainable, self.plan.clip_norm or math.inf)
        # With scaled losses, steps whose gradients overflow are skipped by the scaler.
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise self._diverged(where, f"gradients that are not finite ({_said(parts)})", rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.student.get_parameter(name).mul_(mask)
        if self.average is not None:
            self.average.update(self.student, self.position.step - self.plan.first)
        return parts

    def _describe_epoch(self, epoch: int, means: dict[str, float], rate: float) -> None:
        """Append an epoch's figures, and remember its weights if it is the best so far (the later one in a tie)."""
        task, metrics = self.loss.task, {}
        if self.validation is not None:
            found = evaluate(self.student, task, self.validation, self.plan.batch_size).metrics
            # All processes choose by the same numbers, whatever the last digits of each are.
            shared = mean(torch.tensor(list(found.values()), dtype=torch.float64, device=self._exact_device))
            metrics = dict(zip(found, shared.tolist(), strict=True))
        row = FinetuneEpoch(
            epoch=epoch,
            loss=means["total"],
            task_loss=means["task"],
            distillation_loss=means["output"],
            feature_loss=means["feature"],
            parameter_loss=means["parameter"],
            learning_rate=rate,
            metrics=metrics,
        )
        sign = 1 if task.metrics[task.primary].higher_is_better else -1
        value = sign * metrics.get(task.primary, math.inf)
        known = {row.epoch: row.metrics.get(task.primary, math.inf) for row in self.position.epochs}
        best = known.get(self.position.best_epoch)
        self.position = self.position.model_copy(update={"epochs": (*self.position.epochs, row)})
        if best is None or math.isnan(best) or value >= sign * best or self.validation is None:
            self.position = self.position.model_copy(update={"best_epoch": epoch})
            self.best = state_of(self.student)

    def _save(self) -> None:
        if self.checkpoint is not None and rank() == 0:
            if self.accelerator.scaler is not None:
                self.position = self.position.model_copy(update={"scaler": self.accelerator.scaler.state_dict()})
            average = self.average.state if self.average is not None else {}
            self.checkpoint.save(self.student, self.best, average, self.optimizer, self.position)

    def _require_finite(self, where: str, rate: float) -> None:
        """Raise TrainingError for weights that no checkpoint should hold."""
        for name, tensor in named_tensors(self.student):
            if bad := num_not_finite(tensor):
                raise self._diverged(where, f"{bad} of {tensor.numel()} values of {name} not finite", rate)

    def _diverged(self, where: str, found: str, rate: float) -> TrainingError:
        kept = ""
        if self.checkpoint is not None and self.checkpoint.path.is_file():
            kept = f" The last good checkpoint is {self.checkpoint.path}."
        return TrainingError(
            where, found, "finite losses, gradients and weights",
            f"Lower learning_rate (here {rate:.3g}), set clip_norm, and look for extreme values in data and targets."
            + kept,
        )  # fmt: skip


def _said(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
