"""Estimate how much of a network is superfluous, from the spectra of its gate-gradient Gram matrices.

Implemented from the abstract of Zhou, Lian, Yin and Wang 2022 (arXiv 2206.03596): the singularity of a gradient matrix
bounds how many filters a layer needs, and that bound guides a hierarchical pruning. Matrix, threshold and schedule are
this project's own choices.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group, GroupRedundancy, Redundancy
from secateur.calibration.gram import GateGram
from secateur.errors import DataError
from secateur.pipeline.structure import Structure


def spectrum(gram: Float64[Tensor, "num_channels num_channels"]) -> Float64[Tensor, " num_channels"]:
    """Return half the eigenvalues in nats, descending; rounding below zero is cut off."""
    return (torch.linalg.eigvalsh(gram) / 2).flip(0).clamp_min(0)


def effective_filters(gram: Float64[Tensor, "num_channels num_channels"], tau: float) -> int:
    """Return the number of directions that a group needs, at least 1.

    r(tau) = min { r : sum_{i > r} lambda_i / 2 <= tau } with the eigenvalues lambda of the Gram matrix in descending
    order. To second order, r channels can then take over for all of them, re-scaled, at a loss of about ``tau`` nats:
    if the rank is r, the Schur complement of r independent gates vanishes. One ``tau`` serves the whole network because
    all spectra are in units of the loss.
    """
    return count_effective(spectrum(gram), tau)


def count_effective(values: Float64[Tensor, " num_channels"], tau: float) -> int:
    """Return how many values of a descending spectrum are needed so that the others sum to at most ``tau``."""
    return max(1, len(values) - int((tails(values) <= tau).sum()))


def tails(values: Float64[Tensor, " num_channels"]) -> Float64[Tensor, " num_channels"]:
    """Return what is lost, in nats, without the smallest value of a descending spectrum, the two smallest, and on."""
    return values.flip(0).cumsum(0)


def estimate(structure: Structure, gate_gram: GateGram, tau: float) -> Redundancy:
    """Return the redundancy of a network: effective filters of every group, and the costs if only those were left.

    ``gate_gram`` belongs to the groups of ``structure``; sampled labels at a temperature of 2 to 4 settle the spectra
    with about ten samples a channel. ``tau`` is in nats. Costs are those of the smallest widths that can be cut to, see
    `Group.allowed_width`. Raises DataError where ``tau`` is negative or a group has no Gram matrix of its size.
    """
    if not tau >= 0:
        raise DataError("redundancy", f"tau={tau}", "a tail of at least 0 nats", "Use for example 0.01.")
    groups = tuple(_group_redundancy(group, _gram_of(group, gate_gram.gram), tau) for group in structure.groups)
    floors = {
        group.name: group.allowed_width(found.num_effective)
        for group, found in zip(structure.groups, groups, strict=True)
    }
    return Redundancy(
        tau=tau,
        labels=gate_gram.labels,
        num_samples=gate_gram.num_samples,
        groups=groups,
        macs=structure.macs(),
        macs_effective=structure.macs(floors),
        parameters=structure.parameters(),
        parameters_effective=structure.parameters(floors),
    )


def _gram_of(group: Group, gram: Mapping[str, Tensor]) -> Tensor:
    matrix = gram.get(group.name)
    size = (group.num_channels, group.num_channels)
    if matrix is None or matrix.shape != size:
        raise DataError(
            f"redundancy, group {group.name}",
            "no Gram matrix" if matrix is None else f"a Gram matrix of shape {list(matrix.shape)}",
            f"one of shape {list(size)}", "Collect the gate gradients of this network's own groups.",
        )  # fmt: skip
    return matrix


def _group_redundancy(group: Group, gram: Tensor, tau: float) -> GroupRedundancy:
    values = spectrum(gram)
    return GroupRedundancy(
        name=group.name,
        block=group.block,
        num_channels=group.num_channels,
        num_effective=count_effective(values, tau),
        spectrum=tuple(values.tolist()),
    )
