"""Who is told how far a training has come."""

from typing import Protocol, runtime_checkable

__all__ = ["Progress", "silent"]


@runtime_checkable
class Progress(Protocol):
    """Hears of every step; an exception that it raises ends the training and leaves the last checkpoint usable."""

    def __call__(self, description: str, done: int, total: int, /) -> None:
        """Hear what is under way, and how many of all steps are done."""


def silent(description: str, done: int, total: int, /) -> None:
    """Ignore the progress."""
