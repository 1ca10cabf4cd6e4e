"""Deployed engines: numpy in and out, without torch, by the description beside them."""

import importlib.util
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tiny import run_tiny
from torch import nn
from typer.testing import CliRunner

from secateur.artifacts import Model, Pictures
from secateur.backends import BACKENDS
from secateur.backends.onnx_file import read_inputs, read_outputs
from secateur.backends.protocol import BuildOptions
from secateur.cli import app
from secateur.deploy import DESCRIPTION, Description, Tensor, load, prepared, write_folder
from secateur.errors import BackendError, StorageError
from secateur.judging import read_run
from secateur.manifest import read_manifest
from secateur.pipeline.export import export
from secateur.recipe_engines import BuildSettings, ExportSettings
from secateur.serving import server
from secateur.triton import config, write_model
from secateur.workloads.classification.image_folder import MiddleSquare

WITHOUT_TORCH = """
import sys

sys.modules["torch"] = sys.modules["torchvision"] = None
import numpy as np

from secateur.deploy import load
from secateur.errors import BackendError

with load(sys.argv[1]) as network:
    np.save(sys.argv[3], network.predict(np.load(sys.argv[2])))
    try:
        network.run([[1.0]])
    except BackendError as error:
        assert "['list'] (" in str(error) and "is no numpy array" in str(error), error
    else:
        raise AssertionError("a list was taken")
assert not any(name.split(".")[0] == "torch" and module for name, module in sys.modules.items())
"""


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine of a small classifier of pictures."""
    backend, folder = BACKENDS[request.param], tmp_path_factory.mktemp("deployed")
    if (missing := backend.unable_to_run()) is not None:
        pytest.skip(str(missing))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    exported = export(
        Model(module=network, example_inputs=(torch.rand(2, 3, 16, 12),)), folder / "export", name="small"
    )
    engine = backend.build(exported.path, folder / "build", BuildOptions())
    inputs, outputs = (
        tuple(Tensor(name=t.name, dtype=t.dtype.name, shape=t.shape) for t in tensors)
        for tensors in (read_inputs(exported.path), read_outputs(exported.path))
    )
    description = Description(
        name="small net", engine=engine, inputs=inputs, outputs=outputs, answer="softmax", classes=("a", "b", "c"),
        pictures=Pictures(size=(16, 12), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    )  # fmt: skip
    write_folder(folder / "deployed", description, (folder / "build" / str(engine.path)).read_bytes(), folder / "build")
    return folder / "deployed"


def pictures(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, rows, columns, 3), dtype=np.uint8)


def expected(folder: Path, batch: np.ndarray) -> np.ndarray:
    values = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    session = onnxruntime.InferenceSession(str(folder.parent / "export" / "small.onnx"))
    (scores,) = session.run(None, {session.get_inputs()[0].name: ((values - mean) / std).numpy()})
    return torch.from_numpy(scores).softmax(-1).numpy()


def test_a_process_without_torch_predicts_the_same(deployed: Path, tmp_path: Path) -> None:
    batch = pictures(16, 12)
    np.save(tmp_path / "in.npy", batch)
    called = [sys.executable, "-c", WITHOUT_TORCH, str(deployed), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(deployed, batch), atol=1e-5)


def test_one_picture_and_many_and_other_sizes(deployed: Path) -> None:
    batch = pictures(16, 12)
    with load(deployed) as network:
        np.testing.assert_allclose(network.predict(batch[0]), network.predict(batch)[0], atol=1e-6)
        assert network.predict(pictures(40, 30)).shape == (2, 3)
        assert network.run(np.zeros((5, 3, 16, 12), np.float32))[0].shape == (5, 3)
        with pytest.raises(BackendError, match=r"shape \[16, 12\]; wanted \[batch, rows, columns, 3\]"):
            network.predict(batch[0, :, :, 0])
        network.close()
    with pytest.raises(BackendError, match="a closed engine"):
        network.predict(batch)


def test_the_middle_is_cut_out_as_data_sets_do() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (1, 30, 50, 3), dtype=np.uint8)
    wanted = MiddleSquare(size=16, resize=20)(Image.fromarray(drawn[0]))
    (found,) = prepared(drawn, Pictures(size=(16, 16), shorter_side=20, scale=1.0)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, np.asarray(wanted, dtype=np.float32), atol=1.01, err_msg="rounded to bytes there")


def test_settings_of_a_backend_come_from_the_description(deployed: Path, tmp_path: Path) -> None:
    told = json.loads((deployed / DESCRIPTION).read_text())
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / told["engine"]["path"]).write_bytes((deployed / told["engine"]["path"]).read_bytes())
    (folder / DESCRIPTION).write_text(json.dumps({**told, "settings": {"speed": "high"}}))
    with pytest.raises(BackendError, match=rf"settings of {told['engine']['backend']} that do not fit"):
        load(folder)


def test_resizing_keeps_what_is_even() -> None:
    even = np.full((1, 8, 8, 3), 51, np.uint8)
    np.testing.assert_allclose(prepared(even, Pictures(size=(4, 6))), np.full((1, 3, 4, 6), 0.2), rtol=1e-6)


@pytest.fixture
def served(deployed: Path) -> Iterator[str]:
    """The address of the small classifier, served by another thread."""
    with load(deployed) as network:
        listening = server(network, "127.0.0.1", 0)
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()
        listening.server_close()


def asked(url: str, body: object = None) -> tuple[int, dict[str, Any]]:
    content = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{url}", content)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_network_is_served(served: str, deployed: Path) -> None:
    model = f"{served}/v2/models/small net".replace(" ", "%20")
    assert asked(f"{served}/v2/health/ready") == (200, {"ready": True})
    assert asked(f"{served}/v2/nothing")[0] == asked(f"{served}/v2/nothing", {})[0] == 404
    status, told = asked(model)
    assert (status, told["inputs"][0]["shape"], told["outputs"][0]["datatype"]) == (200, [-1, 3, 16, 12], "FP32")
    drawn = np.random.default_rng(0).random((2, 3, 16, 12), dtype=np.float32)
    entry = {"name": told["inputs"][0]["name"], "shape": [2, 3, 16, 12], "datatype": "FP32"}
    status, answer = asked(f"{model}/infer", {"inputs": [{**entry, "data": drawn.ravel().tolist()}]})
    with load(deployed) as network:
        np.testing.assert_allclose(answer["outputs"][0]["data"], network.run(drawn)[0].ravel(), rtol=1e-5)
    for body, wanted in [
        ({"inputs": [{**entry, "data": [1.0]}]}, "cannot reshape"),
        ({"inputs": []}, "found the inputs []"),
        ({"inputs": [{**entry, "shape": [6, 1, 16, 12], "data": drawn.ravel().tolist()}]}, "axis 1"),
        ({}, "inputs"),
        ({"inputs": [{**entry, "data": [1.0]}], "parameters": []}, "cannot reshape"),
        ({"inputs": [{**entry, "parameters": {"binary_data_size": 4608}}]}, "0 bytes for 4608 of FP32"),
        (
            {"inputs": [{**entry, "data": drawn.ravel().tolist()}], "outputs": [{"name": "none"}]},
            "the outputs ['none']",
        ),
        ({"inputs": [{**entry, "data": drawn.ravel().tolist()}], "parameters": [1]}, "attribute"),
        ([], "JSON of list; wanted an object"),
    ]:
        status, answer = asked(f"{model}/infer", body)
        assert status == 400
        assert wanted in answer["error"]


def test_the_process_says_where_it_listens_and_ends_when_it_is_told_to(deployed: Path) -> None:
    called = [sys.executable, "-m", "secateur.serving", str(deployed), "--port"]
    serving = subprocess.Popen([*called, "0"], stderr=subprocess.PIPE, text=True)
    try:
        address = serving.stderr.readline().split("http://")[1].split("/")[0]
        assert asked(f"{address}/v2/health/ready") == (200, {"ready": True})
        again = subprocess.run([*called, address.split(":")[1]], capture_output=True, text=True, check=False)
        assert (again.returncode, f"the address {address}, which cannot be listened on" in again.stderr) == (2, True)
        serving.terminate()
        assert serving.wait(30) == 0
    finally:
        serving.kill()
        serving.stderr.close()


@pytest.mark.parametrize("binary", [True, False])
def test_a_client_of_the_triton_server_is_understood(served: str, deployed: Path, binary: bool) -> None:
    client = pytest.importorskip("tritonclient.http", reason="pip install tritonclient[http]")
    with load(deployed) as network, client.InferenceServerClient(served) as caller:
        name, out = network.description.inputs[0].name, network.description.outputs[0].name
        assert caller.is_server_live()
        assert caller.is_server_ready()
        assert caller.is_model_ready("small net")
        assert caller.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert caller.get_model_metadata("small net")["inputs"][0]["name"] == name
        drawn = np.random.default_rng(0).random((2, 3, 16, 12), dtype=np.float32)
        entry = client.InferInput(name, list(drawn.shape), "FP32")
        entry.set_data_from_numpy(drawn, binary_data=binary)
        wanted = [client.InferRequestedOutput(out, binary_data=binary)]
        for outputs in (wanted, None):  # without, the client asks for all outputs as bytes
            found = caller.infer("small net", [entry], outputs=outputs, request_id="7")
            assert found.get_response()["id"] == "7"
            np.testing.assert_allclose(found.as_numpy(out), network.run(drawn)[0], rtol=1e-5)
        short = client.InferInput(name, [3, 3, 16, 12], "FP32")
        short.set_data_from_numpy(np.repeat(drawn, 2, axis=0)[:3], binary_data=binary)
        short.set_shape([4, 3, 16, 12])
        with pytest.raises(client.InferenceServerException, match="for 6912 of FP32" if binary else "cannot reshape"):
            caller.infer("small net", [short])


@pytest.mark.parametrize("fault", ["absent", "text", "format", "outside", "damaged", "unknown"])
def test_folders_that_are_not_whole(deployed: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    told = json.loads((deployed / DESCRIPTION).read_text())
    engine = (deployed / told["engine"]["path"]).read_bytes()
    changes: dict[str, dict[str, object]] = {
        "format": {"format": 9},
        "outside": {"engine": {**told["engine"], "path": "../deploy.json"}},
        "unknown": {"engine": {**told["engine"], "backend": "abacus"}},
    }
    (folder / told["engine"]["path"]).write_bytes(engine[:-1] if fault == "damaged" else engine)
    if fault != "absent":
        text = "{" if fault == "text" else json.dumps({**told, **changes.get(fault, {})})
        (folder / DESCRIPTION).write_text(text)
    wanted = {
        "absent": "No such file", "text": "Invalid JSON", "format": "format 9; wanted format 1",
        "outside": "the name of a file beside it", "damaged": "changed after it was built",
        "unknown": "an engine of 'abacus'; wanted one of",
    }[fault]  # fmt: skip
    with pytest.raises((StorageError, BackendError), match=wanted):
        load(folder)


def test_a_model_of_the_triton_server(deployed: Path, tmp_path: Path) -> None:
    model = write_model(deployed, tmp_path / "models", max_batch_size=16)
    told = json.loads((deployed / DESCRIPTION).read_text())
    assert model.name == "small_net"
    assert (model / "1" / "model.onnx").read_bytes() == (deployed / told["engine"]["path"]).read_bytes()
    assert (model / "classes.txt").read_text().split() == ["a", "b", "c"]
    text = (model / "config.pbtxt").read_text()
    assert f'backend: "{told["engine"]["backend"]}"' in text
    assert "max_batch_size: 16" in text
    assert "dims: [ 3, 16, 12 ]" in text
    schema = triton_schema()
    found = text_format.Parse(text, schema.ModelConfig())
    assert [(t.name, list(t.dims)) for t in found.output] == [(told["outputs"][0]["name"], [3])]
    assert found.input[0].data_type == schema.TYPE_FP32
    (group,) = found.instance_group
    assert (group.count, group.kind) == (1, schema.ModelInstanceGroup.KIND_CPU)
    assert found.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": {"path": "small.blob", "backend": "openvino"}}, r"the compiled small\.blob; wanted an ONNX file"),
        ({"engine": {"backend": "tensorrt"}, "settings": {"stripped": True}}, "an engine without its weights"),
        ({"engine": {"backend": "torch"}}, r"an engine of torch; wanted one of onnxruntime, "),
    ],
)
def test_what_the_triton_server_cannot_read_is_refused(
    deployed: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    folder, found = tmp_path / "changed", json.loads((deployed / DESCRIPTION).read_text())
    folder.mkdir()
    described = {**found, **change, "engine": {**found["engine"], **change["engine"]}}
    (folder / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(BackendError, match=told):
        write_model(folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def triton_schema() -> Any:
    """Return the server's own schema of configurations, which its client brings along, without the client's gRPC."""
    client = importlib.util.find_spec("tritonclient")
    if client is None:
        pytest.skip("pip install tritonclient[http]")
    file = Path(client.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_run_deploys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"onnxruntime": {"spinning": True, "optimisation": "basic"}}
    run = run_tiny(
        tmp_path, "deployed_tiny", build=BuildSettings(backends=["onnxruntime", "torch"], options=options),
        export=ExportSettings(classes=["low", "middle", "high"], input_names=["numbers"], output_names=["scores"]),
    )  # fmt: skip
    called = CliRunner().invoke(app, ["deploy", str(run), "out"])
    assert called.exit_code == 0, called.output
    with load("out") as network:
        assert network.description.answer == "softmax"
        told, manifest = network.description, read_manifest(run)
        assert told.classes == ("low", "middle", "high")
        assert told.settings["optimisation"] == told.engine.options["optimisation"] == "basic"
        assert [tensor.name for tensor in (*told.inputs, *told.outputs)] == ["numbers", "scores"]
        assert told.lineage["manifest"] == manifest.digest
        assert told.lineage["origin"] == manifest.origin.weights_sha256 != told.lineage["weights"]
        assert told.lineage["network"] == "compressed"
    apart = {name: exported.metric_differences for name, exported in read_run(run).exports.items()}
    assert apart == {"original": {"top1": 0.0}, "compressed": {"top1": 0.0}}
    with load("out") as network:
        assert network.run(np.zeros((2, 4), np.float32))[0].shape == (2, 3)
        with pytest.raises(BackendError, match="pictures; wanted"):
            network.predict(np.zeros((4, 4, 3), np.uint8))
    called = CliRunner().invoke(app, ["triton", "out", "models", "--name", "tiny"])
    assert called.exit_code == 0, called.output
    assert "dims: [ 4 ]" in (tmp_path / "models" / "tiny" / "config.pbtxt").read_text()
    assert CliRunner().invoke(app, ["deploy", str(run), "eager", "--backend", "torch"]).exit_code == 0
    with load("out") as network, load("eager") as eager:
        inputs = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
        np.testing.assert_allclose(network.run(inputs)[0], eager.run(inputs)[0], atol=1e-5)
    refused = CliRunner().invoke(app, ["deploy", str(run), "out", "--backend", "openvino"])
    assert isinstance(refused.exception, BackendError)


def test_a_fixed_batch_is_part_of_the_shape(deployed: Path) -> None:
    told = Description.model_validate_json((deployed / DESCRIPTION).read_text())
    fixed = told.model_copy(update={"inputs": (Tensor(name="x", dtype="float16", shape=(4, 3, 8, 8)),)})
    text = config(fixed, "fixed", 8)
    assert "max_batch_size: 0" in text
    assert "dynamic_batching" not in text
    assert "TYPE_FP16 dims: [ 4, 3, 8, 8 ]" in text
