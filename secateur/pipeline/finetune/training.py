"""One training under way: epochs, validation, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from secateur.artifacts import Batch, FinetuneEpoch, FinetuneResult, as_tuple
from secateur.calibration.batches import batch_size_of, batches, collate, evaluate, to_device
from secateur.calibration.observe import observing
from secateur.errors import TrainingError
from secateur.pipeline.finetune.checkpoint import Checkpoint, Position, state_of, write_state
from secateur.pipeline.finetune.loss import DistillationLoss, LossParts
from secateur.pipeline.finetune.progress import Progress
from secateur.pipeline.finetune.randomness import NumberedItems, SeededItems, order_of_epoch, seed_step

__all__ = ["Plan", "Training"]

PARTS = LossParts._fields


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training does: how many steps in which batches, and how often it is written down."""

    num_steps: int
    steps_per_epoch: int
    batch_size: int
    rate: Callable[[int], float]
    clip_norm: float | None
    num_workers: int
    checkpoint_every_s: float
    seed: int

    @property
    def num_epochs(self) -> int:
        """The number of epochs, the last of which may be cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)


@dataclass(kw_only=True)
class Training:
    """A student, its optimiser and how far it has come; `run` trains it to the end of the plan.

    The student is in eval mode meanwhile, except for ``norms``: no dropout stands between its features and its
    teacher's, and networks that return something else in training mode do not. A cut network has no capacity to spare.

    Every draw of random numbers is a function of the seed and the position (see `randomness`), and the position is
    written together with the weights: a training that is taken up ends bit for bit as if it had not been interrupted.
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
    best: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> FinetuneResult:
        """Train to the end, and leave the student with the best epoch's weights."""
        self._train_mode()
        resumed = self.checkpoint and self.checkpoint.load(self.student, self.optimizer, self.position.fingerprint)
        if resumed:
            self.position, self.best = resumed
        else:
            self.best = state_of(self.student)
            self._look_before()
        optimizer = self.accelerator.prepare(self.optimizer)
        if self.position.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.position.scaler)
        while self.position.step < self.plan.num_steps:
            self._epoch(optimizer)
        write_state(self.student, self.best)
        return FinetuneResult(epochs=self.position.epochs, best_epoch=self.position.best_epoch)

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
            for inputs, targets in batches(self.validation, self.plan.batch_size):
                batch = batch_size_of(inputs)
                for name, value in self._parts((inputs, targets))[1].items():
                    sums[name] += value * batch
                num_samples += batch
        self._describe_epoch(0, {name: value / num_samples for name, value in sums.items()}, 0.0)

    def _epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """Train to the end of the epoch under way, validate, and write the checkpoint."""
        plan, written = self.plan, time.monotonic()
        epoch = self.position.step // plan.steps_per_epoch + 1
        last = min(epoch * plan.steps_per_epoch, plan.num_steps)
        rate = 0.0
        for batch in self._batches(epoch, last):
            step = self.position.step
            seed_step(plan.seed, step)
            rate = plan.rate(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            parts = self._step(batch, optimizer, f"fine-tuning, epoch {epoch}, step {step + 1}", rate)
            num_samples = batch_size_of(batch[0])
            sums = {name: self.position.sums.get(name, 0.0) + value * num_samples for name, value in parts.items()}
            self.position = self.position.model_copy(
                update={"step": step + 1, "sums": sums, "num_samples": self.position.num_samples + num_samples}
            )
            if step + 1 < last and time.monotonic() - written >= plan.checkpoint_every_s:
                self._save()
                written = time.monotonic()
            self.progress(
                f"fine-tuning, epoch {epoch} of {plan.num_epochs}, loss {parts['total']:.4g}", step + 1, plan.num_steps
            )
        means = {name: value / self.position.num_samples for name, value in self.position.sums.items()}
        self.position = self.position.model_copy(update={"sums": {}, "num_samples": 0})
        self._describe_epoch(epoch, means, rate)
        self._save()

    def _batches(self, epoch: int, last: int) -> Iterator[Batch]:
        """Yield what is left of an epoch."""
        size, per_epoch = self.plan.batch_size, self.plan.steps_per_epoch
        order = order_of_epoch(len(self.part), self.plan.seed, epoch)
        first = (epoch - 1) * per_epoch
        items = SeededItems(dataset=self.part.dataset, indices=self.part.indices, seed=self.part.seed, epoch=epoch)
        yield from DataLoader(
            NumberedItems(items=items),
            batch_sampler=[order[i * size : (i + 1) * size] for i in range(self.position.step - first, last - first)],
            collate_fn=collate,
            num_workers=self.plan.num_workers,
            generator=torch.Generator().manual_seed(self.plan.seed),
        )

    def _parts(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss to descend and all parts as numbers."""
        inputs, targets = to_device(batch, self.accelerator.device)
        parts = self.loss(self.student, as_tuple(inputs), targets)
        values = torch.stack([part.detach().double() for part in parts]).tolist()
        return parts.total, dict(zip(PARTS, values, strict=True))

    def _step(self, batch: Batch, optimizer: torch.optim.Optimizer, where: str, rate: float) -> dict[str, float]:
        """Descend one step and return the parts of the loss."""
        total, parts = self._parts(batch)
        if not all(map(math.isfinite, parts.values())):
            raise _diverged(where, "a loss that is not finite", parts, rate)
        self.accelerator.backward(total)
        trainable = [parameter for parameter in self.student.parameters() if parameter.grad is not None]
        norm = self.accelerator.clip_grad_norm_(trainable, self.plan.clip_norm or math.inf)
        # With scaled losses, steps whose gradients overflow are skipped by the scaler.
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise _diverged(where, "gradients that are not finite", parts, rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return parts

    def _describe_epoch(self, epoch: int, means: dict[str, float], rate: float) -> None:
        """Append an epoch's figures, and remember its weights if it is the best so far (the later one in a tie)."""
        task, metrics = self.loss.task, {}
        if self.validation is not None:
            metrics = evaluate(self.student, task, self.validation, self.plan.batch_size).metrics
        row = FinetuneEpoch(
            epoch=epoch,
            loss=means["total"],
            task_loss=means["task"],
            distillation_loss=means["output"],
            feature_loss=means["feature"],
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
        if self.checkpoint is not None:
            if self.accelerator.scaler is not None:
                self.position = self.position.model_copy(update={"scaler": self.accelerator.scaler.state_dict()})
            self.checkpoint.save(self.student, self.best, self.optimizer, self.position)


def _diverged(where: str, found: str, parts: dict[str, float], rate: float) -> TrainingError:
    said = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    return TrainingError(
        where, f"{found} ({said})", "finite losses and gradients",
        f"Lower learning_rate (here {rate:.3g}), set clip_norm, and look for extreme values in data and targets.",
    )  # fmt: skip
