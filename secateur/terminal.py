"""The listener of the command line: one line a step, a bar for what takes long."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVERY_S = 10.0


class Terminal:
    """Draw the progress of a run on a console (standard error, so that standard output holds results only).

    A bar is drawn on a terminal; elsewhere, as in a log of a build server, a line now and then says how far it is.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._told_at = time.monotonic()

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, name: str) -> None:
        """Print the step's name."""
        self._clear()
        self._told_at = time.monotonic()
        self._console.print(f"[bold]{name}[/bold]")

    def done(self, name: str, reused: bool, duration_s: float) -> None:
        """Print how long the step took."""
        self._clear()
        self._console.print(f"  [dim]{'taken from the run folder, once ' if reused else ''}{duration_s:.1f} s[/dim]")

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(f"  {text}", highlight=False, markup=False)

    def progress(self, description: str, done: int, total: int) -> None:
        """Move the bar, or print a line where there is no terminal."""
        finished = 0 < total <= done
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(description, total=total or None)
            self._bar.update(self._task, description=description, completed=done, total=total or None)
            if finished:
                self._clear()
            return
        now = time.monotonic()
        if finished or now - self._told_at >= EVERY_S:
            self._told_at = now
            of = f" of {total}" if total else ""
            self._console.print(f"  {description}: {done}{of}", highlight=False, markup=False)

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
