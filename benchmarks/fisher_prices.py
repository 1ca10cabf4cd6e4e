"""What Fisher pruning with FLOPs may pay for a multiply-add: prices for benchmarks to choose from on pictures."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.allocation.theis import GIGA
from secateur.pipeline.costs import Cost

AROUND = tuple(4.0**power for power in range(-1, 6))
"""What multiplies the mean price of a cut."""


def prices(saliency: Mapping[str, Tensor], cost: Cost, budget: int, groups: Sequence[Group]) -> list[float]:
    """Return betas in nats a giga-multiply-add that a budget may ask for, over more than three orders of magnitude.

    They lie around what a cut by worth for cost loses for what it saves. Far above that the costliest channels go
    first, far below the least salient ones, whatever the other says.
    """
    keep = ALLOCATORS["automatic"](saliency, cost, budget, groups, {})
    lost = sum(float(values[~keep[name].to(values.device)].sum()) for name, values in saliency.items())
    whole, left = (cost.total(cost.vector(widths)) for widths in (
        {name: mask.numel() for name, mask in keep.items()}, {name: int(mask.sum()) for name, mask in keep.items()}
    ))  # fmt: skip
    middle = GIGA * lost / max(whole - left, 1)
    return [max(middle * factor, 1e-15) for factor in AROUND]
