"""Pictures sorted into one subfolder a class."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from secateur.artifacts import Data, Pictures
from secateur.errors import DataError, RecipeError
from secateur.workloads.classification.pictures import IMAGENET, Normalisation

__all__ = ["image_folder"]

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
TEST_FOLDERS = ("test", "val", "valid", "validation")


def image_folder(
    folder: str | Path,
    size: int = 224,
    *,
    resize: int | None = None,
    augment: bool = True,
    test_share: float = 0.2,
    mean: tuple[float, float, float] = IMAGENET.mean,
    std: tuple[float, float, float] = IMAGENET.std,
    seed: int = 0,
) -> Data:
    """Read ``folder/class/picture`` or ``folder/train/class/picture`` beside ``folder/test/class/picture``.

    Classes are numbered in the order of their names. Without a ``test`` (or ``val``) folder, ``test_share`` of every
    class, drawn by ``seed``, is set aside for testing. Pictures are scaled so that the shorter side has ``resize``
    pixels (``size`` / 0.875 where absent) and cut to the middle ``size`` x ``size``; for training, where ``augment`` is
    set, a random part of 35 to 100 % of the area is taken instead and mirrored half of the time. Values are normalised
    with ``mean`` and ``std`` of values in [0, 1]. Files are decoded as they are asked for.
    DataError for missing folders, differing classes and unreadable pictures.
    """
    place = Path(folder)
    if size < 1 or (resize is not None and resize < size):
        raise RecipeError(
            "image_folder", f"size {size}, resize {resize}", "1 <= size <= resize", "Give resize the larger value."
        )
    if not 0 < test_share < 1:
        raise RecipeError("image_folder.test_share", str(test_share), "a share in (0, 1)", "0.2 is usual.")
    (train, train_labels), (test, test_labels), classes = _parts(place, test_share, seed)
    normalisation = Normalisation(mean=mean, std=std)
    view = MiddleSquare(size=size, resize=resize or round(size / 0.875))
    taken = RandomSquare(size=size) if augment else view
    names = "\n".join(f"{path} {path.stat().st_size}" for path in (*train, *test))
    settings = f"{size} {resize} {augment} {mean} {std}"
    return Data(
        train=PictureFiles(paths=train, labels=train_labels, view=taken, normalisation=normalisation, classes=classes),
        test=PictureFiles(paths=test, labels=test_labels, view=view, normalisation=normalisation, classes=classes),
        calibration=PictureFiles(
            paths=train, labels=train_labels, view=view, normalisation=normalisation, classes=classes
        ),
        description=f"{place.name}: {len(train):,} pictures to train, {len(test):,} to test, {len(classes)} classes",
        classes=classes,
        preparation=Pictures(size=(size, size), shorter_side=view.resize, mean=mean, std=std),
        fingerprint=hashlib.sha256(f"{names}\n{settings}".encode()).hexdigest()[:16],
    )


@dataclass(frozen=True, kw_only=True)
class MiddleSquare:
    """Scale the shorter side to ``resize`` pixels and keep the middle ``size`` x ``size``."""

    size: int
    resize: int

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return the square."""
        side = self.size / self.resize * min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        return picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)


@dataclass(frozen=True, kw_only=True)
class RandomSquare:
    """Take a random part of a picture, stretch it to ``size`` x ``size`` and mirror it half of the time.

    The part has 35 to 100 % of the area and sides in a ratio of 3:4 to 4:3, as far as it fits; random numbers come from
    torch's global generator.
    """

    size: int
    least_area: float = 0.35

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return the part."""
        area, ratio, across, down, mirror = torch.rand(5).tolist()
        area = (self.least_area + (1 - self.least_area) * area) * picture.width * picture.height
        stretch = (4 / 3) ** (ratio - 0.5)
        width, height = min(picture.width, area**0.5 * stretch), min(picture.height, area**0.5 / stretch)
        left, top = (picture.width - width) * across, (picture.height - height) * down
        box = (left, top, left + width, top + height)
        part = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else part


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureFiles(Dataset[tuple[Tensor, Tensor]]):
    """Picture files with their class; an item is (float32 [3, size, size], int64 scalar)."""

    paths: tuple[Path, ...]
    labels: Int64[np.ndarray, " num"]
    view: MiddleSquare | RandomSquare
    normalisation: Normalisation
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode one picture."""
        return self.normalisation(self._read(self.paths[index])), torch.tensor(int(self.labels[index]))

    def _read(self, path: Path) -> UInt8[np.ndarray, "size size 3"]:
        try:
            with Image.open(path) as image:
                return np.asarray(self.view(image.convert("RGB")))
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise DataError(
                str(path), f"a picture that cannot be read ({error})", "a whole picture file",
                "Replace or remove the file.",
            ) from error  # fmt: skip


Labelled = tuple[tuple[Path, ...], Int64[np.ndarray, "..."]]


def _parts(place: Path, test_share: float, seed: int) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Return the training and the test part, and the classes."""
    train_folder = place / "train"
    test_folder = next((place / name for name in TEST_FOLDERS if (place / name).is_dir()), None)
    if train_folder.is_dir() and test_folder is not None:
        train, test = _by_class(train_folder), _by_class(test_folder)
        if unknown := sorted(train.keys() ^ test.keys()):
            raise DataError(
                str(place), f"class {unknown[0]!r} in one part only", "the same classes in both parts",
                "Add the missing folder, or remove the other.",
            )  # fmt: skip
    else:
        train, test = {}, {}
        random = np.random.default_rng(seed)
        for name, paths in _by_class(place).items():
            num_test = max(1, round(test_share * len(paths)))
            if num_test >= len(paths):
                raise DataError(
                    str(place / name), f"{len(paths)} picture(s)", "at least two, for training and testing",
                    "Add pictures, or make train and test folders.",
                )  # fmt: skip
            order = random.permutation(len(paths))
            test[name] = [paths[i] for i in sorted(order[:num_test])]
            train[name] = [paths[i] for i in sorted(order[num_test:])]
    return _shuffled(train, seed), _shuffled(test, 0), tuple(sorted(train))


def _by_class(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(str(folder), "no such folder", "one subfolder a class", "Correct the path.")
    found = {
        sub.name: sorted(path for path in sub.rglob("*") if path.suffix.lower() in SUFFIXES)
        for sub in sorted(folder.iterdir())
        if sub.is_dir()
    }
    if len(found) < 2 or not all(found.values()):
        empty = next((name for name, paths in found.items() if not paths), None)
        raise DataError(
            str(folder), f"{len(found)} subfolder(s)" if empty is None else f"no picture in {empty!r}",
            "at least two subfolders, one a class, with pictures", f"Known formats: {', '.join(sorted(SUFFIXES))}.",
        )  # fmt: skip
    return found


def _shuffled(by_class: dict[str, list[Path]], seed: int) -> Labelled:
    """Put the classes in a random order, so that any stretch is a fair sample."""
    paths = [path for name in sorted(by_class) for path in by_class[name]]
    labels = np.repeat(np.arange(len(by_class)), [len(by_class[name]) for name in sorted(by_class)]).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(paths))
    return tuple(paths[i] for i in order), labels[order]
