"""Labelled pictures that are decoded once and stay on one device, where they are shifted and mirrored too."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from secateur.artifacts import Batch
from secateur.workloads.classification.cifar_files import find
from secateur.workloads.classification.pictures import IMAGENET


@dataclass(frozen=True, kw_only=True, eq=False)
class DevicePictures:
    """Pictures as bytes [num, 3, side + 2 margin, side + 2 margin], black at the rim, with their classes."""

    padded: Tensor
    labels: Tensor
    margin: int
    mean: Tensor
    std: Tensor

    @staticmethod
    def of(pixels: np.ndarray, labels: np.ndarray, margin: int, device: torch.device) -> "DevicePictures":
        """Take bytes [num, side, side, 3] to a device."""
        planes = torch.from_numpy(pixels).to(device).movedim(-1, 1)
        padded = torch.nn.functional.pad(planes, (margin,) * 4).contiguous()
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (IMAGENET.mean, IMAGENET.std))
        return DevicePictures(
            padded=padded, labels=torch.from_numpy(labels).to(device), margin=margin, mean=mean, std=std
        )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def split(self, num: int) -> "tuple[DevicePictures, DevicePictures]":
        """Return the first so many pictures and the others."""
        first, second = (replace(self, padded=self.padded[part], labels=self.labels[part])
                         for part in (slice(num), slice(num, None)))  # fmt: skip
        return first, second

    def shifted(self, index: Tensor, shift: Tensor, mirror: Tensor) -> Batch:
        """Return normalised pictures from [batch, 2] corners in the padded ones, some of them mirrored."""
        side = torch.arange(self.padded.shape[-1] - 2 * self.margin, device=index.device)
        across = torch.where(mirror[:, None], side.flip(0), side)
        rows, columns = shift[:, :1] + side, shift[:, 1:] + across
        colours = torch.arange(3, device=index.device)
        found = self.padded[
            index[:, None, None, None], colours[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]
        return (found / 255 - self.mean) / self.std, self.labels[index]

    def batches(self, size: int, *, limit: int | None = None, seed: int | None = None) -> list[Batch]:
        """Return pictures as they are, the first ones or some drawn at random."""
        generator = torch.Generator().manual_seed(seed or 0)
        order = torch.arange(len(self)) if seed is None else torch.randperm(len(self), generator=generator)
        corner, straight = torch.full((size, 2), self.margin), torch.zeros(size, dtype=torch.bool)
        device = self.labels.device
        return [
            self.shifted(i.to(device), corner[: len(i)].to(device), straight[: len(i)].to(device))
            for i in order[:limit].split(size)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Which pictures each step sees [steps, batch], from which corner [.., 2] and whether mirrored, from a seed."""

    index: Tensor
    shift: Tensor
    mirror: Tensor

    @staticmethod
    def of(pictures: DevicePictures, num_steps: int, batch_size: int, seed: int) -> "Draws":
        """Draw epochs in random order; what is left of an epoch after whole batches is left out."""
        generator = torch.Generator().manual_seed(seed)
        per_epoch = len(pictures) // batch_size
        epochs = [
            torch.randperm(len(pictures), generator=generator)[: per_epoch * batch_size].view(per_epoch, batch_size)
            for _ in range(-(-num_steps // per_epoch))
        ]
        index = torch.cat(epochs)[:num_steps]
        shift = torch.randint(0, 2 * pictures.margin + 1, (*index.shape, 2), generator=generator)
        mirror = torch.rand(index.shape, generator=generator) < 0.5
        device = pictures.labels.device
        return Draws(index=index.to(device), shift=shift.to(device), mirror=mirror.to(device))


def decode_cifar10(folder: Path, num: int | None) -> dict[str, np.ndarray]:
    """Return CIFAR-10's pixels and labels of both parts, or so many of each, drawn at random."""
    files, found = find(folder), dict[str, np.ndarray]()
    for part in ("train", "test"):
        labels = files.labels(part)
        order = np.random.default_rng(0).permutation(len(labels))[:num]
        found |= {f"{part}_pixels": files.pixels(part)[order], f"{part}_labels": labels[order]}
    return found


def decode_imagenet(folder: Path, num: int | None) -> dict[str, np.ndarray]:
    """Return pixels and labels of a set of files with a table ``labels.tsv`` of names and classes, in random order."""
    rows = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines() if line]
    order = np.random.default_rng(0).permutation(len(rows))[:num]
    pixels = np.stack([_square(folder / rows[i][0]) for i in order])
    return {"pixels": pixels, "labels": np.array([int(rows[i][1]) for i in order])}


def _square(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
