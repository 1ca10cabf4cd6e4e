"""Readers of eye-tracking sets: OSIE, EyeCrowd and Scene500 as pictures with fixation counts.

A set is a folder with ``images/*.webp`` and ``fixations.npz`` (arrays ``image``, ``order``, ``x``, ``y``, ``orig_wh``,
``names``; coordinates in pixels of the original picture). Pictures of any shape are stretched to the network's input,
the coordinates with them. The first fixation of a viewer is dropped (it is where the viewer happened to look before the
picture came), and so are fixations outside the picture.
"""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from secateur.artifacts import Data
from secateur.errors import DataError
from secateur.workloads.gaze.centre_bias import fitted_centre_bias
from secateur.workloads.gaze.dataset import FixatedPictures
from secateur.workloads.gaze.network import GRID_SIZE, INPUT_SIZE
from secateur.workloads.gaze.scores import scores_of

COLUMNS = ("image", "order", "x", "y", "orig_wh", "names")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which pictures are for training, for choosing settings, and for the final figure; int64 indices."""

    train: Int64[np.ndarray, " train"]
    validation: Int64[np.ndarray, " validation"]
    test: Int64[np.ndarray, " test"]


def split_pictures(num_pictures: int, seed: int = 0) -> Split:
    """Split pictures at random: a fifth to test, a tenth to validation, the rest to training."""
    order = np.random.default_rng(seed).permutation(num_pictures).astype(np.int64)
    num_test, num_validation = num_pictures // 5, num_pictures // 10
    test, validation, train = np.split(order, [num_test, num_test + num_validation])
    return Split(train=np.sort(train), validation=np.sort(validation), test=np.sort(test))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Decode pictures once, at the network's size, and keep them as uint8."""

    files: Sequence[Path]
    decoded: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """Return picture ``index``; an unreadable file raises DataError."""
        if index not in self.decoded:
            self.decoded[index] = read_picture(self.files[index])
        return self.decoded[index]


def read_picture(path: Path) -> UInt8[Tensor, "3 height width"]:
    """Read one picture as RGB, stretched to the network's input size."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize(INPUT_SIZE[::-1], Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            str(path), f"an unreadable picture ({error})", "an image file that Pillow can decode",
            "Replace the file or fetch the data set again.",
        ) from error  # fmt: skip
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@dataclass(frozen=True, kw_only=True, eq=False)
class FixationSet:
    """A folder's pictures with their fixation counts on the grid."""

    pictures: Pictures
    counts: Float32[np.ndarray, "pictures rows columns"]
    fingerprint: str


def read_fixation_set(folder: Path, grid: tuple[int, int] = GRID_SIZE) -> FixationSet:
    """Read ``folder`` and count its fixations on ``grid`` (rows, columns).

    DataError where the folder is absent or damaged, or a picture has no file or no fixations.
    """
    path = folder / "fixations.npz"
    if not path.is_file():
        raise DataError(
            str(folder), "no fixations.npz" if folder.is_dir() else "no such folder",
            "a folder with images/*.webp and fixations.npz",
            "Name the folder in the recipe, or set SECATEUR_DATA to the folder that holds the data sets.",
        )  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as archive:
            image, order, x, y, size, names = (archive[column] for column in COLUMNS)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            str(path), f"an unreadable archive ({error})", f"arrays {', '.join(COLUMNS)}",
            "Fetch the data set again.",
        ) from error  # fmt: skip
    if not (len(image) == len(order) == len(x) == len(y) and size.shape == (len(names), 2) and size.all()):
        raise DataError(
            str(path), f"arrays of lengths {[len(a) for a in (image, order, x, y, size, names)]}",
            "one entry a fixation in image, order, x, y and one a picture in orig_wh, names",
            "Fetch the data set again.",
        )  # fmt: skip
    if len(image) and int(image.max()) >= len(names):
        raise DataError(
            str(path), f"a fixation on picture {int(image.max())}", f"an index below {len(names)}",
            "Fetch the data set again.",
        )  # fmt: skip
    counts = _count(image.astype(np.int64), order, x, y, size, grid)
    files = [folder / "images" / str(name) for name in names]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(
            str(folder / "images"), f"{len(absent)} missing pictures, the first {absent[0]}",
            f"the {len(files)} pictures that fixations.npz names", "Fetch the data set again.",
        )  # fmt: skip
    unseen = np.flatnonzero(counts.sum(axis=(1, 2)) == 0)
    if len(names) == 0 or len(unseen):
        raise DataError(
            str(path), f"no fixation inside picture {names[unseen[0]]}" if len(unseen) else "no pictures",
            "at least one fixation after each viewer's first in every picture",
            "Take the picture out of fixations.npz, or fetch the data set again.",
        )  # fmt: skip
    digest = hashlib.sha256(path.read_bytes())
    digest.update(repr([(file.name, file.stat().st_size) for file in files]).encode())
    return FixationSet(pictures=Pictures(files=files), counts=counts, fingerprint=digest.hexdigest())


