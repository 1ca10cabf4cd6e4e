"""MIT1003 and MIT300: natural pictures, 15 viewers a picture, and pictures whose fixations are kept back.

MIT1003 (Judd et al. 2009) as it is published: ``ALLSTIMULI/<name>.jpeg``, and for every viewer ``DATA/<viewer>/
<name>.mat`` with one struct whose field ``DATA.eyeData`` has a row a sample, 240 a second: x, y in pixels from one.
Fixations are found in them as the publication does, see `fixated_places`; a viewer's first is dropped, as there.
MIT300 (Judd et al. 2012) is ``BenchmarkIMAGES/*.jpg``.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from secateur.errors import DataError
from secateur.workloads.gaze.eye_movements import fixated_places
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.mat_file import read_mat
from secateur.workloads.gaze.recording import Recording, picture_sizes, recording

FETCH = "Fetch ALLSTIMULI.zip and DATA.zip of MIT1003 again and unpack them there."


def read_mit1003(folder: Path) -> Recording:
    """Read a folder that holds ALLSTIMULI and DATA; viewers without a file for a picture did not see it."""
    files = sorted((folder / "ALLSTIMULI").glob("*.jpeg"))
    viewers = sorted(path for path in (folder / "DATA").glob("*") if path.is_dir())
    if not files or not viewers:
        found = "no such folder" if not folder.is_dir() else f"{len(files)} pictures and {len(viewers)} viewers"
        raise DataError(str(folder), found, "ALLSTIMULI/*.jpeg and DATA/<viewer>/*.mat of MIT1003", FETCH)
    sizes = picture_sizes(files)
    places, picture, viewer = [np.zeros((0, 2))], [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for index, file in enumerate(files):
        for person, path in enumerate(viewers):
            if (path / f"{file.stem}.mat").is_file():
                seen = _fixations(path / f"{file.stem}.mat")[1:]
                places.append((seen - 0.5) / sizes[index, ::-1])
                picture.append(np.full(len(seen), index))
                viewer.append(np.full(len(seen), person))
    across, down = np.concatenate(places).T
    fixations = Fixations(
        picture=np.concatenate(picture), viewer=np.concatenate(viewer), across=across.copy(), down=down.copy()
    )
    return recording(folder, files, sizes, fixations, FETCH)


def mit300_files(folder: Path) -> list[Path]:
    """Return the pictures of MIT300 in a folder that holds BenchmarkIMAGES, or in that folder itself."""
    root = folder / "BenchmarkIMAGES" if (folder / "BenchmarkIMAGES").is_dir() else folder
    files = sorted(root.glob("*.jpg"))
    if not files:
        raise DataError(
            str(folder), "no *.jpg" if folder.is_dir() else "no such folder", "the folder BenchmarkIMAGES of MIT300",
            "Fetch BenchmarkIMAGES.zip of MIT300 again and unpack it there.",
        )  # fmt: skip
    return files


def _fixations(path: Path) -> Float64[np.ndarray, "fixations 2"]:
    """Return the x, y of every fixation."""
    structs = list(read_mat(path, "a struct with DATA.eyeData").values())
    try:
        samples = np.asarray(np.atleast_1d(structs[0]["DATA"].item())[0]["eyeData"], dtype=np.float64)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(str(path), f"no samples ({error})", "a struct with DATA.eyeData", FETCH) from error
    if samples.ndim != 2 or samples.shape[1] < 2:
        raise DataError(str(path), f"samples of shape {samples.shape}", "rows of x, y", FETCH)
    return fixated_places(samples[:, :2])
