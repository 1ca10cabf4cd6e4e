"""CAT2000: 2000 pictures in 20 categories, 18 viewers a picture (Borji and Itti 2015, arXiv 1505.03581).

The training set as it is published: ``trainSet/Stimuli/<category>/<number>.jpg``, and ``FIXATIONLOCS/<category>/
<number>.mat`` with ``fixLocs``, a matrix of the picture's size that is 1 where somebody looked. Viewers are not told
apart, and first fixations are among the others.
"""

from pathlib import Path

import numpy as np

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.mat_file import read_mat
from secateur.workloads.gaze.recording import Recording, recording

FETCH = "Fetch trainSet.zip of CAT2000 again and unpack it there."


def read_cat2000(folder: Path) -> Recording:
    """Read the folder ``trainSet``, or one that holds it."""
    root = folder / "trainSet" if (folder / "trainSet").is_dir() else folder
    files = sorted(file for file in (root / "Stimuli").glob("*/*.jpg"))
    if not files:
        raise DataError(
            str(folder), "no Stimuli/<category>/*.jpg" if folder.is_dir() else "no such folder",
            "the folder trainSet of CAT2000", FETCH,
        )  # fmt: skip
    picture, across, down, sizes = [], [], [], np.zeros((len(files), 2))
    for place, file in enumerate(files):
        path = root / "FIXATIONLOCS" / file.parent.name / f"{file.stem}.mat"
        marks = np.asarray(read_mat(path, "a matrix fixLocs").get("fixLocs"))
        if marks.ndim != 2 or not np.issubdtype(marks.dtype, np.number):
            raise DataError(str(path), "no matrix fixLocs", "a matrix fixLocs of the picture's size", FETCH)
        rows, columns = np.nonzero(marks)
        sizes[place] = marks.shape
        picture.append(np.full(len(rows), place))
        down.append((rows + 0.5) / marks.shape[0])
        across.append((columns + 0.5) / marks.shape[1])
    index = np.concatenate(picture)
    fixations = Fixations(
        picture=index, viewer=np.zeros_like(index), across=np.concatenate(across), down=np.concatenate(down)
    )
    return recording(root, files, sizes, fixations, FETCH)
