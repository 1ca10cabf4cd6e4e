"""Labelled pictures as a data set: decoded once, held as bytes, normalised and augmented as they are read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["IMAGENET", "CropAndFlip", "Normalisation", "Pictures"]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Turn bytes into (value / 255 - mean) / standard deviation, by colour."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, picture: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 height width"]:
        """Return the picture as float32, channels first."""
        scale = 1 / (255 * np.array(self.std, dtype=np.float32))
        shift = np.array(self.mean, dtype=np.float32) / np.array(self.std, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray((picture * scale - shift).transpose(2, 0, 1)))


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's training pictures, what published networks are trained with."""


@dataclass(frozen=True, kw_only=True)
class CropAndFlip:
    """Shift a picture by up to ``padding`` pixels (black comes in at the rim) and mirror every second one.

    Random numbers come from torch's global generator, so that seeding it repeats the augmentation.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """Return a shifted, perhaps mirrored copy."""
        pad = self.padding
        down, right, mirror = torch.randint(0, 2**31, (3,)).tolist()
        down, right = down % (2 * pad + 1), right % (2 * pad + 1)
        height, width, _ = picture.shape
        canvas = np.zeros((height + 2 * pad, width + 2 * pad, 3), dtype=np.uint8)
        canvas[pad : pad + height, pad : pad + width] = picture
        moved = canvas[down : down + height, right : right + width]
        return moved[:, ::-1] if self.flip and mirror % 2 else moved


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures of one size with their class; an item is (float32 [3, height, width], int64 scalar).

    ``decode`` returns all pictures as uint8 [num, height, width, 3]; it runs once, when the first item is read.
    """

    decode: Callable[[], np.ndarray]
    labels: Int64[np.ndarray, " num"]
    normalisation: Normalisation = IMAGENET
    augmentation: Callable[[np.ndarray], np.ndarray] | None = None
    classes: tuple[str, ...] = field(default=())

    @cached_property
    def pixels(self) -> UInt8[np.ndarray, "num height width 3"]:
        """All pictures, uint8."""
        return self.decode()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one picture and its class."""
        picture = self.pixels[index]
        if self.augmentation is not None:
            picture = self.augmentation(picture)
        return self.normalisation(picture), torch.tensor(int(self.labels[index]))
