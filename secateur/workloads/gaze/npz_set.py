"""Sets in one archive: a folder with ``images/*`` and ``fixations.npz``.

The archive's arrays are ``image``, ``order``, ``x``, ``y``, ``orig_wh``, ``names`` and, where known, ``subject``;
coordinates are in pixels of the original picture, whatever size is stored. The first fixation of a viewer is dropped:
it is where the viewer happened to look before the picture came.
"""

import zipfile
from pathlib import Path

import numpy as np

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.recording import Recording, recording

COLUMNS = ("image", "order", "x", "y", "orig_wh", "names")
FETCH = "Fetch the data set again."


def read_npz_set(folder: Path) -> Recording:
    """Read ``folder``; DataError where it is absent or damaged, or a picture has no file or no fixations."""
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
            subject = archive["subject"] if "subject" in archive else np.zeros(len(image))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            str(path), f"an unreadable archive ({error})", f"arrays {', '.join(COLUMNS)}", FETCH
        ) from error  # fmt: skip
    lengths = [len(column) for column in (image, order, x, y, size, names)]
    if not (len({*lengths[:4], len(subject)}) == 1 and size.shape == (len(names), 2) and size.all()):
        raise DataError(
            str(path), f"arrays of lengths {lengths}",
            "one entry a fixation in image, order, x, y and one a picture in orig_wh, names", FETCH,
        )  # fmt: skip
    if len(image) and int(image.max()) >= len(names):
        raise DataError(
            str(path), f"a fixation on picture {int(image.max())}", f"an index below {len(names)}", FETCH
        )  # fmt: skip
    files = [folder / "images" / str(name) for name in names]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(
            str(folder / "images"), f"{len(absent)} missing pictures, the first {absent[0]}",
            f"the {len(files)} pictures that fixations.npz names", FETCH,
        )  # fmt: skip
    picture = image.astype(np.int64)
    everyone = Fixations(
        picture=picture,
        viewer=subject.astype(np.int64),
        across=x.astype(np.float64) / size[picture, 0],
        down=y.astype(np.float64) / size[picture, 1],
    )
    remedy = "Take the picture out of fixations.npz, or fetch the data set again."
    return recording(path, files, size[:, ::-1].astype(np.float64), everyone.where(order > 0), remedy)