def _count(
    image: Int64[np.ndarray, " fixations"],
    order: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    size: np.ndarray,
    grid: tuple[int, int],
) -> Float32[np.ndarray, "pictures rows columns"]:
    """Count fixations in the cells of the grid; the share of the original size is the share of the grid."""
    across, down = x / size[image, 0], y / size[image, 1]
    chosen = (order > 0) & (across >= 0) & (across < 1) & (down >= 0) & (down < 1)
    rows, columns = grid
    row = (down[chosen] * rows).astype(np.int64)
    column = (across[chosen] * columns).astype(np.int64)
    cell = (image[chosen] * rows + row) * columns + column
    return np.bincount(cell, minlength=len(size) * rows * columns).astype(np.float32).reshape(-1, rows, columns)


def osie(folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True) -> Data:
    """Read OSIE: 700 pictures with many objects, 15 viewers (Xu et al. 2014)."""
    return fixation_data("gaze_osie", "OSIE", folder, seed=seed, mirror=mirror)


def eyecrowd(folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True) -> Data:
    """Read EyeCrowd: 500 pictures of crowds, 16 viewers (Jiang et al. 2014)."""
    return fixation_data("gaze_eyecrowd", "EyeCrowd", folder, seed=seed, mirror=mirror)


def scene500(folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True) -> Data:
    """Read Scene500: 500 natural scenes, 12 viewers (Liang, 2015)."""
    return fixation_data("gaze_scene500", "Scene500", folder, seed=seed, mirror=mirror)


def default_folder(name: str) -> Path:
    """Return the folder of the data set ``name`` under SECATEUR_DATA; DataError where that is not set."""
    parent = os.environ.get("SECATEUR_DATA")
    if not parent:
        raise DataError(
            f"data set {name}", "neither a folder nor the environment variable SECATEUR_DATA",
            "a folder with images/*.webp and fixations.npz",
            "Name the folder in the recipe, or set SECATEUR_DATA to the folder that holds the data sets.",
        )  # fmt: skip
    return Path(parent) / name


def fixation_data(name: str, title: str, folder: str | Path | None, *, seed: int, mirror: bool) -> Data:
    """Return a set's train and test parts; ``mirror`` adds every training picture's mirror image to train.

    Calibration is the training part without mirror images. The facts are the centre bias' scores on the test part, the
    centre bias being fitted to the training part: what a network must beat that looks at the picture.
    """
    fixations = read_fixation_set(default_folder(name) if folder is None else Path(folder))
    split = split_pictures(len(fixations.counts), seed)
    train, test, plain = (
        FixatedPictures(picture=fixations.pictures, counts=fixations.counts, indices=indices, mirrored=mirrored)
        for indices, mirrored in ((split.train, mirror), (split.test, False), (split.train, False))
    )
    return Data(
        train=train,
        test=test,
        calibration=plain,
        description=f"{title}: {len(split.train)} training and {len(split.test)} test pictures, free viewing",
        facts=scores_of("centre_bias", fitted_centre_bias(fixations.counts[split.train]), fixations.counts[split.test]),
        fingerprint=f"{fixations.fingerprint}-{GRID_SIZE}-{INPUT_SIZE}-{seed}-{mirror}",
    )
