"""Weights that others trained, from a file onto a network."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from secateur.errors import LoadError

N = TypeVar("N", bound=nn.Module)


def with_weights(module: N, weights: str | Path | None) -> N:
    """Return the network in evaluation mode, with the weights of a file where one is given, see `load_weights`."""
    if weights is not None:
        load_weights(module, weights)
    return module.eval()


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Load a state dict from a file and return the module.

    A relative path starts in the working folder or, where nothing is there, in the folder that the environment variable
    SECATEUR_DATA names. The file holds the state dict itself or keeps it under ``state_dict``; a ``module.`` that
    data-parallel training put before the names is dropped. Nothing but tensors is unpickled. LoadError where the file
    is absent, damaged or made for another network.
    """
    path = _found(Path(path))
    where = f"weights {path}"
    if not path.is_file():
        raise LoadError(
            where, "no such file", "a file of weights",
            "Correct the path (a relative one starts in the working folder or in SECATEUR_DATA), or leave it out.",
        )  # fmt: skip
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise LoadError(
            where, f"a file that cannot be read ({_first_line(error)})", "tensors saved by torch.save",
            "Fetch the file again; it may be cut short, or hold more than tensors.",
        ) from error  # fmt: skip
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LoadError(
            where, f"{type(found).__name__} without tensors by name", "a state dict", "Save module.state_dict()."
        )
    try:
        module.load_state_dict(OrderedDict((name.removeprefix("module."), value) for name, value in state.items()))
    except RuntimeError as error:
        raise LoadError(
            where, f"weights of another network ({_differences(module, state)})", f"those of {type(module).__name__}",
            "Choose the network that the weights were trained for.",
        ) from error  # fmt: skip
    return module


def _found(path: Path) -> Path:
    elsewhere = Path(os.environ.get("SECATEUR_DATA", "")) / path
    return elsewhere if not path.exists() and elsewhere.is_file() else path


def _differences(module: nn.Module, state: dict[str, Tensor]) -> str:
    """Say which tensors are missing, unknown or of another shape, one example each."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name.removeprefix("module."): tuple(value.shape) for name, value in state.items()}
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    reshaped = [name for name in wanted if name in given and wanted[name] != given[name]]
    said = []
    if missing:
        said.append(f"{len(missing)} missing, as {missing[0]}")
    if unknown:
        said.append(f"{len(unknown)} unknown, as {unknown[0]}")
    if reshaped:
        said.append(f"{len(reshaped)} of another shape, as {reshaped[0]} {given[reshaped[0]]}")
    return "; ".join(said)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
