"""MATLAB files, and what can be wrong with them."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from secateur.errors import DataError


def read_mat(path: Path, wanted: str) -> Mapping[str, Any]:
    """Read the variables of a MATLAB file up to version 7.2, structs as records; DataError where that fails."""
    try:
        return {
            name: value
            for name, value in loadmat(path, squeeze_me=True, struct_as_record=True).items()
            if not name.startswith("__")
        }
    except (
        OSError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        NotImplementedError,
        MatReadError,
        zlib.error,
    ) as error:
        raise DataError(
            str(path), f"an unreadable MATLAB file ({error})", wanted,
            "Fetch the data set again; save files of version 7.3 as version 7.",
        ) from error  # fmt: skip
