"""A table of text that Markdown, HTML and the terminal print alike."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header; ``right`` holds the columns that align to the right, as numbers do."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"table {self.title!r}: every row needs {len(self.header)} cells")

    def aligned(self, column: int) -> Literal["left", "right"]:
        """Return a column's alignment."""
        return "right" if column in self.right else "left"


NO_TABLE = Table(title="", header=(), rows=())
