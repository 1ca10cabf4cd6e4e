"""Which groups sit in a network in the same way."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from secateur.artifacts import Group


def classes_of(groups: Sequence[Group]) -> Int64[np.ndarray, " group"]:
    """Number the classes of groups of equal topology, from 0 on.

    Two groups are in one class where as many tensors of the same kinds hold their channels, along the same axes and in
    as many entries a channel, and as many layers read, normalise and write them; their widths may differ. Ranking
    inside such classes follows Fang et al. (2024, arXiv 2407.04616).
    """
    number: dict[object, int] = {}
    return np.array([number.setdefault(_topology(group), len(number)) for group in groups], dtype=np.int64)


def _topology(group: Group) -> object:
    slices = sorted((s.tensor.rpartition(".")[2], s.axis, s.indices.shape[1]) for s in group.slices)
    return tuple(slices), len(group.readers), len(group.norms), len(group.writers), len(group.roots)
