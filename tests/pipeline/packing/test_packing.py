"""Laws of compact storage: nothing is lost, little room is taken, products need no decoded matrix."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import secateur
from secateur.artifacts import Model
from secateur.cli import app
from secateur.errors import DataError, StorageError
from secateur.pipeline.export import export
from secateur.pipeline.packing import FORMS, SHARINGS, CodedMatrix, read_archive
from secateur.pipeline.packing.archive import NAMES
from secateur.pipeline.packing.entropy import AnsStream
from secateur.pipeline.packing.forms import CODERS, coded, entropy_bytes
from secateur.pipeline.packing.sharing import shared

TENSORS = {
    "normal": lambda g: g.standard_normal((16, 3, 3, 3)).astype(np.float32),
    "pruned, shared": lambda g: g.choice([0, 0, 0, 0, 0, 0, 0, -1.5, 0.5], (64, 60)).astype(np.float32),
    "nearly empty": lambda g: np.where(g.random((300, 70)) < 0.001, 1.0, 0.0).astype(np.float32),
    "a value, then nothing": lambda g: np.append(1.0, np.zeros(2000)).astype(np.float16),
    "nothing, then a value": lambda g: np.append(np.zeros(255), 1.0).astype(np.float64),
    "zeros": lambda g: np.zeros((7, 9), np.float32),
    "one value": lambda g: np.full((1, 1), 3.25, np.float32),
    "scalar": lambda g: np.array(2.0, np.float32),
    "empty": lambda g: np.zeros((0, 4), np.float32),
    "negative zero and NaN": lambda g: np.array([0.0, -0.0, np.nan, np.inf, 1e-45], np.float32),
    "int8": lambda g: g.integers(-127, 128, (32, 32)).astype(np.int8),
    "int64": lambda g: np.array([-1, 2**40, 0]),
    "bool": lambda g: g.random(50) < 0.5,
}  # fmt: skip


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", TENSORS)
def test_every_form_gives_every_bit_back(form: str, kind: str) -> None:
    values = TENSORS[kind](np.random.default_rng(0))
    code = coded(bits(values), form)
    got = code.bits()
    assert got.shape == values.shape
    assert got.tobytes() == values.tobytes()


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("at_a_time", [3, 10**6])
def test_every_coder_gives_every_value_back_in_portions(coder: str, kind: str, at_a_time: int) -> None:
    values = bits(TENSORS[kind](np.random.default_rng(1))).reshape(-1)
    stream = CODERS[coder].of(values)
    again = CODERS[coder].from_code(stream.code, *stream.facts)  # type: ignore[call-arg]
    assert again.code == stream.code
    assert (again.num_values, again.dtype) == (len(values), values.dtype)
    for one in (stream, again):
        portions = list(one.read(at_a_time))
        assert all(len(portion) == at_a_time for portion in portions[:-1])
        assert b"".join(portion.tobytes() for portion in portions) == values.tobytes()


@given(st.lists(st.integers(0, 255), min_size=1, max_size=400), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_shares_of_any_table_are_coded(seen: list[int], repeats: int) -> None:
    values = np.array(seen + seen[:1] * repeats, dtype=np.uint8)
    stream = AnsStream.of(values)
    again = AnsStream.from_code(stream.code, *stream.facts)
    assert (np.concatenate(list(again.read())) == values).all()
    assert (again.kinds == stream.kinds).all()
    assert (again.levels == stream.levels).all()


def test_rounded_kernels_take_less_than_zstd_and_less_than_single_values_can() -> None:
    zstandard = pytest.importorskip("zstandard", reason="zstd is compared with where the peers are installed")
    generator = np.random.default_rng(6)
    kernels = generator.standard_normal((64, 32, 9)) * generator.lognormal(0, 1, (64, 1, 1))
    rounded = np.rint(kernels * (100 / np.abs(kernels).max())).astype(np.int8)
    code = coded(bits(rounded))
    assert code.num_bytes < entropy_bytes(bits(rounded), "ham")
    assert code.num_bytes < len(zstandard.ZstdCompressor(level=19).compress(rounded.tobytes()))


@given(st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 7, 2**31]), max_size=3000), st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_sparse_codes_of_any_pattern(pattern: list[int], repeats: int) -> None:
    values = np.repeat(np.array(pattern, dtype=np.uint32), repeats)
    assert (coded(values, "sham").bits() == values).all()


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.5, 0.9, 0.99])
def test_codes_come_close_to_the_entropy(share_of_zeros: float) -> None:
    generator = np.random.default_rng(1)
    values = generator.choice(generator.standard_normal(32).astype(np.float32), (512, 256))
    values[generator.random(values.shape) < share_of_zeros] = 0
    shares = np.unique(values, return_counts=True)[1] / values.size
    bound = -(shares * np.log2(shares)).sum() * values.size / 8
    for form in ("ham", "sham") if share_of_zeros >= 0.5 else ("ham",):
        code = coded(bits(values), form)
        # Independent values: gaps and values hold no more than values do, and no less.
        assert 0.99 * bound <= code.num_bytes <= 1.01 * bound + 250, form
    assert coded(bits(values)).num_bytes <= code.num_bytes


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("levels", [1, 2, 16])
def test_shared_weights_take_few_values_and_zeros_stay(sharing: str, levels: int) -> None:
    generator = np.random.default_rng(2)
    values = (generator.standard_normal((40, 50)) * (generator.random((40, 50)) < 0.4)).astype(np.float32)
    got = shared(values, sharing, levels)
    assert got.dtype == values.dtype
    assert (got[values == 0] == 0).all()
    assert len(np.unique(got[values != 0])) <= levels
    assert (shared(got, sharing, levels) == got).all()
    if levels > 1:
        assert np.square(got - values).sum() < np.square(values).sum()


def test_k_means_is_nearer_and_entropy_constrained_shorter() -> None:
    values = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    found = {name: shared(values, name, 16) for name in SHARINGS}
    error = {name: float(np.square(got - values).mean()) for name, got in found.items()}
    length = {name: entropy_bytes(bits(got), "ham") for name, got in found.items()}
    assert error["k-means"] < min(error["uniform"], error["entropy"])
    assert length["entropy"] < min(length["k-means"], length["uniform"])


@pytest.mark.parametrize("form", ["ham", "sham"])
@pytest.mark.parametrize("at_a_time", [1, 100, 10**6])
def test_products_with_coded_matrices(form: str, at_a_time: int) -> None:
    generator = np.random.default_rng(4)
    values = generator.choice([0, 0, 0, 0.5, -2], (40, 5, 3)).astype(np.float32)
    values[7:12] = 0
    matrix = CodedMatrix(code=coded(bits(values), form), dtype=values.dtype, at_a_time=at_a_time)
    dense = values.reshape(40, 15)
    x, y = generator.standard_normal((15, 4)).astype(np.float32), generator.standard_normal((3, 40)).astype(np.float32)
    assert matrix.shape == dense.shape
    assert np.allclose(matrix @ x, dense @ x, atol=1e-4)
    assert np.allclose(matrix @ x[:, 0], dense @ x[:, 0], atol=1e-4)
    assert np.allclose(y @ matrix, y @ dense, atol=1e-4)
    with pytest.raises(DataError, match="found 14 entries; wanted 15"):
        matrix @ x[:14]


@pytest.mark.parametrize("form", ["ham", "sham"])
def test_products_do_not_hold_the_matrix(form: str) -> None:
    generator = np.random.default_rng(5)
    values = np.where(generator.random((2000, 1000)) < 0.05, 1.5, 0).astype(np.float32)
    matrix = CodedMatrix(code=coded(bits(values), form), dtype=values.dtype, at_a_time=2**13)
    x = np.ones(1000, np.float32)
    tracemalloc.start()
    got = matrix @ x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.allclose(got, values @ x)
    assert peak < values.nbytes / 8


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 16, 10))
    model = Model(module=network.eval(), example_inputs=(torch.randn(2, 3, 8, 8),))
    return export(model, tmp_path_factory.mktemp("packing"), name="network").path


def outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def test_a_packed_network_is_the_same_network(file: Path, tmp_path: Path) -> None:
    found = secateur.pack(file, tmp_path / "network.pack")
    assert found.archive_bytes == (tmp_path / "network.pack").stat().st_size < found.source_bytes
    got = secateur.unpack(tmp_path / "network.pack", tmp_path / "again.onnx")
    before, after = onnx.load(file), onnx.load(got)
    for one, other in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert one.name == other.name
        assert numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(other).tobytes()
    onnx.checker.check_model(after, full_check=True)
    batch = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    assert (outputs(file, batch) == outputs(got, batch)).all()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_shared_networks_are_small_and_near(sharing: str, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "shared.pack"
    found = secateur.pack(file, target, secateur.Pack(sharing=sharing, levels=32))
    weights = {name: tensor for name, tensor in found.tensors.items() if len(tensor.shape) > 1}
    assert len(weights) == 3
    for tensor in weights.values():
        assert tensor.distinct <= 32
        assert tensor.entropy_bytes <= tensor.coded_bytes <= 1.02 * tensor.entropy_bytes + 32 * 7
        assert 0 < tensor.sharing_error < 0.3
    assert found.ratio < 0.3
    batch = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    wanted, got = outputs(file, batch), outputs(secateur.unpack(target, tmp_path / "again.onnx"), batch)
    assert np.square(got - wanted).mean() < 0.1 * np.square(wanted).mean()
    name, tensor = next((n, t) for n, t in weights.items() if len(t.shape) == 4)
    held = {entry.name: entry for entry in onnx.load(tmp_path / "again.onnx").graph.initializer}
    rows = numpy_helper.to_array(held[name]).reshape(tensor.shape[0], -1)
    x = np.ones(rows.shape[1], np.float32)
    assert np.allclose(read_archive(target).matrix(name) @ x, rows @ x, atol=1e-4)


def test_saved_tensors_are_packed_as_well(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.randn(20, 30), "half": torch.randn(4, 4).bfloat16(), "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors", metadata={"of": "a test"})
    secateur.pack(tmp_path / "model.safetensors")
    packed = tmp_path / "model.safetensors.pack"
    got = secateur.unpack(packed, tmp_path / "again.safetensors")
    assert got.read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert all(torch.equal(load_file(got)[name], tensor) for name, tensor in tensors.items())


def test_archives_that_are_not_whole_are_refused(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "network.pack"
    secateur.pack(file, target)
    content = target.read_bytes()
    for end in (0, 10, 40, 100, len(content) // 2, len(content) - 1):
        target.write_bytes(content[:end])
        with pytest.raises(StorageError, match=r"not begin as an archive does|cut short or damaged"):
            secateur.unpack(target, tmp_path / "again.onnx")
    for place in (20, 60, len(content) // 2):
        target.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StorageError, match="cut short or damaged"):
            secateur.unpack(target, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["network.pack"]


def test_a_coder_that_decodes_otherwise_is_found_out(file: Path, tmp_path: Path) -> None:
    secateur.pack(file, tmp_path / "network.pack")
    archive = read_archive(tmp_path / "network.pack")
    name, code = next((n, c) for n, c in archive.codes.items() if isinstance(c.streams[-1], AnsStream))
    other = replace(code.streams[-1], words=code.streams[-1].words ^ np.uint32(64))
    broken = replace(code, streams=(*code.streams[:-1], other))
    with pytest.raises(StorageError, match="tensors that differ from those that were packed"):
        type(archive)(
            kind=archive.kind, rest=archive.rest, codes={**archive.codes, name: broken}, dtypes=archive.dtypes,
            sha256=archive.sha256,
        ).file()  # fmt: skip


def test_archives_of_a_later_version_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "network.pack"
    secateur.pack(file, target)
    archive = read_archive(target)
    name, code = next(iter(archive.codes.items()))
    replace(archive, codes={**archive.codes, name: replace(code, form="later")}).write(target)
    with pytest.raises(StorageError, match="tensors in the form 'later'"):
        secateur.unpack(target, tmp_path / "again.onnx")
    monkeypatch.setitem(NAMES, AnsStream, "newer")
    archive.write(target)
    with pytest.raises(StorageError, match="tensors in the form 'newer'"):
        secateur.unpack(target, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_bad_requests_are_refused(file: Path, tmp_path: Path) -> None:
    for settings_, message in (({"sharing": "luck"}, "sharing"), ({"form": "zip"}, "form"), ({"levels": 0}, "levels")):
        with pytest.raises(DataError, match=f"packing, {message}"):
            secateur.Pack(**settings_)
    with pytest.raises(StorageError, match=r"one of \.onnx, \.safetensors"):
        secateur.pack(tmp_path / "weights.pt")
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    for name in ("cut.onnx", "cut.safetensors"):
        with pytest.raises(StorageError, match="a whole"):
            secateur.pack(tmp_path / name)
    save_file({"weight": torch.full((2, 2), math.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="tensor weight: found NaN"):
        secateur.pack(tmp_path / "nan.safetensors", settings=secateur.Pack(sharing="k-means", levels=1))
    secateur.pack(file, tmp_path / "network.pack")
    with pytest.raises(DataError, match="no tensor 'nothing'"):
        read_archive(tmp_path / "network.pack").matrix("nothing")
    archive = read_archive(tmp_path / "network.pack")
    with pytest.raises(DataError, match="form planes"):
        archive.matrix(next(n for n, c in archive.codes.items() if c.form == "planes" and len(c.shape) > 1))


def test_from_the_command_line(file: Path, tmp_path: Path) -> None:
    packed, again = tmp_path / "a.pack", tmp_path / "again.onnx"
    runner = CliRunner()
    told = runner.invoke(app, ["pack", str(file), "--out", str(packed), "--sharing", "k-means"])
    assert told.exit_code == 0
    assert "bytes are" in told.output
    assert runner.invoke(app, ["unpack", str(packed), "--out", str(again)]).exit_code == 0
    assert again.is_file()
