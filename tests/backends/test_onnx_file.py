"""ONNX files whole, and what they take."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from secateur.artifacts import Exported
from secateur.backends import BACKENDS
from secateur.backends.onnx_file import OnnxInput, random_inputs, read_inputs, read_whole
from secateur.backends.protocol import BuildOptions
from secateur.errors import BackendError

FLOAT = np.dtype(np.float32)


def test_the_inputs_of_an_exported_network(wide: Exported) -> None:
    assert read_inputs(wide.path) == (OnnxInput(name="image", dtype=FLOAT, shape=("batch", 3, 24, 24)),)


def test_weights_are_no_inputs_and_sizes_without_a_name_get_one(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [value("x", onnx.TensorProto.FLOAT, [None, 3]), value("w", onnx.TensorProto.FLOAT, [3])],
        [value("y", onnx.TensorProto.FLOAT, [None, 3])], [weight],
    )  # fmt: skip
    path = tmp_path / "add.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    assert read_inputs(path) == (OnnxInput(name="x", dtype=FLOAT, shape=("x.0", 3)),)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("absent", "absent.onnx: found No such file or directory; wanted an ONNX file"),
        ("empty", "empty.onnx: found a file that is truncated or not ONNX"),
        ("text", "text.onnx: found a file that is truncated or not ONNX"),
        ("truncated", "truncated.onnx: found a file that is truncated or not ONNX"),
    ],
)
def test_other_files_are_refused(not_onnx: dict[str, Path], kind: str, text: str) -> None:
    with pytest.raises(BackendError, match=text):
        read_inputs(not_onnx[kind])


def test_weights_in_a_file_of_their_own_are_taken_in(wide: Exported, tmp_path: Path) -> None:
    assert read_whole(wide.path).content == wide.path.read_bytes()
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(wide.path), apart, save_as_external_data=True, location="apart.onnx.data", size_threshold=1000)
    inputs = {"image": np.random.default_rng(0).standard_normal((2, 3, 24, 24), dtype=np.float32)}
    wanted = onnxruntime.InferenceSession(str(wide.path)).run(None, inputs)[0]
    np.testing.assert_array_equal(onnxruntime.InferenceSession(read_whole(apart).content).run(None, inputs)[0], wanted)
    shutil.copy(wide.path.with_suffix(".pt2"), apart.with_suffix(".pt2"))
    for name, backend in BACKENDS.items():
        if name != "torch_compile" and backend.unable_to_run() is None:
            with backend.load(backend.build(apart, tmp_path / "built", BuildOptions()), tmp_path / "built") as engine:
                np.testing.assert_allclose(engine.run(tuple(inputs.values()))[0], wanted, atol=1e-5)
    (tmp_path / "apart.onnx.data").unlink()
    with pytest.raises(BackendError, match=r"apart\.onnx: found .*(weights|apart\.onnx\.data)"):
        read_whole(apart)


@pytest.mark.parametrize(
    ("shape", "batch_size", "sizes", "wanted"),
    [
        (("n", 3, 8, 8), 4, {}, (4, 3, 8, 8)),
        ((2, 3), 2, {}, (2, 3)),
        (("n", "h", "w"), 1, {"h": 5, "w": 6}, (1, 5, 6)),
        (("n", "n"), 3, {}, (3, 3)),
        ((), 3, {}, ()),
    ],
)
def test_open_sizes_are_filled_in(shape: tuple, batch_size: int, sizes: dict[str, int], wanted: tuple) -> None:
    assert OnnxInput(name="x", dtype=FLOAT, shape=shape).sized(batch_size, sizes) == wanted


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (("n", "h", 4), r"input 'x': found the open sizes \['h'\] in the shape .*; wanted numbers\. .*example h=224"),
        ((2, 4), r"input 'x': found a batch size fixed to 2; wanted batch size 3\. Ask for batch size 2"),
    ],
)
def test_sizes_that_do_not_fit(shape: tuple, text: str) -> None:
    with pytest.raises(BackendError, match=text):
        OnnxInput(name="x", dtype=FLOAT, shape=shape).sized(3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.bool_, np.uint8])
def test_random_inputs_have_the_declared_type_and_follow_the_seed(dtype: type) -> None:
    inputs = (OnnxInput(name="x", dtype=np.dtype(dtype), shape=("n", 50)),)
    (first,), (again,), (other,) = (random_inputs(inputs, 2, seed) for seed in (1, 1, 2))
    assert (first.dtype, first.shape) == (np.dtype(dtype), (2, 50))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first)) > 1


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(BackendError, match="a device"):
        read_inputs(Path("/dev/zero"))
