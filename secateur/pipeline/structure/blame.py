"""Name the line of a network's own code at which it failed."""

import os
import sys
import traceback
from pathlib import Path

import jaxtyping
import torch
from torch import nn

_NOT_THE_NETWORK = tuple(str(Path(file).parent) + os.sep for file in (torch.__file__, jaxtyping.__file__, __file__))
_STANDARD_LIBRARY = str(Path(os.__file__).parent) + os.sep


def blame(error: Exception, module: nn.Module) -> tuple[str, nn.Module | None]:
    """Say where in ``module`` an error was raised, and what it was, as ``package/file.py:12 in layer.0 (Block): ...``.

    The line is the innermost one that belongs neither to PyTorch nor to this package. Returned with it is the part of
    the network whose method it is in, if any.
    """
    what = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:200]}"
    frames = list(traceback.walk_tb(error.__traceback__))
    lines = traceback.StackSummary.extract(iter(frames), lookup_lines=True)
    paths = {id(owner): path for path, owner in module.named_modules()}
    for (frame, _), line in reversed(list(zip(frames, lines, strict=True))):
        if _is_own(line.filename):
            owner = frame.f_locals.get("self")
            is_part = id(owner) in paths
            place = f" in {paths[id(owner)] or 'forward'} ({type(owner).__name__})" if is_part else ""
            return f"{_short(line.filename)}:{line.lineno}{place}, `{line.line}`, {what}", owner if is_part else None
    return what, None


def _is_own(filename: str) -> bool:
    """Tell whether a file is the network's: not PyTorch's, this package's or Python's own."""
    if filename.startswith(("<", *_NOT_THE_NETWORK)):
        return False
    return "site-packages" in Path(filename).parts or not filename.startswith(_STANDARD_LIBRARY)


def _short(filename: str) -> str:
    """Return a file's path below the folder that it is imported from."""
    folders = [folder for folder in sys.path if folder and Path(filename).is_relative_to(folder)]
    return str(Path(filename).relative_to(max(folders, key=len))) if folders else Path(filename).name
