"""The stream: a film made here goes through a network that looks at what is bright, into a film and into pictures."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from secateur import cli
from secateur.artifacts import FileFacts, Model, OpenSize, Pictures
from secateur.backends import BACKENDS
from secateur.errors import BackendError, DataError, LoadError, StorageError
from secateur.pipeline.export import export
from secateur.workloads.gaze.drawing import draw_gaze
from secateur.workloads.gaze.frames import open_frames, open_sink
from secateur.workloads.gaze.scan_path import ScanPath
from secateur.workloads.gaze.stream import Stream

HEIGHT, WIDTH, NUM_FRAMES = 62, 90, 6


class Brightness(nn.Module):
    """A gaze network that looks at what is bright, a cell for 4 x 4 pixels."""

    def __init__(self, *, normalised: bool = True) -> None:
        super().__init__()
        self.normalised = normalised

    def forward(self, pictures):
        cells = 20 * functional.avg_pool2d(pictures.mean(1, keepdim=True), 4)[:, 0]
        return cells - cells.logsumexp((1, 2), keepdim=True) if self.normalised else cells


def write_onnx(path: Path, module: nn.Module, shape=(1, 3, 32, 48), **options) -> Path:
    torch.onnx.export(module.eval(), (torch.rand(shape),), dynamo=True, opset_version=20, **options).save(path)
    return path


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("engine") / "bright.onnx", Brightness())


@pytest.fixture(scope="module")
def open_engine(tmp_path_factory):
    """The same network, its height and width open in steps of four."""
    sizes = {name: OpenSize(axis=axis, least=16, most=64, multiple=4) for axis, name in ((2, "height"), (3, "width"))}
    model = Model(module=Brightness(), example_inputs=(torch.rand(1, 3, 32, 48),))
    return export(
        model, tmp_path_factory.mktemp("open"), name="bright", dynamic_batch=False, open_sizes=sizes
    ).path  # fmt: skip


def scene(number: int) -> np.ndarray:
    """A bright square that moves to the right, a fainter one that stays in a corner."""
    frame = np.full((HEIGHT, WIDTH, 3), 20, dtype=np.uint8)
    frame[48:60, 4:16] = 130
    left = 10 + 11 * number
    frame[20:32, left : left + 12] = 250
    return frame


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(NUM_FRAMES):
        Image.fromarray(scene(number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def film(tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with open_sink(path, Fraction(10)) as write:
        for number in range(NUM_FRAMES):
            write(str(number), scene(number))
    return path


def read(path: Path) -> list[np.ndarray]:
    with open_frames(str(path)) as frames:
        return [frame for _, frame in frames.each]


def test_a_film_keeps_its_frames_and_their_rate(film):
    with open_frames(str(film)) as frames:
        assert frames.rate == 10
        seen = [frame for _, frame in frames.each]
    assert len(seen) == NUM_FRAMES
    for number, frame in enumerate(seen):
        assert frame.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(frame.astype(int) - scene(number)).mean() < 6


def test_an_odd_film_is_made_even_and_smaller_pictures_are_padded(tmp_path):
    pytest.importorskip("av")
    with open_sink(tmp_path / "odd.mp4", Fraction(5)) as write:
        write("0", np.full((33, 47, 3), 200, dtype=np.uint8))
        write("1", np.full((20, 60, 3), 200, dtype=np.uint8))
    first, second = read(tmp_path / "odd.mp4")
    assert first.shape == second.shape == (34, 48, 3)
    assert second[5, 5].min() > 150
    assert second[30, 5].max() < 80


def test_larger_pictures_are_fitted_into_a_film_whole(tmp_path):
    pytest.importorskip("av")
    large = np.full((80, 60, 3), 20, dtype=np.uint8)
    large[60:, 40:] = 250
    with open_sink(tmp_path / "fitted.mp4", Fraction(5)) as write:
        write("0", np.full((40, 60, 3), 90, dtype=np.uint8))
        write("1", large)
    _, fitted = read(tmp_path / "fitted.mp4")
    assert fitted.shape == (40, 60, 3)
    assert fitted[36, 25].min() > 180  # the lower right corner, at half the size


def test_what_was_written_before_an_error_is_a_whole_film(pictures, engine, tmp_path):
    pytest.importorskip("av")
    (pictures / "4.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"4\.png: found an unreadable picture"):
        Stream()(str(pictures), engine, tmp_path / "seen.mp4")
    assert len(read(tmp_path / "seen.mp4")) == 4


def test_frames_are_upright(film, tmp_path):
    image = Image.fromarray(scene(0))
    held = image.getexif()
    held[0x0112] = 6  # a quarter turn clockwise makes it upright
    image.save(tmp_path / "held.png", exif=held)
    assert read(tmp_path / "held.png")[0].tolist() == np.rot90(scene(0), -1).tolist()
    content = film.read_bytes()
    place = content.index(b"tkhd") + 44
    quarter = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    film.write_bytes(content[:place] + quarter + content[place + 36 :])
    turned = read(film)[0]
    assert turned.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(turned.astype(int) - np.rot90(scene(0), -1)).mean() < 6


def test_pictures_that_differ_in_their_endings_alone_are_all_written(pictures, engine, tmp_path):
    Image.fromarray(scene(0)).save(pictures / "0.bmp")
    Stream()(str(pictures), engine, tmp_path / "seen")
    names = {file.name for file in (tmp_path / "seen").iterdir()}
    assert names == {"0.bmp.png", "0.png.png", *(f"{number}.png" for number in range(1, NUM_FRAMES))}


def test_what_is_read_is_never_written_over(pictures, film, engine, tmp_path):
    before = film.read_bytes()
    for source, out in ((film, film), (pictures, pictures), (pictures / "0.png", pictures)):
        with pytest.raises(StorageError, match=r"found the place that .* is read from"):
            Stream()(str(source), engine, out)
    assert film.read_bytes() == before


def test_a_film_goes_through_into_a_film(film, engine, tmp_path):
    out = tmp_path / "made" / "seen.mp4"
    pace = Stream(scan_path=ScanPath(num_fixations=1))(str(film), engine, out)
    assert pace.num_frames == NUM_FRAMES
    stages = [pace.read_s, pace.engine_s, pace.draw_s, pace.write_s]
    assert min(stages) > 0
    assert pace.frames_per_s == pytest.approx(1 / sum(stages))
    seen = read(out)
    assert len(seen) == NUM_FRAMES
    assert any(np.abs(frame.astype(int) - scene(n)).mean() > 10 for n, frame in enumerate(seen))


def test_a_folder_goes_through_into_pictures_hot_where_it_is_bright(pictures, engine, tmp_path):
    pace = Stream(scan_path=ScanPath(num_fixations=0))(str(pictures), engine, tmp_path / "seen")
    files = sorted((tmp_path / "seen").iterdir())
    assert [file.name for file in files] == [f"{number}.png" for number in range(NUM_FRAMES)]
    assert pace.num_frames == NUM_FRAMES
    for number, file in enumerate(files):
        warm = np.asarray(Image.open(file)).astype(int)
        row, column = np.unravel_index((warm[..., 0] - warm[..., 2] // 4).argmax(), warm.shape[:2])
        assert 16 <= row <= 36
        assert 6 + 11 * number <= column <= 26 + 11 * number


def told_by(path: Path, facts: FileFacts) -> Path:
    """Copy an ONNX file and have it say more of itself."""
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {**{e.key: e.value for e in proto.metadata_props}, **facts.entries()})
    onnx.save(proto, path.with_name("told.onnx"))
    return path.with_name("told.onnx")


def cells(stream: Stream, path: Path) -> np.ndarray:
    with stream._loaded(path, scene(0)) as predict:
        return predict(scene(0))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_open_sizes_are_those_asked_for_or_told_or_the_frames(engine, open_engine, backend):
    if (missing := BACKENDS[backend].unable_to_run()) is not None:
        pytest.skip(str(missing))
    assert cells(Stream(backend=backend), open_engine).shape == (16, 16), "62 x 90 brought within the bounds"
    usual = cells(Stream(backend=backend), engine)
    np.testing.assert_allclose(cells(Stream(backend=backend, size=(32, 48)), open_engine), usual, atol=1e-4)
    told = told_by(open_engine, FileFacts(pictures=Pictures(size=(24, 40))))
    assert cells(Stream(backend=backend), told).shape == (6, 10)
    assert cells(Stream(backend=backend, size=(64, 16)), told).shape == (16, 4)


def test_open_sizes_without_bounds_are_the_films(film, tmp_path):
    axes = {axis: torch.export.Dim(name, min=8, max=512) for axis, name in ((2, "rows"), (3, "columns"))}
    path = write_onnx(tmp_path / "any.onnx", Brightness(), dynamic_shapes=(axes,))
    assert cells(Stream(), path).shape == (HEIGHT // 4, WIDTH // 4)
    assert Stream()(str(film), path, tmp_path / "seen.mp4").num_frames == len(read(tmp_path / "seen.mp4")) == NUM_FRAMES


def test_sizes_that_a_network_does_not_take_are_refused(engine, open_engine, pictures):
    with pytest.raises(LoadError, match="does not take pictures of 33x90; wanted for example 32x64"):
        Stream(size=(33, 90))(str(pictures), open_engine)
    with pytest.raises(LoadError, match="does not take pictures of 64x96; wanted for example 32x48"):
        Stream(size=(64, 96))(str(pictures), engine)


def test_frames_can_be_limited_and_need_not_be_written(pictures, engine):
    assert Stream(max_frames=2)(str(pictures), engine).num_frames == 2
    assert Stream()(str(pictures / "3.png"), engine).num_frames == 1


def test_the_scan_path_takes_the_highest_first_and_does_not_return():
    density = np.full((20, 30), 0.1)
    for height, (row, column) in zip((0.5, 0.4, 0.3), ((4, 5), (15, 25), (4, 6)), strict=True):
        density[row, column] = height
    places = ScanPath(num_fixations=3, radius=0.1)(np.log(density))
    np.testing.assert_allclose(places[:2], [[5.5 / 30, 4.5 / 20], [25.5 / 30, 15.5 / 20]])
    assert np.hypot(*((places[2] - places[0]) * (30, 20))) > 3  # beside the first, the third peak is inhibited
    narrow = ScanPath(num_fixations=3, radius=0.001)(np.log(density))
    np.testing.assert_allclose(narrow[2], [6.5 / 30, 4.5 / 20])


@pytest.mark.parametrize("seed", range(5))
def test_no_place_comes_twice_and_there_are_at_most_as_many_as_cells(seed):
    log_density = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    places = ScanPath(num_fixations=99, radius=0.3)(log_density)
    assert len({tuple(place) for place in places.tolist()}) == 12


def test_drawing_marks_the_places_and_leaves_the_frame_as_it_was():
    frame = np.full((60, 80, 3), 120, dtype=np.uint8)
    log_density = np.full((6, 8), -9.0, dtype=np.float32)
    plain = draw_gaze(frame, log_density, np.zeros((0, 2)))
    marked = draw_gaze(frame, log_density, np.array([[0.25, 0.5], [0.75, 0.5]]))
    assert (frame == 120).all()
    changed = np.abs(marked.astype(int) - plain).sum(-1) > 0
    assert changed[30, 20]
    assert changed[30, 40]  # the line between
    assert changed[30, 60]
    assert not changed[5:15].any()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere.mp4", DataError, "found nothing of that name; wanted a film, pictures or a camera's number"),
        ("empty", DataError, "found no pictures; wanted files that end in"),
        ("damaged.png", DataError, "found an unreadable picture"),
        ("damaged.mp4", DataError, "found a film that cannot be read"),
        ("937", DataError, "/dev/video937: found a film that cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, engine, monkeypatch, source, error, message):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name in ("damaged.png", "damaged.mp4"):
        Path(name).write_bytes(b"no picture")
    with pytest.raises(error, match=message):
        Stream()(source, engine)


def test_other_networks_backends_and_outputs_are_named(tmp_path, pictures, engine):
    with pytest.raises(BackendError, match="the backend 'abacus'"):
        Stream(backend="abacus")(str(pictures), engine)
    with pytest.raises(BackendError, match=r"nothing\.onnx"):
        Stream()(str(pictures), tmp_path / "nothing.onnx")
    logits = write_onnx(tmp_path / "logits.onnx", Brightness(normalised=False))
    with pytest.raises(LoadError, match="found a map whose exponential sums to"):
        Stream()(str(pictures), logits)
    flat = write_onnx(tmp_path / "flat.onnx", nn.Linear(4, 2), shape=(1, 4))
    with pytest.raises(LoadError, match=r"found inputs of shapes \[\[1, 4\]\]"):
        Stream()(str(pictures), flat)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="found an output that cannot be written"):
        Stream()(str(pictures), engine, tmp_path / "file" / "seen")
    pytest.importorskip("av")
    for name in ("seen.xyz", "seen.gif"):  # no film's ending, and that of films of another kind
        with pytest.raises(StorageError, match="found an output that cannot be written"):
            Stream()(str(pictures), engine, tmp_path / name)


def test_without_pyav_films_say_what_to_install(tmp_path, engine, monkeypatch, pictures):
    (tmp_path / "film.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"found no package av; wanted PyAV.* `pip install 'secateur\[video\]'`"):
        Stream()(str(tmp_path / "film.mp4"), engine)
    assert Stream(max_frames=1)(str(pictures), engine).num_frames == 1


def test_the_verb_tells_the_pace(pictures, engine, tmp_path, monkeypatch, capsys):
    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["secateur", "gaze", str(pictures), "--engine", str(engine), *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        return capsys.readouterr().out

    told = " ".join(call("--out", str(tmp_path / "seen"), "--frames", "3").split())
    assert told.startswith("3 frames, ")
    assert all(word in told for word in ("frames/s: read", "engine", "draw", "write", "seen"))
    assert len(list((tmp_path / "seen").iterdir())) == 3
    assert json.loads(call("--json", "--fixations", "2"))["num_frames"] == NUM_FRAMES
    told = call("--json", "--frames", "1", "--size", "32x48")
    assert json.loads(told)["num_frames"] == 1
    monkeypatch.setattr(sys, "argv", ["secateur", "gaze", str(pictures), "--engine", str(engine), "--size", "32"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "--size 32: found no height x width" in " ".join(capsys.readouterr().err.split())
