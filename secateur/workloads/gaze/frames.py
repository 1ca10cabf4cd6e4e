"""Frames: read from a film, a camera or pictures, and written as a film or as pictures."""

import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from secateur.errors import DataError, StorageError
from secateur.workloads.gaze.recording import UNREADABLE

Frame = UInt8[np.ndarray, "height width 3"]

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
STILL_RATE = 5
"""Frames a second of a film made of pictures, which have no times of their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Frames one by one, RGB, with a name each, how many a second there are to be, and how many in all, if known."""

    each: Iterator[tuple[str, Frame]]
    rate: Fraction
    number: int | None = None


@contextmanager
def open_frames(source: str) -> Iterator[Frames]:
    """Open a film, a folder of pictures, one picture, or a camera by its number, as in ``0``.

    Raises:
        DataError: there is nothing of that name, or nothing in it that can be read.
    """
    path = Path(source)
    if source.isdigit():
        with _open_film(f"/dev/video{source}", format="v4l2") as film:
            yield film
    elif path.is_dir() or path.suffix.lower() in PICTURES:
        files = (
            [file for file in sorted(path.iterdir()) if file.suffix.lower() in PICTURES] if path.is_dir() else [path]
        )
        if not files:
            raise DataError(source, "no pictures", f"files that end in {', '.join(PICTURES)}", "Name another folder.")
        stems = Counter(file.stem for file in files)
        each = ((file.stem if stems[file.stem] == 1 else file.name, _picture(file)) for file in files)
        yield Frames(each=each, rate=Fraction(STILL_RATE), number=len(files))
    elif path.is_file():
        with _open_film(source) as film:
            yield film
    else:
        raise DataError(source, "nothing of that name", "a film, pictures or a camera's number", "Check the name.")


def require_apart(source: str, out: Path | None) -> None:
    """Raise StorageError where what is written would replace what is read."""
    read = Path(source)
    kept = {read.resolve(), read.parent.resolve()} if read.suffix.lower() in PICTURES else {read.resolve()}
    if out is not None and out.resolve() in kept:
        raise StorageError(str(out), f"the place that {source} is read from", "another place", "Give another --out.")


@contextmanager
def open_sink(out: Path | None, rate: Fraction) -> Iterator[Callable[[str, Frame], None]]:
    """Write frames into a folder, a picture each, or into a film where ``out`` ends as a film does; or nowhere.

    Raises:
        StorageError: it cannot be written.
    """
    if out is None:
        yield lambda name, frame: None
    elif out.suffix:
        with _film_sink(out, rate) as write:
            yield write
    else:

        def write_picture(name: str, frame: Frame) -> None:
            try:
                out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame).save(out / f"{name}.png")
            except OSError as error:
                raise _unwritable(out, error) from error

        yield write_picture


def _picture(path: Path) -> Frame:
    try:
        with Image.open(path) as image:
            # Upright, as cameras say they were held.
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE as error:
        raise DataError(
            str(path), f"an unreadable picture ({error})", "an image file that Pillow can decode", "Replace the file."
        ) from error  # fmt: skip


@contextmanager
def _open_film(name: str, **how: str) -> Iterator[Frames]:
    av = _library()
    try:
        container = av.open(name, **how)
    except (av.error.FFmpegError, OSError) as error:
        raise _unreadable(name, error) from error
    with container:
        if not container.streams.video:
            raise _unreadable(name, "no pictures in it")
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or STILL_RATE)
        yield Frames(each=_decoded(av, container, name), rate=rate, number=stream.frames or None)


def _decoded(av: types.ModuleType, container: Any, name: str) -> Iterator[tuple[str, Frame]]:
    try:
        for number, frame in enumerate(container.decode(video=0)):
            # Phones store how they were held, in degrees against the clock.
            yield f"{number:06d}", np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    except (av.error.FFmpegError, OSError) as error:
        raise _unreadable(name, error) from error


@contextmanager
def _film_sink(out: Path, rate: Fraction) -> Iterator[Callable[[str, Frame], None]]:
    av = _library()
    streams: list[Any] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _opened(av, out) as container:

            def write(name: str, frame: Frame) -> None:
                if not streams:
                    streams.append(_add_stream(av, container, out, rate, frame))
                picture = av.VideoFrame.from_ndarray(_fitted(frame, streams[0]), format="rgb24")
                container.mux(streams[0].encode(picture))

            try:
                yield write
            finally:
                # Whatever ended it: what is written so far is a whole film.
                for stream in streams:
                    container.mux(stream.encode())
    except (av.error.FFmpegError, OSError) as error:
        raise _unwritable(out, error) from error


def _opened(av: types.ModuleType, out: Path) -> Any:
    try:
        return av.open(str(out), "w")
    except ValueError as error:  # an ending that no film has
        raise _unwritable(out, error) from error


def _add_stream(av: types.ModuleType, container: Any, out: Path, rate: Fraction, first: Frame) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    try:
        stream = container.add_stream(codec, rate=rate)
    except ValueError as error:  # a film of another kind
        raise _unwritable(out, error) from error
    # Colours are stored for 2 x 2 pixels together: a film's sides are even.
    stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
    stream.pix_fmt = "yuv420p"
    stream.bit_rate = 8_000_000
    return stream


def _fitted(frame: Frame, stream: Any) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return a frame on a picture of the film's size: pictures of a folder may differ in size, a film's may not."""
    share = min(1.0, stream.height / frame.shape[0], stream.width / frame.shape[1])
    if share < 1:
        size = tuple(max(1, round(share * side)) for side in (frame.shape[1], frame.shape[0]))
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    picture = np.zeros((stream.height, stream.width, 3), dtype=np.uint8)
    picture[: frame.shape[0], : frame.shape[1]] = frame
    return picture


def _library() -> types.ModuleType:
    try:
        import av
    except ImportError as error:
        raise DataError(
            "films and cameras", "no package av", "PyAV, which reads and writes films",
            "Run `pip install 'secateur[video]'`, or give a folder of pictures.",
        ) from error  # fmt: skip
    return av


def _unreadable(name: str, error: object) -> DataError:
    return DataError(
        name, f"a film that cannot be read ({error})", "a film or camera that FFmpeg can decode", "Check the file."
    )


def _unwritable(out: Path, error: object) -> StorageError:
    return StorageError(
        str(out), f"an output that cannot be written ({error})", "a writable folder, or a film's name as in seen.mp4",
        "Give another --out.",
    )  # fmt: skip
