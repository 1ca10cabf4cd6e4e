"""SALICON: 15,000 pictures of COCO with mouse-tracked attention (Jiang et al. 2015).

As it is published: ``images/<part>/COCO_*.jpg`` with parts train and val, and either ``fixations/<part>/<name>.mat`` (a
struct array ``gaze``, one entry a viewer, with ``fixations`` as x, y) or ``fixations_<part>.json`` in COCO's manner
(``annotations`` with ``image_id``, ``worker_id`` and ``fixations`` as row, column). Pixels count from one. First
fixations are kept: the mouse starts nowhere.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.mat_file import read_mat
from secateur.workloads.gaze.recording import Recording, picture_sizes, recording

FETCH = "Fetch the images and fixations of SALICON again and unpack them there."


def read_salicon(folder: Path, part: str = "train") -> Recording:
    """Read one part of SALICON from a folder that holds images and fixations."""
    files = sorted((folder / "images" / part).glob("*.jpg"))
    if not files:
        raise DataError(
            str(folder), f"no images/{part}/*.jpg" if folder.is_dir() else "no such folder",
            f"images/{part}/*.jpg and fixations of SALICON", FETCH,
        )  # fmt: skip
    annotations = folder / f"fixations_{part}.json"
    if annotations.is_file():
        gazes = _from_json(annotations, files)
    else:
        gazes = [_from_mat(folder / "fixations" / part / f"{file.stem}.mat") for file in files]
    sizes = picture_sizes(files)
    # Rounded to whole pixels; the middle of the first one is one half.
    places = [
        (points - 0.5) / sizes[index, ::-1] for index, viewers in enumerate(gazes) for points in viewers
    ]  # fmt: skip
    lengths = np.array([len(points) for points in places], dtype=np.int64)
    owners = np.repeat(np.arange(len(files)), [len(viewers) for viewers in gazes])
    across, down = np.concatenate([np.zeros((0, 2)), *places]).T
    fixations = Fixations(
        picture=np.repeat(owners, lengths), viewer=np.repeat(np.arange(len(places)), lengths), across=across.copy(),
        down=down.copy(),
    )  # fmt: skip
    return recording(folder, files, sizes, fixations, FETCH)


def _from_mat(path: Path) -> list[np.ndarray]:
    """Return every viewer's x, y [fixations, 2]."""
    wanted = "a struct array gaze with fixations"
    gaze: Any = read_mat(path, wanted).get("gaze")
    try:
        return [np.asarray(viewer["fixations"], dtype=np.float64).reshape(-1, 2) for viewer in np.atleast_1d(gaze)]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(str(path), f"no gaze ({error})", wanted, FETCH) from error


def _from_json(path: Path, files: list[Path]) -> list[list[np.ndarray]]:
    """Return every picture's viewers' x, y [fixations, 2]."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = {entry["id"]: entry["file_name"] for entry in content["images"]}
        found: dict[str, list[np.ndarray]] = {file.name: [] for file in files}
        for entry in content["annotations"]:
            points = np.asarray(entry["fixations"], dtype=np.float64).reshape(-1, 2)
            found[numbers[entry["image_id"]]].append(points[:, ::-1])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            str(path), f"unreadable annotations ({type(error).__name__} {error})",
            "images with id and file_name, annotations with image_id and fixations", FETCH,
        ) from error  # fmt: skip
    return [found[file.name] for file in files]
