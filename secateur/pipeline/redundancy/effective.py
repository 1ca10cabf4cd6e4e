"""Estimate how much of a network is superfluous, from the spectra of its groups' matrices.

Implemented from the abstract of Zhou, Lian, Yin and Wang 2022 (arXiv 2206.03596): the singularity of a gradient matrix
bounds how many filters a layer needs, and that bound guides a hierarchical pruning. Matrix, threshold and schedule are
this project's own choices.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Covering, DeadChannels, Group, GroupRedundancy, LatencyGrid, Redundancy
from secateur.calibration.gram import GateGram
from secateur.errors import DataError
from secateur.pipeline.costs_latency import NANO
from secateur.pipeline.redundancy.estimators import EFFECTIVE, Effective, Tail
from secateur.pipeline.redundancy.matrices import Matrix, of_gates
from secateur.pipeline.structure import Structure
from secateur.pipeline.structure.layer_calls import latency_cost


def spectrum(gram: Float64[Tensor, "num_channels num_channels"]) -> Float64[Tensor, " num_channels"]:
    """Return half the eigenvalues, nats for gate gradients, descending; rounding below zero is cut off."""
    return (torch.linalg.eigvalsh(gram) / 2).flip(0).clamp_min(0)


def effective_filters(gram: Float64[Tensor, "num_channels num_channels"], tau: float) -> int:
    """Return the number of directions that a group needs, at least 1, by the tail of ``tau`` nats.

    To second order, r(tau) channels can take over for all of them, re-scaled, at a loss of about ``tau`` nats: if the
    rank is r, the Schur complement of r independent gates vanishes. One ``tau`` serves the whole network because all
    spectra are in units of the loss.
    """
    return Tail(threshold=tau)(spectrum(gram), len(gram))


def estimate(
    structure: Structure,
    found: Matrix | GateGram,
    effective: Effective | float,
    *,
    coverings: Mapping[str, Covering] | None = None,
    dead: Mapping[str, DeadChannels] | None = None,
) -> Redundancy:
    """Return the redundancy of a network: effective filters of every group, and the costs if only those were left.

    ``found`` belongs to the groups of ``structure``; for gate gradients, sampled labels at a temperature of 2 to 4
    settle the spectra with about ten samples a channel. ``effective`` counts them; a number is the tau of a `Tail`.
    ``coverings`` and ``dead`` are entered by group. Costs are those of the smallest widths that can be cut to, see
    `Group.allowed_width`. Raises DataError where a tail is asked of a matrix that is not in nats, or a group has no
    matrix of its size.
    """
    matrix = of_gates(found) if isinstance(found, GateGram) else found
    rule = Tail(threshold=float(effective)) if isinstance(effective, (int, float)) else effective
    is_tail = isinstance(rule, Tail)
    if is_tail and matrix.name != "gate":
        raise DataError(
            "redundancy", f"a tail in nats of the {matrix.name} matrix, which is not in nats",
            f"one of {', '.join(name for name in EFFECTIVE if name != 'tail')}", "Use for example energy.",
        )  # fmt: skip
    groups = tuple(
        _group_redundancy(group, matrix, rule).model_copy(
            update={"covering": (coverings or {}).get(group.name), "dead": (dead or {}).get(group.name)}
        )
        for group in structure.groups
    )
    floors = _floors(structure, groups)
    return Redundancy(
        tau=rule.threshold if is_tail else None,
        labels=matrix.labels,
        num_samples=matrix.num_samples,
        groups=groups,
        macs=structure.macs(),
        macs_effective=structure.macs(floors),
        parameters=structure.parameters(),
        parameters_effective=structure.parameters(floors),
        matrix=matrix.name,
        estimator=next((name for name, known in EFFECTIVE.items() if type(known) is type(rule)), type(rule).__name__),
        threshold=rule.threshold,
    )


def with_latency(
    redundancy: Redundancy, structure: Structure, latencies: Sequence[tuple[str, LatencyGrid]], backend: str
) -> Redundancy:
    """Return the estimate with what all layers of the network take, as it is and if only effective filters were left.

    ``latencies`` are the names of the weights of the layers and what these take on the runtime ``backend``, see
    `LatencyCost`. Raises TraceError for layers of another network.
    """
    cost = latency_cost(structure, latencies)
    whole, left = (
        cost.total(cost.vector(widths)) / NANO for widths in (structure.widths, _floors(structure, redundancy.groups))
    )
    return redundancy.model_copy(update={"latency_s": whole, "latency_effective_s": left, "backend": backend})


def _floors(structure: Structure, groups: Sequence[GroupRedundancy]) -> dict[str, int]:
    """Return the smallest widths that can be cut to."""
    return {found.name: structure.group(found.name).allowed_width(found.num_effective) for found in groups}


def _group_redundancy(group: Group, matrix: Matrix, effective: Effective) -> GroupRedundancy:
    gram = matrix.gram.get(group.name)
    size = (group.num_channels, group.num_channels)
    if gram is None or gram.shape != size:
        raise DataError(
            f"redundancy, group {group.name}",
            "no Gram matrix" if gram is None else f"a Gram matrix of shape {list(gram.shape)}",
            f"one of shape {list(size)}", "Collect the gate gradients of this network's own groups.",
        )  # fmt: skip
    if not torch.isfinite(gram).all():
        raise DataError(
            f"redundancy, group {group.name}", f"a {matrix.name} matrix that is not finite", "finite numbers",
            "Look for a square root or a logarithm of zero in the network and the loss, and for extreme inputs.",
        )  # fmt: skip
    values = spectrum(gram)
    return GroupRedundancy(
        name=group.name,
        block=group.block,
        num_channels=group.num_channels,
        num_effective=effective(values, matrix.num_rows[group.name]),
        spectrum=tuple(values.tolist()),
    )
