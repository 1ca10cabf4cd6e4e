"""Pictures with fixations as a map-style data set: one item is (picture, fixation counts)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class FixatedPictures(Dataset[Any]):
    """Serve ``(picture [3, 192, 256] float32 in 0..1, counts [48, 64] float32)``.

    ``picture(i)`` returns picture i as uint8 [3, height, width]; ``counts[i]`` holds how many fixations fell into each
    cell; ``indices`` says which pictures belong to this set. ``mirrored`` appends every picture's mirror image
    after all the plain ones: augmentation without a random state, so that an epoch is the same wherever it resumes.
    """

    picture: Callable[[int], Tensor]
    counts: Float32[np.ndarray, "pictures rows columns"]
    indices: Int64[np.ndarray, " chosen"]
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.indices) * (2 if self.mirrored else 1)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of a data set of {len(self)}")
        mirror, place = divmod(item % len(self), len(self.indices))
        index = int(self.indices[place])
        picture = self.picture(index).to(torch.float32) / 255
        counts = torch.from_numpy(self.counts[index])
        return (picture.flip(-1), counts.flip(-1)) if mirror else (picture, counts.clone())
