"""Which threshold a budget needs."""

import bisect
import math
from collections.abc import Sequence

import torch

from secateur.artifacts import Group, Redundancy
from secateur.pipeline.costs import Cost
from secateur.pipeline.redundancy.estimators import Tail, tails


def tau_for_budget(redundancy: Redundancy, terms: Cost, budget: int, groups: Sequence[Group]) -> float | None:
    """Return the smallest tau, in nats and rounded up to two digits, whose floors cost at most ``budget``.

    ``budget`` is absolute, in the unit of ``terms``, which are costs over ``groups``. None where no tau is large enough
    because of `Group.least`, the step, or what is not cut at all, and where the floors are not those of a tail.
    """
    if redundancy.tau is None:
        return None
    spectra = {group.name: torch.tensor(group.spectrum, dtype=torch.float64) for group in redundancy.groups}

    def affordable(tau: float) -> bool:
        count = Tail(threshold=tau)
        floors = {g.name: g.allowed_width(count(spectra[g.name], redundancy.num_samples)) for g in groups}
        return terms.total(terms.vector(floors)) <= budget

    # The floors change where tau passes a tail, and fall as it grows.
    steps = sorted({0.0, *(tail for values in spectra.values() for tail in tails(values).tolist())})
    found = bisect.bisect_left(steps, True, key=affordable)
    return _rounded_up(steps[found]) if found < len(steps) else None


def _rounded_up(value: float) -> float:
    """Return the next number of two significant digits."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / digit) * digit:.2g}")
