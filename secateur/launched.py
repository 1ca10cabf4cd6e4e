"""A run among processes that ``torchrun`` started: one works and measures alone, all train together.

The first process does every step. The others load the network and the data, wait until there is something to train,
take their share of it and end, so that nothing disturbs the stopwatch afterwards. What the first process has to tell
them goes through the store by which ``torchrun`` connects processes; files through the run folder, which all must see.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from secateur.errors import RecipeError

__all__ = ["Lessons", "Others", "find_others", "is_helper", "require_one_process"]

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""By which a process knows that it is one of several."""
KEY = "secateur/training"
LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Which folders a training reads, and which it keeps its checkpoints in."""

    estimated: Path
    pruned: Path
    checkpoints: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class Others:
    """The processes that were started with this one, this one among them; ``variables`` are those that say so."""

    rank: int
    number: int
    store: Store
    variables: Mapping[str, str]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Work as if this process were the only one."""
        for name in self.variables:
            os.environ.pop(name, None)
        try:
            yield
        finally:
            os.environ.update(self.variables)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Train as one of all processes; afterwards this one works apart again."""
        os.environ.update(self.variables)
        try:
            yield
        finally:
            for name in self.variables:
                os.environ.pop(name, None)
            if distributed.is_initialized():
                distributed.destroy_process_group()

    def call(self, lessons: Lessons | None) -> None:
        """Tell the others what to train, or that there is nothing to train."""
        told = None if lessons is None else {name: str(path.resolve()) for name, path in vars(lessons).items()}
        self.store.set(KEY, json.dumps(told))

    def await_call(self) -> Lessons | None:
        """Wait until the first process says what to train; None where there is nothing."""
        self.store.wait([KEY], LONGEST_WAIT)
        told = json.loads(self.store.get(KEY))
        return None if told is None else Lessons(**{name: Path(path) for name, path in told.items()})


def num_launched() -> int:
    """Return how many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_helper() -> bool:
    """Tell whether this is one of several processes and not the first."""
    return num_launched() > 1 and os.environ.get("RANK", "0") != "0"


def find_others() -> Others | None:
    """Return the processes that were started with this one; None where it is alone.

    Raises RecipeError where they were not started by ``torchrun`` or what is built on it.
    """
    if num_launched() == 1:
        return None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise RecipeError(
            "a run of a recipe", f"{num_launched()} processes that torchrun did not start", "one, or torchrun's",
            "Start it with torchrun --nproc-per-node=2 -m secateur run recipe.yaml, or as a single process.",
        )  # fmt: skip
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(minutes=2))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return Others(rank=int(os.environ["RANK"]), number=num_launched(), store=store, variables=variables)


def require_one_process(what: str) -> None:
    """Raise RecipeError where several processes were launched for what one does."""
    if num_launched() > 1:
        raise RecipeError(
            what, f"{num_launched()} processes", "one: only the training of a run is shared",
            "Start it without torchrun.",
        )  # fmt: skip
