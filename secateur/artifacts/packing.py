"""What packing finds."""

from secateur.artifacts.record import Record


class PackedTensor(Record):
    """A tensor in an archive.

    ``entropy_bytes`` is what no code of single values with the same counts can do without; ``zeros`` the share of
    values that are zero bit by bit; ``sharing_error`` the root mean square of what sharing changed over that of the
    weights.
    """

    dtype: str
    shape: tuple[int, ...]
    form: str
    dense_bytes: int
    coded_bytes: int
    entropy_bytes: float
    zeros: float
    distinct: int
    sharing_error: float


class PackResult(Record):
    """An archive: what it was made from, how large both are, and each tensor."""

    source: str
    sharing: str | None
    levels: int
    source_bytes: int
    archive_bytes: int
    tensors: dict[str, PackedTensor]

    @property
    def ratio(self) -> float:
        """The size of the archive over that of the file."""
        return self.archive_bytes / self.source_bytes
