r"""Maximise the area under the ROC curve in several processes that seldom speak to each other.

The square surrogate of the area over pairs, mean (1 - h(+) + h(-))^2, is a saddle point that needs no pairs (Ying et
al. 2016; Guo et al. 2020, arXiv 2005.02426, CODA):

.. math:: \min_{a,b}\max_\alpha\; E_+[(h-a)^2] + E_-[(h-b)^2] + 2(1+\alpha)(E_-[h] - E_+[h]) - \alpha^2 + 1

with h the scores and E over the samples of either class. At the optimum a and b are the classes' mean scores and alpha
their difference b - a. Every process takes steps on batches of its own; only every so many steps are the weights, a, b
and alpha averaged over the processes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.artifacts import Batch, as_tuple
from secateur.calibration.batches import device_of, to_device
from secateur.calibration.processes import num_processes, total
from secateur.errors import TrainingError

__all__ = ["Classes", "Coda", "CodaResult", "MinMaxAuc"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """Scores and what each counts among the positives and among the negatives; both sum to 1 on average over batches.

    All have one shape. A score may count in neither, or in both by parts.
    """

    scores: Float[Tensor, "..."]
    positives: Float[Tensor, "..."]
    negatives: Float[Tensor, "..."]


class MinMaxAuc(nn.Module):
    """The saddle function: to be minimised in ``a``, ``b`` and what made the scores, maximised in ``alpha``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.alpha = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, classes: Classes) -> Float[Tensor, ""]:
        """Return the function's value; at its saddle point the mean of (1 - h(+) + h(-))^2 over all pairs."""
        h = classes.scores
        lean = 2 * (1 + self.alpha) * h
        positive = (classes.positives * ((h - self.a) ** 2 - lean)).sum()
        negative = (classes.negatives * ((h - self.b) ** 2 + lean)).sum()
        return positive + negative - self.alpha**2 + 1


@dataclass(frozen=True, kw_only=True)
class CodaResult:
    """What a training took and where it ended; ``losses`` are the stages' mean values of the saddle function."""

    num_steps: int
    num_rounds: int
    sent_bytes: int
    losses: tuple[float, ...]
    a: float
    b: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class Coda:
    """Train in stages of proximal steps, averaging over the processes every ``interval`` steps (CODA, algorithm 1).

    Stage s has ``num_steps`` 3^s steps of ``learning_rate`` / 3^s, each pulled towards where the stage began by
    1 / ``gamma``, and ends at the average of the places that it passed. Alpha starts each stage at the difference of
    the classes' mean scores on ``num_start`` batches. With ``interval`` 1 it is ordinary parallel training.
    """

    num_stages: int = 3
    num_steps: int = 100
    interval: int = 16
    learning_rate: float = 0.1
    gamma: float = 2000.0
    num_start: int = 4

    def __post_init__(self) -> None:
        if min(self.num_stages, self.num_steps, self.interval, self.num_start) < 1 or self.learning_rate <= 0:
            raise TrainingError(
                "CODA", f"{self}", "at least one stage, step and batch, an interval of at least 1 and a positive rate",
                "Raise what is too low.",
            )  # fmt: skip

    def __call__(
        self, module: nn.Module, batches: Iterator[Batch], classes: Callable[[Any, Any], Classes]
    ) -> CodaResult:
        """Train a module in place on batches without end, this process's own.

        ``classes(outputs, targets)`` gives a batch's scores and what they count. All processes call it alike; they hold
        the same weights afterwards. Buffers, such as running statistics, are averaged with the weights. Raises
        TrainingError where the loss is not finite.
        """
        device = device_of(module)
        saddle = MinMaxAuc().to(device)
        exchange = _Exchange()
        weights = [p for p in module.parameters() if p.requires_grad]
        lower, everything = [*weights, saddle.a, saddle.b], [*weights, *saddle.parameters()]
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        module.train()

        def value() -> Tensor:
            inputs, targets = next(batches)
            outputs = module(*to_device(as_tuple(inputs), device))
            return saddle(classes(outputs, to_device(targets, device)))

        step, losses = 0, list[float]()
        exchange.average([*everything, *buffers])
        for stage in range(self.num_stages):
            self._restart(saddle, module, batches, classes, exchange)
            rate, num_steps, reference = self.learning_rate / 3**stage, self.num_steps * 3**stage, _copies(lower)
            passed, seen = [torch.zeros_like(tensor) for tensor in lower], torch.zeros((), device=device)
            for _ in range(num_steps):
                loss = value()
                if not torch.isfinite(loss):
                    raise TrainingError("CODA", f"a loss of {loss.item()}", "a finite loss", "Lower the learning rate.")
                gradients = torch.autograd.grad(loss, [*lower, saddle.alpha])
                with torch.no_grad():
                    for tensor, gradient, start in zip(lower, gradients, reference, strict=False):
                        tensor.sub_(rate * (gradient + (tensor - start) / self.gamma))
                    saddle.alpha.add_(rate * gradients[-1])
                    for mean, tensor in zip(passed, lower, strict=True):
                        mean += tensor / num_steps
                    seen += loss.detach() / num_steps
                step += 1
                if step % self.interval == 0:
                    exchange.average([*everything, *buffers])
            with torch.no_grad():
                for tensor, mean in zip(lower, passed, strict=True):
                    tensor.copy_(mean)
            exchange.average([*everything, *buffers])
            losses.append(float(seen))
        module.eval()
        return CodaResult(
            num_steps=step, num_rounds=exchange.num_rounds, sent_bytes=exchange.sent_bytes, losses=tuple(losses),
            a=saddle.a.item(), b=saddle.b.item(), alpha=saddle.alpha.item(),
        )  # fmt: skip

    @torch.no_grad()
    def _restart(
        self, saddle: MinMaxAuc, module: nn.Module, batches: Iterator[Batch], classes: Callable[[Any, Any], Classes],
        exchange: "_Exchange",
    ) -> None:  # fmt: skip
        """Set a, b and alpha to what is best for the scores as they are."""
        sums, device = torch.zeros(2, device=saddle.alpha.device), saddle.alpha.device
        for _ in range(self.num_start):
            inputs, targets = next(batches)
            found = classes(module(*to_device(as_tuple(inputs), device)), to_device(targets, device))
            sums += torch.stack([(w * found.scores).sum() for w in (found.positives, found.negatives)]) / self.num_start
        exchange.average([sums])
        saddle.a.copy_(sums[0])
        saddle.b.copy_(sums[1])
        saddle.alpha.copy_(sums[1] - sums[0])


@dataclass(kw_only=True)
class _Exchange:
    """Average tensors over the processes in one message, and count."""

    num_rounds: int = 0
    sent_bytes: int = 0

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by their means over the processes."""
        if num_processes() == 1:
            return  # there is nobody to speak to
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        self.num_rounds += 1
        self.sent_bytes += flat.nbytes
        means = total(flat) / num_processes()
        for tensor, mean in zip(tensors, torch.split(means, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]
