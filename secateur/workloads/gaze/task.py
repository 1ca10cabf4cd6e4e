"""Gaze prediction as a task: the likelihood of fixations, its metrics, distillation and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from secateur.artifacts import Metric, Task
from secateur.errors import DataError, LoadError
from secateur.workloads.gaze.centre_bias import fitted_centre_bias, gaussian_centre_bias
from secateur.workloads.gaze.illustration import illustrate
from secateur.workloads.gaze.metrics import (
    Maps,
    Scores,
    correlation,
    divergence,
    information_gain,
    log_likelihood,
    mean_log_density,
    nss,
    similarity,
)
from secateur.workloads.gaze.network import GRID_SIZE
from secateur.workloads.gaze.readers import read_named
from secateur.workloads.gaze.recording import split_pictures
from secateur.workloads.gaze.roc import auc, shuffled_auc

__all__ = ["task", "task_of"]

DEGREE = 0.03
"""What is taken for a degree of visual angle: this share of the picture's width, as in OSIE."""


def task(
    centre_bias: Float[Tensor, "rows columns"] | None = None, elsewhere: Float[Tensor, "rows columns"] | None = None
) -> Task:
    """Return the task of predicting fixations: outputs are log-densities over a grid, targets the counts in its cells.

    The loss is the negative log-likelihood of a picture's fixations, nats a fixation. Metrics: AUC against all cells
    (primary), NSS, information gain over ``centre_bias``, a log-density in nats (default: an analytic Gaussian), the
    log-likelihood over the uniform density, and correlation, similarity and divergence (KL) with fixations blurred by
    a degree. Given ``elsewhere``, the counts of fixations in other pictures, also the AUC against these.
    """
    gain = Measured(measure=GainOver(baseline=centre_bias))
    metrics = {
        "auc": Metric(per_sample=Measured(measure=auc)),
        "nss": Metric(per_sample=Measured(measure=nss)),
        "information_gain": Metric(per_sample=gain, unit="bit/fixation"),
        "log_likelihood": Metric(per_sample=Measured(measure=log_likelihood), unit="bit/fixation"),
        "correlation": Metric(per_sample=Measured(measure=Blurred(measure=correlation))),
        "similarity": Metric(per_sample=Measured(measure=Blurred(measure=similarity))),
        "divergence": Metric(
            per_sample=Measured(measure=Blurred(measure=divergence)), higher_is_better=False, unit="nat"
        ),
    }
    if elsewhere is not None:
        metrics["shuffled_auc"] = Metric(per_sample=Measured(measure=AreaAgainst(elsewhere=elsewhere)))
    return Task(
        name="gaze",
        loss=fixation_loss,
        metrics=metrics,
        primary="auc",
        distill=density_divergence,
        sampled_loss=sampled_fixation_loss,
        illustrate=illustrate,
        log_probabilities=softened,
    )


def task_of(sets: Sequence[str], *, seed: int = 0) -> Task:
    """Return the task with what other pictures tell: centre bias and fixations of the sets' training parts.

    Sets are named as in `secateur.workloads.gaze.combined`; each is split by ``seed``. Adds the shuffled AUC.
    """
    if not sets:
        raise DataError("gaze task", "no set", "the sets whose training parts are the baseline", "Name one or more.")
    found = [read_named(entry) for entry in sets]
    counts = np.concatenate(
        [
            each.fixations.counts(len(each.files), GRID_SIZE)[split_pictures(len(each.files), seed).train]
            for each in found
        ]
    )
    return task(fitted_centre_bias(counts), torch.from_numpy(counts.sum(axis=0)))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Check outputs and targets, then measure; log-densities that do not sum to 1 would make every measure a lie."""

    measure: Callable[[Maps, Maps], Scores]

    def __call__(self, outputs: Any, targets: Any) -> Scores:
        """Return the measure of every picture."""
        log_density, counts = checked(outputs, targets)
        total = log_density.flatten(1).logsumexp(1)
        worst = int(total.abs().argmax())
        if not abs(float(total[worst])) < 1e-2:
            raise LoadError(
                "network outputs", f"a map whose exponential sums to {float(total[worst].exp()):.4g}",
                "log-densities: exp(outputs) sums to 1 in every map",
                "End the network in log_softmax over all cells.",
            )  # fmt: skip
        if not bool((counts.flatten(1).sum(1) > 0).all()):
            raise DataError(
                "targets", "a picture without fixations", "at least one fixation a picture",
                "Leave such pictures out of the data set.",
            )  # fmt: skip
        return self.measure(log_density, counts)


@dataclass(frozen=True, kw_only=True)
class GainOver:
    """Give the information gain over a baseline; without one, over the analytic centre bias on the maps' own grid."""

    baseline: Float[Tensor, "rows columns"] | None = None

    def __call__(self, log_density: Maps, counts: Maps) -> Scores:
        """Return bit a fixation, one value a picture."""
        rows, columns = log_density.shape[1:]
        baseline = gaussian_centre_bias(grid=(rows, columns)) if self.baseline is None else self.baseline
        return information_gain(log_density, counts, baseline.to(log_density))


