"""What a result was made with: the commit of the code and the installed distributions that were loaded."""

import functools
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


@functools.cache
def commit() -> str:
    """Name the commit that the package runs from, marked where files differ from it; empty outside of a checkout."""
    git = shutil.which("git")
    if git is None or not (CHECKOUT / ".git").exists():
        return ""
    command = [git, "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def loaded_distributions() -> dict[str, str]:
    """Return the versions of the installed distributions of which modules are loaded, by name."""
    loaded = {name.partition(".")[0] for name in tuple(sys.modules)}
    names = {owner for module in loaded for owner in _owners().get(module, ())}
    return {name: _version(name) for name in sorted(names, key=str.lower)}


@functools.cache
def _version(name: str) -> str:
    """Return a distribution's version; every question opens and parses a file, and there are many."""
    return importlib.metadata.version(name)


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    """Return the distributions that each top-level module belongs to; a namespace may have several."""
    return importlib.metadata.packages_distributions()
