"""Networks of open height and width, and of weights in a file of their own, on every runtime that runs here."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from secateur.artifacts import Exported, Model
from secateur.backends import BACKENDS, onnx_file
from secateur.backends.onnx_file import read_facts, read_inputs, read_whole
from secateur.backends.protocol import Backend, BuildOptions
from secateur.deploy import DESCRIPTION, Description, Tensor, load, read_description, write_folder
from secateur.errors import BackendError, StorageError
from secateur.pipeline.export import export
from secateur.triton import write_model

NAMES = ("torch", "onnxruntime", "openvino")
runtimes = pytest.mark.parametrize("backend", [BACKENDS[name] for name in NAMES], ids=NAMES)
SIZED = BuildOptions(
    sizes={"height": 32, "width": 32}, ranges={"height": (16, 64), "width": (16, 64)}, max_batch_size=2
)


def able_to_run(backend: Backend) -> None:
    if (missing := backend.unable_to_run()) is not None:
        pytest.skip(f"{backend.name} cannot run here: {missing}")


@runtimes
def test_engines_take_every_size(backend: Backend, sized: Exported, tmp_path: Path) -> None:
    able_to_run(backend)
    result = backend.build(sized.path, tmp_path, SIZED)
    assert result.parity.num_batches == 4, "at the usual sizes twice, at the least and at the largest"
    reference = onnxruntime.InferenceSession(str(sized.path))
    with backend.load(result, tmp_path) as engine:
        for shape in ((1, 3, 16, 64), (2, 3, 64, 16), (1, 3, 30, 46)):
            image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            (found,) = engine.run((image,))
            np.testing.assert_allclose(found, reference.run(None, {"image": image})[0], atol=1e-5)


def test_sizes_that_are_not_given_are_asked_for(sized: Exported, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"the open sizes \['height', 'width'\]"):
        BACKENDS["onnxruntime"].build(sized.path, tmp_path, BuildOptions())


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network whose weights are in a file beside its graph."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(7)
    )
    example = (torch.rand(2, 3, 8, 8),)
    network(*example)
    folder = tmp_path_factory.mktemp("apart")
    return export(Model(module=network, example_inputs=example), folder, name="apart", largest_bytes=1000)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the readers take a kilobyte for the most that one file can hold."""
    monkeypatch.setattr(onnx_file, "LARGEST_ONNX_BYTES", 1000)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt_rtx"])
def test_engines_keep_their_weights_apart_where_one_file_cannot_hold_them(
    apart: Exported, tmp_path: Path, name: str
) -> None:
    backend = BACKENDS[name]
    if (missing := backend.unavailable()) is not None:
        pytest.skip(f"{name} cannot build here: {missing}")
    result = backend.build(apart.path, tmp_path / "built", BuildOptions())
    if name == "tensorrt_rtx":
        assert result.weights == {}, "an engine has its own"
        assert result.options["onnx_sha256"] == read_whole(apart.path).sha256 != apart.result.sha256
        return
    assert result.weights == apart.result.weights
    (beside,) = result.weights
    image = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(str(apart.path)).run(None, {"input": image})
    with backend.load(result, tmp_path / "built") as engine:
        np.testing.assert_allclose(engine.run((image,))[0], wanted, atol=1e-5)
        assert engine.profile((image,), num_calls=1)
    tensors = [Tensor(name=t.name, dtype=t.dtype.name, shape=t.shape) for t in read_inputs(apart.path)]
    description = Description(name="apart", engine=result, inputs=tuple(tensors), outputs=tuple(tensors))
    content = (tmp_path / "built" / str(result.path)).read_bytes()
    write_folder(tmp_path / "deployed", description, content, tmp_path / "built")
    with load(tmp_path / "deployed") as network:
        np.testing.assert_allclose(network.run(image)[0], wanted, atol=1e-5)
    model = write_model(tmp_path / "deployed", tmp_path / "models")
    assert onnxruntime.InferenceSession(str(model / "1" / "model.onnx")).run(None, {"input": image})[0].shape == (3, 7)
    outside = description.model_copy(update={"engine": result.model_copy(update={"weights": {"../w": "0"}})})
    (tmp_path / "deployed" / DESCRIPTION).write_text(outside.model_dump_json())
    with pytest.raises(StorageError, match="the name of a file beside it"):
        read_description(tmp_path / "deployed")
    with (tmp_path / "built" / beside).open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(StorageError, match=r"\.weights: found a file that was changed after it was built"):
        backend.load(result, tmp_path / "built")


def test_weights_that_one_file_can_hold_are_taken_in(apart: Exported, tmp_path: Path) -> None:
    whole = read_whole(apart.path)
    assert whole.weights == ()
    assert len(whole.content) > apart.path.stat().st_size
    assert BACKENDS["onnxruntime"].build(apart.path, tmp_path, BuildOptions()).weights == {}


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("place", ["../secret.bin", "a/../../secret.bin", "link.bin", "/dev/zero", ""])
def test_weights_elsewhere_are_refused_however_large(apart: Exported, tmp_path: Path, place: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (beside,) = apart.result.weights
    secret = shutil.copy(apart.path.with_name(beside), tmp_path / "secret.bin")
    (inside / "link.bin").symlink_to(secret)
    proto = onnx.load(apart.path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    (inside / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BackendError, match=r"net\.onnx: found weights .*wanted the"):
        read_whole(inside / "net.onnx")
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(BackendError):
            BACKENDS[name].build(inside / "net.onnx", tmp_path / "built", BuildOptions())
    assert not (tmp_path / "built").exists()


def test_other_tools_metadata_is_left_alone_and_ours_is_checked(sized: Exported, tmp_path: Path) -> None:
    assert set(read_facts(sized.path).sizes) == {"height", "width"}
    proto = onnx.load(sized.path)
    proto.metadata_props.add(key="names", value="not JSON")
    onnx.save(proto, tmp_path / "other.onnx")
    assert read_facts(tmp_path / "other.onnx") == read_facts(sized.path)
    proto.metadata_props.add(key="secateur.classes", value="not JSON")
    onnx.save(proto, tmp_path / "damaged.onnx")
    with pytest.raises(BackendError, match=r"damaged\.onnx, metadata: found .*; wanted the entries that an export"):
        read_facts(tmp_path / "damaged.onnx")