@dataclass(frozen=True, kw_only=True)
class AreaAgainst:
    """Give the area under the ROC curve against where people looked in other pictures."""

    elsewhere: Float[Tensor, "rows columns"]

    def __call__(self, log_density: Maps, counts: Maps) -> Scores:
        """Return one value a picture."""
        return shuffled_auc(log_density, counts, self.elsewhere.to(counts))


@dataclass(frozen=True, kw_only=True)
class Blurred:
    """Compare with fixations blurred by a degree of visual angle, as maps of fixations are published."""

    measure: Callable[[Maps, Maps], Scores]

    def __call__(self, log_density: Maps, counts: Maps) -> Scores:
        """Return one value a picture."""
        deviation = DEGREE * counts.shape[2]
        down, across = (_gaussians(num, deviation).to(counts) for num in counts.shape[1:])
        return self.measure(log_density, down @ counts @ across.T)


def _gaussians(num: int, deviation: float) -> Float[Tensor, "cells cells"]:
    """Return the matrix that blurs a line of cells; what would leave the line stays in it."""
    cells = torch.arange(num)
    return torch.softmax(-0.5 * ((cells[:, None] - cells) / deviation) ** 2, dim=0)


def fixation_loss(outputs: Any, targets: Any) -> Scores:
    """Return -sum counts log p / sum counts for every picture, nats a fixation."""
    return -mean_log_density(*checked(outputs, targets))


def density_divergence(log_density: Maps, teacher_log_density: Maps, temperature: float) -> Scores:
    """Return T^2 KL(teacher || student) of the densities softened by T, nats.

    Softening is p^(1/T) normalised again; the factor T^2 keeps the gradient's size (Hinton et al. 2015, 1503.02531).
    """
    student, teacher = (softened(density, temperature) for density in (log_density, teacher_log_density))
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(1)


def sampled_fixation_loss(log_density: Maps, temperature: float, generator: torch.Generator) -> Scores:
    """Draw one fixation a picture from the softened density and return its softened negative log-likelihood."""
    log_chances = softened(log_density, temperature)
    # Drawn where the generator lives, so that one seed draws the same fixations on every device.
    drawn = torch.multinomial(log_chances.detach().exp().to(generator.device), 1, generator=generator)
    return -log_chances.gather(1, drawn.to(log_chances.device)).squeeze(1)


def checked(outputs: Any, targets: Any) -> tuple[Maps, Maps]:
    """Return log-densities in single precision and counts; LoadError or DataError where their shapes are wrong."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 3:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise LoadError(
            "network outputs", found, "log-densities [batch, rows, columns]",
            "Give a network that returns one log-density over a grid a picture.",
        )  # fmt: skip
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape or not targets.is_floating_point():
        found = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise DataError(
            "targets", found.removeprefix("torch."), f"floating-point fixation counts {tuple(outputs.shape)}",
            "Count fixations in the cells of the network's output grid.",
        )  # fmt: skip
    return outputs.float(), targets


def softened(log_density: Maps, temperature: float) -> Float[Tensor, "batch cells"]:
    """Return the log of p^(1/T), normalised over the cells, nats."""
    return torch.log_softmax(log_density.float().flatten(1) / temperature, dim=1)
