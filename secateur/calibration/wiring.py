"""Which channels of which groups arrive at which channels of a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from secateur.artifacts import Group

Side = Literal["readers", "writers"]
"""Where a layer meets channels: on its inputs, or on its outputs where no weight reads what it writes (queries)."""

SIDES: tuple[Side, Side] = ("readers", "writers")


@dataclass(frozen=True, kw_only=True, eq=False)
class Wires:
    """What a layer's channels belong to: its channel ``source[k]`` adds to gate ``target[k]`` of all groups' gates."""

    source: Int64[Tensor, " wires"]
    target: Int64[Tensor, " wires"]


def wire(groups: Sequence[Group], device: torch.device) -> dict[tuple[Side, str], Wires]:
    """Return the wires of every layer, by side and name of its weight; groups' gates stand one after the other."""
    sources: dict[tuple[Side, str], list[np.ndarray]] = {}
    targets: dict[tuple[Side, str], list[np.ndarray]] = {}
    offset = 0
    for group in groups:
        gates = np.arange(offset, offset + group.num_channels)
        offset += group.num_channels
        for side in SIDES:
            for layer in group.readers if side == "readers" else group.writers:
                sources.setdefault((side, layer.weight), []).append(layer.positions.ravel())
                targets.setdefault((side, layer.weight), []).append(np.repeat(gates, layer.positions.shape[1]))

    def index(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return {key: Wires(source=index(sources[key]), target=index(targets[key])) for key in sources}
