"""Random numbers that depend on nothing but the seed and the place where they are drawn.

Every sample of every epoch, and every step, starts its own stream. So a training that is taken up in the middle draws
what it would have drawn, and nothing about random states needs to be stored.
"""

import random
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["NumberedItems", "SeededItems", "mixing_share", "order_of_epoch", "seed_step", "split"]

ITEM, STEP, ORDER, SPLIT, MIX = range(5)
VALIDATION_EPOCH = 0
"""The validation part is always drawn as in this epoch, so that epochs are compared like for like."""


def _stream(*place: int) -> int:
    """Mix numbers into a seed of 63 bits; nearby places give unrelated seeds."""
    return int.from_bytes(blake2b(struct.pack(f"<{len(place)}q", *place), digest_size=8).digest()) >> 1


def seed_step(seed: int, step: int) -> None:
    """Start the random numbers of one training step (dropout and the like), on every device."""
    torch.manual_seed(_stream(STEP, seed, step))


def order_of_epoch(num_samples: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits the samples."""
    generator = torch.Generator().manual_seed(_stream(ORDER, seed, epoch))
    return torch.randperm(num_samples, generator=generator).tolist()


def mixing_share(alpha: float, seed: int, step: int) -> float:
    """Draw the share with which a step mixes samples, from Beta(alpha, alpha)."""
    return float(np.random.default_rng(_stream(MIX, seed, step)).beta(alpha, alpha))


def split(num_samples: int, num_held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices to train on and those held out, drawn at random and each in ascending order."""
    generator = torch.Generator().manual_seed(_stream(SPLIT, seed))
    order = torch.randperm(num_samples, generator=generator).tolist()
    return sorted(order[num_held_out:]), sorted(order[:num_held_out])


@dataclass(frozen=True, kw_only=True, eq=False)
class SeededItems(Dataset[Any]):
    """Part of a data set whose random augmentation is drawn from the seed, the epoch and the sample alone.

    The global generators of torch, NumPy and Python are seeded before an item is read.
    """

    dataset: Dataset[Any]
    indices: list[int]
    seed: int
    epoch: int = VALIDATION_EPOCH

    def __len__(self) -> int:
        """Return the number of samples in this part."""
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        """Read one sample."""
        index = self.indices[position]
        stream = _stream(ITEM, self.seed, self.epoch, index)
        torch.default_generator.manual_seed(stream)
        np.random.seed(stream & 0xFFFFFFFF)  # noqa: NPY002
        random.seed(stream)
        return self.dataset[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedItems(Dataset[Any]):
    """The same samples with their index in the whole data set, for messages."""

    items: SeededItems

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[int, Any]:
        """Read one sample."""
        return self.items.indices[position], self.items[position]
