"""Eye-tracking sets as data of a recipe: each split by picture, or one held out to measure generalisation.

Pictures of any shape are stretched to the network's input, the coordinates with them.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from secateur.artifacts import Data
from secateur.errors import DataError
from secateur.workloads.gaze.cat2000 import read_cat2000
from secateur.workloads.gaze.centre_bias import fitted_centre_bias
from secateur.workloads.gaze.dataset import FixatedPictures
from secateur.workloads.gaze.kernel_density import gold_standard
from secateur.workloads.gaze.mit import mit300_files, read_mit1003
from secateur.workloads.gaze.network import GRID_SIZE, INPUT_SIZE, PREPARATION
from secateur.workloads.gaze.npz_set import read_npz_set
from secateur.workloads.gaze.osie import read_osie
from secateur.workloads.gaze.plain_folder import read_folder
from secateur.workloads.gaze.recording import Pictures, Recording, joined, read_picture, split_pictures
from secateur.workloads.gaze.salicon import read_salicon
from secateur.workloads.gaze.scores import scores_of

SETS: dict[str, tuple[str, Callable[[Path], Recording]]] = {
    "osie": ("OSIE", read_osie),
    "eyecrowd": ("EyeCrowd", read_npz_set),
    "scene500": ("Scene500", read_npz_set),
    "cat2000": ("CAT2000", read_cat2000),
    "mit1003": ("MIT1003", read_mit1003),
    "salicon": ("SALICON", read_salicon),
    "folder": ("own recordings", read_folder),
}
"""Every set by its name: its title and its reader. A new one is one file and one line here."""


def osie(
    folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True, observers: bool = False
) -> Data:  # fmt: skip
    """Read OSIE: 700 pictures with many objects, 15 viewers (Xu et al. 2014)."""
    return split_set("osie", folder, seed=seed, mirror=mirror, observers=observers)


def eyecrowd(
    folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True, observers: bool = False
) -> Data:  # fmt: skip
    """Read EyeCrowd: 500 pictures of crowds, 16 viewers (Jiang et al. 2014)."""
    return split_set("eyecrowd", folder, seed=seed, mirror=mirror, observers=observers)


def scene500(
    folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True, observers: bool = False
) -> Data:  # fmt: skip
    """Read Scene500: 500 natural scenes, 12 viewers (Liang, 2015)."""
    return split_set("scene500", folder, seed=seed, mirror=mirror, observers=observers)


def split_set(
    name: str, folder: str | Path | None = None, *, seed: int = 0, mirror: bool = True, observers: bool = False
) -> Data:
    """Return the parts of a set of `SETS`; ``mirror`` adds every training picture's mirror image to train.

    Calibration is the training part without mirror images. The facts are the centre bias' scores on the test part, the
    centre bias being fitted to the training part: what a network must beat that looks at the picture. ``observers``
    adds how well other viewers predict each viewer of the test part, fitted to the training part: about a second a
    hundred pictures.
    """
    found = read_set(name, folder)
    split = split_pictures(len(found.files), seed)
    return _data(found, found, split.train, split.test, SETS[name][0], (seed, mirror), mirror, observers)


def combined(
    train: Sequence[str], test: str, *, seed: int = 0, mirror: bool = True, observers: bool = False
) -> Data:  # fmt: skip
    """Train on some sets and test on another: how far what was learnt goes beyond the set it was learnt from.

    Sets are named as in `SETS`, with a folder after a colon where it is not the usual one: ``folder:recordings/mine``.
    Training pictures are the training parts, test pictures the test part of `split_set` under the same seed, so that
    figures compare with those of networks trained on the test set's own training part.
    """
    if not train or test in train:
        raise DataError(
            "combined sets", f"{test} among the sets to train on" if train else "no set to train on",
            "one or more sets to train on, and another to test on", "Name other sets.",
        )  # fmt: skip
    parts, held_out = [read_named(entry) for entry in train], read_named(test)
    firsts = np.cumsum([0, *(len(part.files) for part in parts)])
    chosen = [
        split_pictures(len(part.files), seed).train + first for part, first in zip(parts, firsts, strict=False)
    ]  # fmt: skip
    titles = [SETS[entry.partition(":")[0]][0] for entry in (*train, test)]
    return _data(
        joined(parts), held_out, np.concatenate(chosen), split_pictures(len(held_out.files), seed).test,
        f"{' and '.join(titles[:-1])}, tested on {titles[-1]}", (seed, mirror, "combined"), mirror, observers,
    )  # fmt: skip


def read_set(name: str, folder: str | Path | None = None) -> Recording:
    """Read a whole set of `SETS`; DataError where there is none of that name, or its folder is absent or damaged."""
    if name not in SETS:
        raise DataError(
            f"data set {name}", "an unknown name", f"one of {', '.join(SETS)}",
            "Name one of these, or give one's own recordings as folder:PATH.",
        )  # fmt: skip
    return SETS[name][1](default_folder(f"gaze_{name}") if folder is None else Path(folder))


def read_named(entry: str) -> Recording:
    """Read a whole set of `SETS`, named with its folder after a colon where it is not the usual one."""
    name, _, folder = entry.partition(":")
    return read_set(name, folder or None)


def default_folder(name: str) -> Path:
    """Return the folder of the data set ``name`` under SECATEUR_DATA; DataError where that is not set."""
    parent = os.environ.get("SECATEUR_DATA")
    if not parent:
        raise DataError(
            f"data set {name}", "neither a folder nor the environment variable SECATEUR_DATA",
            "a folder with pictures and fixations",
            "Name the folder in the recipe, or set SECATEUR_DATA to the folder that holds the data sets.",
        )  # fmt: skip
    return Path(parent) / name


@dataclass(frozen=True, kw_only=True, eq=False)
class FixationSet:
    """A folder's pictures with their fixation counts on the grid."""

    pictures: Pictures
    counts: Float32[np.ndarray, "pictures rows columns"]
    fingerprint: str


