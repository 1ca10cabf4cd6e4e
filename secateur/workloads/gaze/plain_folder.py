"""One's own recordings: a folder of pictures and a table of fixations.

``images/*`` (or the pictures in the folder itself) and ``fixations.csv``, ``.npz`` or ``.mat`` with the columns
``image`` (a file's name), ``x``, ``y`` (pixels of the file from its upper left corner), and perhaps ``subject``
(viewers; one where absent) and ``order`` (0 is a viewer's first fixation, which is dropped; all are kept where absent).
"""

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.mat_file import read_mat
from secateur.workloads.gaze.recording import Recording, picture_sizes, recording

WANTED = "columns image, x, y, and perhaps subject, order"
CURE = "Write one row a fixation, or leave pictures out that nobody looked at."
COLUMNS = ("image", "x", "y", "subject", "order")


def read_folder(folder: Path) -> Recording:
    """Read the pictures that the table names; DataError where the table is damaged or names an absent one."""
    table = next((path for path in (folder / f"fixations.{kind}" for kind in READERS) if path.is_file()), None)
    if table is None:
        raise DataError(
            str(folder), "no table of fixations" if folder.is_dir() else "no such folder",
            "fixations.csv, .npz or .mat beside the pictures", CURE,
        )  # fmt: skip
    columns = READERS[table.suffix[1:]](table)
    missing = [name for name in COLUMNS[:3] if name not in columns]
    lengths = {len(np.atleast_1d(column)) for column in columns.values()}
    if missing or len(lengths) != 1:
        found = f"no column {missing[0]}" if missing else f"columns of lengths {sorted(lengths)}"
        raise DataError(str(table), found, WANTED, CURE)
    names, picture = np.unique(np.atleast_1d(columns["image"]).astype(str), return_inverse=True)
    root = folder / "images" if (folder / "images").is_dir() else folder
    files = [root / str(name).strip() for name in names]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(
            str(root), f"{len(absent)} missing pictures, the first {absent[0]}", f"all pictures of {table.name}", CURE
        )  # fmt: skip
    try:
        x, y = (np.atleast_1d(columns[name]).astype(np.float64) for name in ("x", "y"))
        order = np.atleast_1d(columns["order"]).astype(np.float64) if "order" in columns else np.ones(len(x))
    except ValueError as error:
        raise DataError(str(table), f"a coordinate that is no number ({error})", WANTED, CURE) from error
    viewer = np.zeros(len(x), dtype=np.int64)
    if "subject" in columns:
        viewer = np.unique(np.atleast_1d(columns["subject"]).astype(str), return_inverse=True)[1].astype(np.int64)
    sizes = picture_sizes(files)
    fixations = Fixations(
        picture=picture.astype(np.int64), viewer=viewer, across=x / sizes[picture, 1], down=y / sizes[picture, 0]
    )
    return recording(table, files, sizes, fixations.where(order > 0), CURE)


def _from_csv(path: Path) -> dict[str, Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(str(path), f"an unreadable table ({error})", WANTED, CURE) from error
    ragged = [number for number, row in enumerate(rows, start=2) if None in row or None in row.values()]
    if ragged:
        raise DataError(str(path), f"a row of another length, line {ragged[0]}", WANTED, CURE)
    return {name: np.array([row[name] for row in rows]) for name in COLUMNS if rows and name in rows[0]}


def _from_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in COLUMNS if name in archive}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"an unreadable archive ({error})", WANTED, CURE) from error


def _from_mat(path: Path) -> Mapping[str, Any]:
    return {name: value for name, value in read_mat(path, WANTED).items() if name in COLUMNS}


READERS = {"csv": _from_csv, "npz": _from_npz, "mat": _from_mat}
"""How each kind of table is read. A new one is one function and one line here."""
