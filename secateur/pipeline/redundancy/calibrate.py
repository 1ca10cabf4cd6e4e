"""Find the largest tau whose floors a network stands, by measuring it."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from secateur.artifacts import Group, Redundancy, TauCalibration, TauProbe
from secateur.errors import BudgetError, DataError, TrainingError
from secateur.pipeline.redundancy.estimators import Tail, tails

Probe = Callable[[Mapping[str, int]], float]
"""Returns the loss, in nats where it is a log-likelihood, that is measured at these widths by group."""


def calibrate_tau(
    redundancy: Redundancy,
    groups: Sequence[Group],
    probe: Probe,
    *,
    loss_before: float,
    loss_increase: float,
    num_samples: int,
) -> tuple[float, TauCalibration]:
    """Return a tau whose floors cost at most ``loss_increase`` in measured loss while those of the next one cost more.

    ``redundancy`` holds gate-gradient spectra of these groups; its own tau does not matter. Widths change only where
    tau passes a tail at which some group's allowed width falls; among these steps tau is bisected. The loss need not be
    monotone in tau: what holds is that it was measured at the tau returned, and was too much at the step after it, if
    there is one. ``loss_before`` is that of the uncut network on the ``num_samples`` that ``probe`` measures on.

    Raises BudgetError where the first step costs too much already, DataError for spectra that are not in nats,
    TrainingError where a loss is not finite.
    """
    if redundancy.matrix != "gate":
        raise DataError(
            "calibration of tau", f"spectra of the {redundancy.matrix} matrix", "those of gate gradients, in nats",
            "Estimate with matrix: gate.",
        )  # fmt: skip
    spectra = {group.name: torch.tensor(group.spectrum, dtype=torch.float64) for group in redundancy.groups}
    steps = _steps(spectra, groups)
    made: list[TauProbe] = []

    def stands(tau: float) -> bool:
        count = Tail(threshold=tau)
        loss = probe({g.name: g.allowed_width(count(spectra[g.name], redundancy.num_samples)) for g in groups})
        if not math.isfinite(loss):
            raise TrainingError(
                f"calibration of tau, tau={tau:.3g}", f"a loss of {loss}", "a finite loss", "Check the samples."
            )
        made.append(TauProbe(tau=tau, loss=loss))
        return loss <= loss_before + loss_increase

    low, high = -1, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if stands(steps[middle]) else (low, middle)
    if low < 0:
        first = f"{made[-1].loss - loss_before:.3g} more loss at the first step, tau={made[-1].tau:.3g}" if made else ""
        raise BudgetError(
            "calibration of tau", first or "no channel that can go", f"at most {loss_increase:.3g} more",
            "Allow more estimate.loss_increase, raise estimate.samples, or give tau as a number.",
        )  # fmt: skip
    loss = next(done.loss for done in made if done.tau == steps[low])
    return steps[low], TauCalibration(
        loss_increase=loss_increase, loss_before=loss_before, loss=loss, num_samples=num_samples, probes=tuple(made)
    )


def _steps(spectra: Mapping[str, torch.Tensor], groups: Sequence[Group]) -> list[float]:
    """Return the values of tau, ascending, at which the allowed width of some group falls."""
    found = set[float]()
    for group in groups:
        left_out = tails(spectra[group.name]).tolist()
        widths = [group.allowed_width(max(1, group.num_channels - k)) for k in range(group.num_channels + 1)]
        found |= {tau for k, tau in enumerate(left_out) if widths[k + 1] < widths[k]}
    return sorted(found)
