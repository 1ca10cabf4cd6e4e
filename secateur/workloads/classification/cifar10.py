"""CIFAR-10: 50,000 training and 10,000 test pictures of 32 x 32 pixels in ten classes (Krizhevsky 2009)."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from secateur.artifacts import Data
from secateur.artifacts import Pictures as Preparation
from secateur.errors import DataError, RecipeError
from secateur.workloads.classification import cifar_files
from secateur.workloads.classification.pictures import IMAGENET, CropAndFlip, Pictures

__all__ = ["cifar10"]


def cifar10(
    folder: str | Path | None = None,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    augment: bool = True,
    seed: int = 0,
) -> Data:
    """Read CIFAR-10, normalised with ImageNet's mean and standard deviation.

    ``folder`` holds the binary or the Python version as published, or sheets of tiles; without it the environment
    variable SECATEUR_DATA names the folder that holds ``cifar10``. Both parts are shuffled, so that any stretch
    of them is a fair sample; ``num_train`` (drawn by ``seed``) and ``num_test`` (always the same) take a part of them.
    Training pictures are shifted and mirrored at random where ``augment`` is set; calibration reads them as they are.
    Files are decoded when the first picture is asked for. DataError where files are missing or damaged.
    """
    place = Path(folder) if folder is not None else _default_folder()
    files = cifar_files.find(place)
    train = _Part(files=files, name="train", limit=num_train, seed=seed)
    test = _Part(files=files, name="test", limit=num_test, seed=0)
    plain = Pictures(decode=train.pixels, labels=train.labels, normalisation=IMAGENET, classes=cifar_files.CLASSES)
    shifted = Pictures(
        decode=train.pixels,
        labels=train.labels,
        normalisation=IMAGENET,
        augmentation=CropAndFlip() if augment else None,
        classes=cifar_files.CLASSES,
    )
    labels = hashlib.sha256(train.labels.tobytes() + test.labels.tobytes()).hexdigest()[:16]
    return Data(
        train=shifted,
        test=Pictures(decode=test.pixels, labels=test.labels, normalisation=IMAGENET, classes=cifar_files.CLASSES),
        calibration=plain,
        description=f"CIFAR-10 (Krizhevsky 2009): {len(train.labels):,} training, {len(test.labels):,} test pictures",
        classes=cifar_files.CLASSES,
        preparation=Preparation(size=(32, 32), mean=IMAGENET.mean, std=IMAGENET.std),
        fingerprint=f"cifar10-{type(files).__name__}-{labels}-{seed}-{augment}",
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A shuffled part of the set, cut to a limit."""

    files: cifar_files.CifarFiles
    name: cifar_files.Part
    limit: int | None
    seed: int

    @cached_property
    def order(self) -> Int64[np.ndarray, " num"]:
        num = len(self.files.labels(self.name))
        if self.limit is not None and not 1 <= self.limit <= num:
            raise RecipeError(
                f"cifar10.num_{self.name}", str(self.limit), f"1 to {num}", "Leave it out to take all pictures."
            )
        return np.random.default_rng(self.seed).permutation(num)[: self.limit]

    @cached_property
    def labels(self) -> Int64[np.ndarray, " num"]:
        return self.files.labels(self.name)[self.order]

    @cached_property
    def decoded(self) -> UInt8[np.ndarray, "num 32 32 3"]:
        return self.files.pixels(self.name)[self.order]

    def pixels(self) -> UInt8[np.ndarray, "num 32 32 3"]:
        return self.decoded


def _default_folder() -> Path:
    shared = os.environ.get("SECATEUR_DATA")
    if not shared:
        raise DataError(
            "cifar10", "no folder", "the folder of the unpacked files", "Give folder, or set SECATEUR_DATA."
        )
    return Path(shared) / "cifar10"
