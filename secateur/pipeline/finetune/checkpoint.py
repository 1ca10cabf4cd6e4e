"""Where a training stands, as one file that is always whole."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.artifacts import FinetuneEpoch, Record
from secateur.errors import StorageError, TrainingError

__all__ = ["Checkpoint", "Position", "fingerprint_of", "named_tensors", "state_of", "write_state"]

FILE_NAME = "checkpoint.safetensors"
STUDENT, BEST, OPTIMIZER, AVERAGE = "student.", "best.", "optimizer.", "average."


class Position(Record):
    """How far a training has come: whole steps, sums of the epoch under way, the epochs behind it, the best of them.

    ``scaler`` is the state of the loss scaling that half precision needs.
    """

    fingerprint: str
    step: int = 0
    num_samples: int = 0
    sums: dict[str, float] = Field(default_factory=dict)
    epochs: tuple[FinetuneEpoch, ...] = ()
    best_epoch: int = 0
    scaler: dict[str, int | float] = Field(default_factory=dict)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers, also those that a state dict leaves out, to main memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in named_tensors(module)}


def write_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy what `state_of` returned back into the module."""
    with torch.no_grad():
        for name, tensor in named_tensors(module):
            tensor.copy_(state[name])


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers, also those that a state dict leaves out, tied ones once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def fingerprint_of(settings: str, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of all that decides how a training goes."""
    digest = hashlib.sha256(settings.encode())
    named = {f"{who}.{name}": tensor for who, module in modules.items() for name, tensor in named_tensors(module)}
    for name, tensor in sorted({**named, **tensors}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training's file in a folder: weights, the best and the averaged ones, the optimiser's memory, the position.

    It is written beside and then renamed, so an interruption at any moment leaves the one before.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE_NAME

    def save(
        self,
        student: nn.Module,
        best: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        position: Position,
    ) -> None:
        """Write where the training stands. StorageError where that is not possible."""
        tensors = {STUDENT + name: tensor for name, tensor in state_of(student).items()}
        tensors |= {BEST + name: tensor for name, tensor in best.items()}
        tensors |= {AVERAGE + name: tensor.cpu() for name, tensor in average.items()}
        for number, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{OPTIMIZER}{number}.{key}"] = value.detach().cpu().clone()
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        beside = self.folder / f"{FILE_NAME}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(contiguous, beside, metadata={"position": position.model_dump_json()})
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self.path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise StorageError(
                str(self.path), f"a checkpoint that cannot be written ({error})", "a writable folder with space",
                "Free some space or name another folder; the training resumes from the last checkpoint.",
            ) from error  # fmt: skip

    def load(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
    ) -> tuple[Position, dict[str, Tensor], dict[str, Tensor]] | None:
        """Take the training up: fill student and optimiser, return the position, the best and the averaged weights.

        None where there is no file. TrainingError where it belongs to another training, StorageError for a damaged one.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                position = Position.model_validate_json((file.metadata() or {})["position"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (OSError, SafetensorError, KeyError, ValidationError, json.JSONDecodeError) as error:
            raise StorageError(
                str(self.path), f"a damaged checkpoint ({type(error).__name__})", "what the training wrote",
                "Delete the file; the training starts anew.",
            ) from error  # fmt: skip
        if position.fingerprint != fingerprint:
            raise TrainingError(
                str(self.path), "the checkpoint of another training", "one of the same networks, data and settings",
                "Delete the file, or name another checkpoint folder.",
            )  # fmt: skip
        write_state(student, _part(tensors, STUDENT))
        memory: dict[int, dict[str, Any]] = {}
        for name, value in _part(tensors, OPTIMIZER).items():
            number, key = name.split(".", 1)
            memory.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})
        return position, _part(tensors, BEST), _part(tensors, AVERAGE)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
