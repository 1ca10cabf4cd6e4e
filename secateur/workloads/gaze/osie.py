"""OSIE: 700 pictures with many objects, 15 viewers a picture (Xu et al. 2014).

As it is published: ``data/stimuli/*.jpg`` and ``data/eye/fixations.mat`` with a cell array ``fixations``, an entry a
picture: ``img``, its file's name, and ``subjects``, a cell a viewer with ``fix_x`` and ``fix_y`` in pixels from the
upper left corner. A viewer's first fixation is dropped, as in other sets: it is where the viewer happened to look
before the picture came.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.mat_file import read_mat
from secateur.workloads.gaze.npz_set import read_npz_set
from secateur.workloads.gaze.recording import Recording, picture_sizes, recording

WANTED = "a cell array fixations with img, subjects, fix_x, fix_y"
FETCH = "Fetch the folder data of OSIE again."


def read_osie(folder: Path) -> Recording:
    """Read the folder ``data`` of OSIE, or one that holds it, or the set in one archive, see `read_npz_set`."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    table = root / "eye" / "fixations.mat"
    if not table.is_file():
        return read_npz_set(folder)
    entries = np.atleast_1d(np.asarray(read_mat(table, WANTED).get("fixations"), dtype=object))
    try:
        files = [root / "stimuli" / str(_field(entry, "img")) for entry in entries]
        viewers = [[_places(viewer) for viewer in np.atleast_1d(_field(entry, "subjects"))] for entry in entries]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(str(table), f"no fixations ({error})", WANTED, FETCH) from error
    sizes = picture_sizes(files)
    seen = [
        (picture, person, places[1:] / sizes[picture, ::-1])
        for picture, each in enumerate(viewers) for person, places in enumerate(each)
    ]  # fmt: skip
    numbers = np.array([len(places) for *_, places in seen], dtype=np.int64)
    across, down = np.concatenate([np.zeros((0, 2)), *(places for *_, places in seen)]).T
    fixations = Fixations(
        picture=np.repeat(np.array([picture for picture, *_ in seen], dtype=np.int64), numbers),
        viewer=np.repeat(np.array([person for _, person, _ in seen], dtype=np.int64), numbers),
        across=across.copy(), down=down.copy(),
    )  # fmt: skip
    return recording(folder, files, sizes, fixations, FETCH)


def _places(viewer: Any) -> Float64[np.ndarray, "fixations 2"]:
    columns = [np.asarray(_field(viewer, name), dtype=np.float64).reshape(-1) for name in ("fix_x", "fix_y")]
    return np.stack(columns, axis=1)


def _field(struct: Any, name: str) -> Any:
    """Return a struct's field out of the array without axes that it may be in."""
    value = struct[name]
    return value.item() if isinstance(value, np.ndarray) and not value.ndim else value
