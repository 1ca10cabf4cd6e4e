"""The forms in which a tensor's values are coded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Shaped

from secateur.pipeline.packing.dictionary import LzmaStream
from secateur.pipeline.packing.entropy import AT_A_TIME, AnsStream, entropy_bits
from secateur.pipeline.packing.plain import PlainStream

Stream = AnsStream | PlainStream
CODERS: dict[str, type[Stream]] = {"ans": AnsStream, "lzma": LzmaStream, "plain": PlainStream}
"""What codes a sequence of values; what takes the least room for the first `TRIED` of them is taken."""
TRIED = 2**18
FAR = 255
"""The gap that stands for so many zeros with no value behind them."""
MOST_KINDS = 2**12
"""A tensor with more distinct values is not one of shared weights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Code:
    """A tensor, coded: ``shape`` and the bits of its values as unsigned integers, in C order.

    `FORMS` says what the streams hold.
    """

    form: str
    shape: tuple[int, ...]
    streams: tuple[Stream, ...]

    @property
    def num_values(self) -> int:
        """The number of values, zeros among them."""
        return prod(self.shape)

    @property
    def row_size(self) -> int:
        """The number of values of one index of the first axis."""
        return prod(self.shape[1:])

    @property
    def num_bytes(self) -> int:
        """What the code takes, tables included."""
        return sum(len(stream.code) for stream in self.streams)

    def bits(self) -> Shaped[np.ndarray, "..."]:
        """Decode the whole tensor."""
        return FORMS[self.form].decode(self).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to code a tensor's bits, and back."""

    parts: Callable[[Shaped[np.ndarray, " values"]], tuple[Shaped[np.ndarray, " some"], ...]]
    decode: Callable[[Code], Shaped[np.ndarray, " values"]]
    suits: Callable[[Shaped[np.ndarray, " values"]], bool]


def coded(bits: Shaped[np.ndarray, "..."], form: str = "auto") -> Code:
    """Code a tensor's bits, unsigned integers, in the form named or the one that takes the least room."""
    flat = np.ascontiguousarray(bits).reshape(-1)
    names = [name for name in FORMS if FORMS[name].suits(flat)] if form == "auto" else [form]
    codes = [
        Code(form=name, shape=bits.shape, streams=tuple(map(_shortest, FORMS[name].parts(flat)))) for name in names
    ]
    return min(codes, key=lambda code: code.num_bytes)


def entropy_bytes(bits: Shaped[np.ndarray, "..."], form: str) -> float:
    """Return the entropy of the single values that a form codes, without tables."""
    return sum(map(entropy_bits, FORMS[form].parts(np.ascontiguousarray(bits).reshape(-1)))) / 8


def chunks(code: Code, at_a_time: int = AT_A_TIME) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decode the values of a sparse code that are not zero bit by bit: their places in C order, and their bits."""
    gaps, values = code.streams
    place, waiting, reader = 0, np.zeros(0, dtype=values.dtype), values.read(at_a_time)
    for some in gaps.read(at_a_time):
        ends = place + np.cumsum(np.where(some == FAR, FAR, some.astype(np.int64) + 1))
        place = int(ends[-1])
        places = ends[some != FAR] - 1
        while len(waiting) < len(places):
            waiting = np.concatenate([waiting, next(reader)])
        yield places, waiting[: len(places)]
        waiting = waiting[len(places) :]


def _shortest(values: Shaped[np.ndarray, " values"]) -> Stream:
    tried = min((coder.of(values[:TRIED]) for coder in CODERS.values()), key=lambda stream: len(stream.code))
    return tried if len(values) <= TRIED else type(tried).of(values)


def _whole(stream: Stream) -> Shaped[np.ndarray, " values"]:
    return np.concatenate([*stream.read(), np.zeros(0, dtype=stream.dtype)])


def _all_of(flat: Shaped[np.ndarray, " values"]) -> tuple[Shaped[np.ndarray, " some"], ...]:
    return (flat,)


def _decode_dense(code: Code) -> Shaped[np.ndarray, " values"]:
    return _whole(code.streams[0])


def _gaps_and_values(flat: Shaped[np.ndarray, " values"]) -> tuple[Shaped[np.ndarray, " some"], ...]:
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1) - 1
    far = gaps // FAR
    # Each value is announced by as many far gaps as fit, then by what is left.
    symbols = np.full(len(places) + int(far.sum()), FAR, dtype=np.uint8)
    symbols[np.arange(len(places)) + np.cumsum(far)] = gaps % FAR
    return symbols, flat[places]


def _decode_sparse(code: Code) -> Shaped[np.ndarray, " values"]:
    result = np.zeros(code.num_values, dtype=code.streams[1].dtype)
    for places, values in chunks(code):
        result[places] = values
    return result


def _bytes_by_place(flat: Shaped[np.ndarray, " values"]) -> tuple[Shaped[np.ndarray, " some"], ...]:
    return tuple(np.ascontiguousarray(flat.view(np.uint8).reshape(-1, flat.itemsize).T))


def _decode_planes(code: Code) -> Shaped[np.ndarray, " values"]:
    planes = [_whole(stream) for stream in code.streams]
    return np.ascontiguousarray(np.stack(planes, axis=1)).view(f"u{len(planes)}").reshape(-1)


def _is_shared(flat: Shaped[np.ndarray, " values"]) -> bool:
    return len(np.unique(flat)) <= MOST_KINDS


def _is_sparse(flat: Shaped[np.ndarray, " values"]) -> bool:
    return bool(2 * np.count_nonzero(flat) < len(flat)) and _is_shared(flat)


def _always(flat: Shaped[np.ndarray, " values"]) -> bool:
    return True


FORMS: dict[str, Form] = {
    "ham": Form(parts=_all_of, decode=_decode_dense, suits=_is_shared),
    "sham": Form(parts=_gaps_and_values, decode=_decode_sparse, suits=_is_sparse),
    "planes": Form(parts=_bytes_by_place, decode=_decode_planes, suits=_always),
}
"""Every value; the gaps between values that are not zero, and these; each byte of the values by itself."""
