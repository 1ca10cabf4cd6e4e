"""A table of text that Markdown, HTML and the terminal print alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header.

    ``right`` holds the columns that align to the right, as numbers do; ``spare`` those that may be left out where
    there is no space for them, the most dispensable first.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    spare: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"table {self.title!r}: every row needs {len(self.header)} cells")

    def aligned(self, column: int) -> Literal["left", "right"]:
        """Return a column's alignment."""
        return "right" if column in self.right else "left"

    def only(self, columns: Sequence[int]) -> "Table":
        """Return the table with these columns alone."""
        return Table(
            title=self.title, header=tuple(self.header[column] for column in columns),
            rows=tuple(tuple(row[column] for column in columns) for row in self.rows),
            right=frozenset(place for place, column in enumerate(columns) if column in self.right),
        )  # fmt: skip


NO_TABLE = Table(title="", header=(), rows=())