def read_fixation_set(folder: Path, grid: tuple[int, int] = GRID_SIZE) -> FixationSet:
    """Read a folder with ``fixations.npz`` and count its fixations on ``grid`` (rows, columns)."""
    found = read_npz_set(folder)
    counts = found.fixations.counts(len(found.files), grid)
    return FixationSet(pictures=Pictures(files=found.files), counts=counts, fingerprint=found.fingerprint)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainPictures(Dataset[UInt8[Tensor, "3 height width"]]):
    """Pictures without fixations, for inference alone, at the network's input size."""

    files: Sequence[Path]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> UInt8[Tensor, "3 height width"]:
        return read_picture(self.files[item])


def mit300(folder: str | Path | None = None) -> PlainPictures:
    """Read the pictures of MIT300: 300 natural scenes whose fixations only the benchmark's keepers have."""
    return PlainPictures(files=mit300_files(default_folder("gaze_mit300") if folder is None else Path(folder)))


def _data(
    training: Recording, testing: Recording, train: np.ndarray, test: np.ndarray, title: str,
    settings: tuple[object, ...], mirror: bool, observers: bool,
) -> Data:  # fmt: skip
    seen, unseen = (part.fixations.counts(len(part.files), GRID_SIZE) for part in (training, testing))
    pictures = Pictures(files=training.files)
    plain = FixatedPictures(picture=pictures, counts=seen, indices=train)
    centre_bias = fitted_centre_bias(seen[train])
    facts = scores_of("centre_bias", centre_bias, unseen[test])
    if observers:
        facts |= gold_standard(training, train, testing, test, centre_bias)
    return Data(
        train=FixatedPictures(picture=pictures, counts=seen, indices=train, mirrored=mirror),
        test=FixatedPictures(
            picture=pictures if testing is training else Pictures(files=testing.files), counts=unseen, indices=test
        ),
        calibration=plain,
        description=f"{title}: {len(train)} training and {len(test)} test pictures, free viewing",
        facts=facts,
        preparation=PREPARATION,
        fingerprint=f"{training.fingerprint}-{testing.fingerprint}-{GRID_SIZE}-{INPUT_SIZE}-{settings}",
    )
