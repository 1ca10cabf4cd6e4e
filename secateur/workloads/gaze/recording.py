"""A recording: pictures and who looked where in them, whatever files it was read from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.network import INPUT_SIZE

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises at files that are no pictures."""


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
class Recording:
    """Picture files, their heights and widths as the viewers saw them, and the fixations inside of them.

    ``fingerprint`` follows the content of the fixations and the names and sizes of the files.
    """

    files: tuple[Path, ...]
    sizes: Float64[np.ndarray, "pictures 2"]
    fixations: Fixations
    fingerprint: str


def recording(
    where: Path, files: Sequence[Path], sizes: Float64[np.ndarray, "pictures 2"], fixations: Fixations, remedy: str
) -> Recording:
    """Keep the fixations inside their pictures; DataError where there are no pictures, or one has no fixation."""
    inner = fixations.inside()
    unseen = np.flatnonzero(np.bincount(inner.picture, minlength=len(files)) == 0)
    if not files or len(unseen):
        raise DataError(
            str(where), f"no fixation inside picture {files[unseen[0]].name}" if files else "no pictures",
            "at least one fixation after each viewer's first in every picture", remedy,
        )  # fmt: skip
    digest = hashlib.sha256(repr([(file.name, file.stat().st_size) for file in files]).encode())
    for column in (sizes, inner.picture, inner.viewer, inner.across, inner.down):
        digest.update(np.ascontiguousarray(column).tobytes())
    return Recording(files=tuple(files), sizes=sizes, fixations=inner, fingerprint=digest.hexdigest())


def joined(recordings: Sequence[Recording]) -> Recording:
    """Put recordings one after another; viewers of different recordings are different people."""
    pictures = np.cumsum([0, *(len(each.files) for each in recordings)])
    viewers = np.cumsum([0, *(int(each.fixations.viewer.max(initial=-1)) + 1 for each in recordings)])
    parts = [each.fixations for each in recordings]
    return Recording(
        files=tuple(file for each in recordings for file in each.files),
        sizes=np.concatenate([each.sizes for each in recordings]),
        fixations=Fixations(
            picture=np.concatenate([part.picture + first for part, first in zip(parts, pictures, strict=False)]),
            viewer=np.concatenate([part.viewer + first for part, first in zip(parts, viewers, strict=False)]),
            across=np.concatenate([part.across for part in parts]),
            down=np.concatenate([part.down for part in parts]),
        ),
        fingerprint=hashlib.sha256("".join(each.fingerprint for each in recordings).encode()).hexdigest(),
    )


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


def read_picture(path: Path, size: tuple[int, int] = INPUT_SIZE) -> UInt8[Tensor, "3 height width"]:
    """Read one picture as RGB, stretched to a height and width."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def picture_sizes(files: Sequence[Path]) -> Float64[np.ndarray, "pictures 2"]:
    """Read the heights and widths from the heads of picture files."""
    sizes = np.zeros((len(files), 2))
    for place, path in enumerate(files):
        try:
            with Image.open(path) as image:
                sizes[place] = image.height, image.width
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    return sizes


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        str(path), f"an unreadable picture ({error})", "an image file that Pillow can decode",
        "Replace the file or fetch the data set again.",
    )  # fmt: skip
