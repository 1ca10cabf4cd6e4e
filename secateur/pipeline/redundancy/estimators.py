"""How many of a group's directions count, read off a spectrum: one object a rule."""

import math
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.errors import DataError
from secateur.pipeline.redundancy.noise import hard_threshold, noise_median


@runtime_checkable
class Effective(Protocol):
    """Counts the directions of a group that are needed.

    ``values`` are eigenvalues of a Gram matrix or a fixed multiple of them, descending and not negative (half the
    eigenvalues are nats where the matrix is that of gate gradients); the matrix is that of ``num_rows`` rows, one a
    sample. The count lies between 1 and ``len(values)``; a spectrum of zeros needs 1. ``threshold`` is the rule's one
    parameter, to be replaced with `dataclasses.replace`.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def threshold(self) -> float:
        """The rule's parameter."""
        ...

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the number of effective filters."""
        ...


def tails(values: Float64[Tensor, " num_channels"]) -> Float64[Tensor, " num_channels"]:
    """Return the sums of the smallest value of a descending spectrum, of the two smallest, and on."""
    return values.flip(0).cumsum(0)


def _possible(values: Tensor, num_rows: int) -> Tensor:
    """Return the values that a matrix of so many rows can have, those of rounding set to 0."""
    found = values[: min(len(values), num_rows)]
    rounding = max(len(values), num_rows) * torch.finfo(values.dtype).eps * values[0]
    return torch.where(found > rounding, found, 0)


def _whole(rank: float, values: Tensor) -> int:
    """Round up what exceeds a whole number by more than rounding, and keep it within the group."""
    return min(len(values), max(1, math.ceil(rank * (1 - 1e-9))))


def _require_positive(where: str, value: float) -> None:
    if not value > 0:
        raise DataError(f"redundancy, {where}", f"{value}", "a factor above 0", "Use 1 for the published rule.")


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Keep what is needed so that the rest of the spectrum sums to at most ``threshold`` nats, tau.

    r(tau) = min { r : sum_{i > r} lambda_i / 2 <= tau }. Being in units of the loss, one tau serves every group; it
    bounds a second-order prediction and is not the loss that a cut costs.
    """

    threshold: float = 0.001

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise DataError("redundancy", f"tau={self.threshold}", "a tail of at least 0 nats", "Use for example 0.01.")

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the number of values without the longest tail that sums to at most tau."""
        return max(1, len(values) - int((tails(values) <= self.threshold).sum()))


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Keep the largest eigenvalues that hold all but the share ``threshold`` of their sum."""

    threshold: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise DataError(
                "redundancy, energy", f"threshold={self.threshold}", "a share in [0, 1)", "Use for example 0.01."
            )

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return min { r : sum_{i <= r} lambda_i >= (1 - threshold) sum lambda }."""
        return max(1, len(values) - int((tails(values) <= self.threshold * values.sum()).sum()))


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Keep ``threshold`` times the effective rank exp(-sum p_i ln p_i).

    p_i = sigma_i / sum sigma with the singular values sigma = sqrt(lambda):
    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("entropy", self.threshold)

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the effective rank, rounded up."""
        if values[0] == 0:
            return 1
        root = _possible(values, num_rows).sqrt()
        return _whole(self.threshold * math.exp(float(torch.special.entr(root / root.sum()).sum())), values)


@dataclass(frozen=True, kw_only=True)
class StableRank:
    """Keep ``threshold`` times the stable rank, sum lambda / lambda_1: squared Frobenius over squared spectral norm."""

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("stable-rank", self.threshold)

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the stable rank, rounded up."""
        return _whole(self.threshold * float((values / values[0]).sum()), values) if values[0] > 0 else 1


@dataclass(frozen=True, kw_only=True)
class Participation:
    """Keep ``threshold`` times the participation ratio, (sum lambda)^2 / sum lambda^2."""

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("participation", self.threshold)

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the participation ratio, rounded up."""
        if values[0] == 0:
            return 1
        share = values / values[0]
        return _whole(self.threshold * float(share.sum().square() / share.square().sum()), values)


@dataclass(frozen=True, kw_only=True)
class GavishDonoho:
    """Keep the singular values above ``threshold`` times the optimal hard threshold for white noise of unknown level.

    sigma_i > omega(beta) median(sigma), omega = lambda_*(beta) / sqrt(mu_beta) with mu_beta the median of the
    Marchenko-Pastur law and lambda_* = sqrt(2 (beta + 1) + 8 beta / (beta + 1 + sqrt(beta^2 + 14 beta + 1))) (Gavish
    and Donoho 2014, arXiv 1305.5870); omega(1) = 2.858. beta is the matrix's smaller side over its larger one.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("gavish-donoho", self.threshold)

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the number of singular values above the threshold."""
        root = _possible(values, num_rows).sqrt()
        omega = hard_threshold(len(root) / max(len(values), num_rows))
        return max(1, int((root > self.threshold * omega * root.median()).sum()))


@dataclass(frozen=True, kw_only=True)
class MarchenkoPastur:
    """Keep the eigenvalues above ``threshold`` times the edge that white noise alone would reach.

    lambda_i > s^2 (1 + sqrt(C / N))^2 for C channels and N rows (Marchenko and Pastur 1967); the noise's variance s^2
    is that of the law whose median is the spectrum's.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("marchenko-pastur", self.threshold)

    def __call__(self, values: Float64[Tensor, " num_channels"], num_rows: int) -> int:
        """Return the number of eigenvalues above the edge."""
        found = _possible(values, num_rows)
        beta = len(found) / max(len(values), num_rows)
        # With more channels than rows the law is that of the transposed matrix; median and edge scale alike.
        edge = float(found.median()) / noise_median(beta) * (1 + math.sqrt(beta)) ** 2
        return max(1, int((found > self.threshold * edge).sum()))


EFFECTIVE: dict[str, Effective] = {
    "tail": Tail(),
    "energy": Energy(),
    "entropy": Entropy(),
    "stable-rank": StableRank(),
    "participation": Participation(),
    "gavish-donoho": GavishDonoho(),
    "marchenko-pastur": MarchenkoPastur(),
}
"""The rules by the name that recipes give them."""
