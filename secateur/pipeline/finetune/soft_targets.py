"""Targets that are less certain than the data's: smoothed labels and mixed samples."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from secateur.errors import DataError, RecipeError
from secateur.pipeline.finetune.randomness import mixing_share

__all__ = ["Mixture", "SoftTargets", "unmixed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """A batch of which every sample is ``share`` of itself and the rest its partner; ``partners`` are their targets."""

    inputs: tuple[Tensor, ...]
    targets: Any
    partners: Any
    share: float


def unmixed(inputs: tuple[Tensor, ...], targets: Any) -> Mixture:
    """Return a batch as it is."""
    return Mixture(inputs=inputs, targets=targets, partners=targets, share=1.0)


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    r"""What the task's loss is told about a sample.

    Attributes:
        label_smoothing: share of every label that is spread evenly over all outcomes, in [0, 1) (Szegedy et al. 2016,
            arXiv:1512.00567, section 7): the loss is (1 - e) L(y) - e / C sum_c log p_c.
        mixup: a of the Beta(a, a) from which each step draws the share l with which neighbours in the shuffled order
            are mixed, 0 for none (Zhang et al. 2018, arXiv:1710.09412): inputs l x_i + (1 - l) x_j, loss
            l L(y_i) + (1 - l) L(y_j). The teacher sees the mixed inputs.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError("finetune.label_smoothing", str(self.label_smoothing), "a share in [0, 1)", "Use 0.1.")
        if not 0 <= self.mixup < float("inf"):
            raise RecipeError("finetune.mixup", str(self.mixup), "a number, 0 or more", "Use 0.2, or 0 for none.")

    def mix(self, inputs: tuple[Tensor, ...], targets: Any, seed: int, step: int) -> Mixture:
        """Return the batch of a step, mixed with itself.

        Sample 2k is the partner of 2k + 1, a last one without a neighbour its own; the order is random, so the pairs
        are. DataError where inputs are not numbers to be mixed, or targets not stacked by sample.
        """
        if not self.mixup:
            return unmixed(inputs, targets)
        num = len(inputs[0])
        partner = torch.arange(num, device=inputs[0].device) ^ 1
        partner[partner >= num] = num - 1
        share = mixing_share(self.mixup, seed, step)
        for place, tensor in enumerate(inputs):
            if not tensor.is_floating_point():
                raise DataError(
                    f"finetune.mixup, input {place}", f"{str(tensor.dtype).removeprefix('torch.')} values",
                    "floating-point inputs, of which a mean makes sense", "Leave mixup out for this data.",
                )  # fmt: skip
        return Mixture(
            inputs=tuple(share * tensor + (1 - share) * tensor[partner] for tensor in inputs),
            targets=targets,
            partners=tree_map(lambda leaf: _reordered(leaf, partner), targets),
            share=share,
        )


def _reordered(target: Any, order: Tensor) -> Tensor:
    if not isinstance(target, Tensor) or target.ndim == 0 or len(target) != len(order):
        found = f"a tensor of shape {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise DataError(
            "finetune.mixup, targets", found, f"tensors of {len(order)} samples, which can be given to others",
            "Leave mixup out, or return targets as tensors.",
        )  # fmt: skip
    return target[order.to(target.device)]
