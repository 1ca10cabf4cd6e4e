"""Who is told how a run goes on."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """Hears of steps and of the progress inside them; the command line draws it, `Silent` does not."""

    def step(self, name: str) -> None:
        """Hear that a step begins."""

    def done(self, name: str, reused: bool, duration_s: float) -> None:
        """Hear that a step is finished, or was found finished; the seconds are those it once took."""

    def message(self, text: str) -> None:
        """Hear a line about the step under way."""

    def progress(self, description: str, done: int, total: int) -> None:
        """Hear how far a loop has come; the total is 0 where it is not known."""


class Silent:
    """A listener that says nothing."""

    def step(self, name: str) -> None:
        """Ignore it."""

    def done(self, name: str, reused: bool, duration_s: float) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""

    def progress(self, description: str, done: int, total: int) -> None:
        """Ignore it."""
