"""An exported file computes what the network computes, or there is no file."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn

from secateur.artifacts import Exported, Model
from secateur.errors import EqualityError, ExportError, StorageError
from secateur.pipeline.export import export
from secateur.pipeline.export_proof import random_like


class OddWidths(nn.Module):
    """Widths as pruning leaves them: odd, with a residual sum, a depthwise convolution and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 13, 3, padding=1, bias=False), nn.BatchNorm2d(13), nn.ReLU())
        self.depthwise = nn.Conv2d(13, 13, 3, padding=1, groups=13)
        self.norm = nn.BatchNorm2d(13)
        self.head = nn.Linear(13, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        x = torch.relu(x + self.norm(self.depthwise(x)))
        return self.head(self.dropout(x.mean((2, 3))))


def odd_widths() -> Model:
    torch.manual_seed(0)
    module = OddWidths()
    module(torch.randn(8, 3, 16, 16))  # running statistics other than zero and one
    return Model(module=module, example_inputs=(torch.rand(1, 3, 16, 16),))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    batches = [torch.rand(5, 3, 16, 16), (torch.rand(2, 3, 16, 16),)]
    return export(
        odd_widths(), tmp_path_factory.mktemp("export"), name="odd", batches=batches, metadata={"commit": "abc"}
    )


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_any_batch_size_gives_the_networks_outputs(exported: Exported, batch_size: int) -> None:
    image = torch.rand(batch_size, 3, 16, 16)
    with torch.no_grad():
        wanted = odd_widths().module.eval()(image).numpy()
    np.testing.assert_allclose(run(exported.path, image)[0], wanted, atol=1e-5)


def test_the_result_describes_the_file(exported: Exported) -> None:
    result = exported.result
    proto = onnx.load(exported.path)
    onnx.checker.check_model(proto, full_check=True)
    assert exported.path.name == result.path == "odd.onnx"
    assert exported.path.stat().st_size == result.size_bytes
    assert result.input_names == ("image",)
    assert result.output_names == ("output",)
    assert result.input_shapes == ((1, 3, 16, 16),)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == result.opset == 20
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {entry.key: entry.value for entry in proto.metadata_props}["commit"] == "abc"
    # the example, two real batches with their first samples, two random ones
    assert result.parity.num_batches == 7
    assert result.parity.worst_relative <= result.parity.tolerance == 1e-4


def test_the_file_has_no_side_file_and_no_trace_of_this_machine(exported: Exported) -> None:
    assert [path.name for path in exported.path.parent.iterdir()] == ["odd.onnx"]
    assert str(Path(__file__).parent).encode() not in exported.path.read_bytes()


def test_the_network_is_left_as_it_was_and_the_exporter_is_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], exported: Exported
) -> None:
    model = odd_widths()
    model.module.dropout.eval()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    modes = {name: module.training for name, module in model.module.named_modules()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = export(model, tmp_path, name="odd", batches=[torch.rand(5, 3, 16, 16)], metadata={"commit": "abc"})
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in caught] == []
    assert {name: module.training for name, module in model.module.named_modules()} == modes
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert again.result.sha256 == exported.result.sha256, "the same network gives the same file anywhere"


class Several(nn.Module):
    """Two inputs, one of integers, and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)

    def forward(self, *inputs: Tensor) -> dict[str, object]:
        features, tokens = inputs
        mixed = features + self.embedding(tokens).sum(1)
        return {"mixed": mixed, "pair": (mixed * 2, [mixed.sum(1)])}


def test_gathered_inputs_of_several_types_and_nested_outputs(tmp_path: Path) -> None:
    model = Model(module=Several(), example_inputs=(torch.zeros(2, 4), torch.randint(11, (2, 3))))
    result = export(
        model, tmp_path, name="several", output_names=("mixed", "double", "sum"), input_names=("features", "tokens")
    ).result
    assert result.input_names == ("features", "tokens")
    assert result.output_names == ("mixed", "double", "sum")
    features, tokens = torch.randn(5, 4), torch.randint(11, (5, 3))
    outputs = model.module(features, tokens)
    np.testing.assert_allclose(
        run(tmp_path / "several.onnx", features, tokens)[0], outputs["mixed"].detach(), atol=1e-6
    )


def test_fixed_batch_size(tmp_path: Path) -> None:
    model = Model(module=nn.Linear(4, 3), example_inputs=(torch.randn(2, 4),))
    result = export(model, tmp_path, name="fixed", dynamic_batch=False, batches=[torch.randn(5, 4)]).result
    assert not result.dynamic_batch
    assert result.parity.num_batches == 2, "batches of another size cannot be compared"
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(tmp_path / "fixed.onnx", torch.randn(3, 4))


def test_a_real_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    model = Model(module=network, example_inputs=(torch.randn(2, 3, 64, 64),))
    result = export(model, tmp_path, name="resnet18", opset=18).result
    assert result.opset == 18
    assert 0 < result.parity.worst_relative < 1e-4
    scopes = [
        json.loads(entry.value.replace("'", '"'))
        for node in onnx.load(tmp_path / "resnet18.onnx").graph.node
        for entry in node.metadata_props
        if entry.key == "pkg.torch.onnx.name_scopes"
    ]
    assert any("layer4.1" in scope for scope in scopes), "nodes still name the module that they come from"


class Chooses(nn.Module):
    """A network with a graph inside its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.layer(x).sin(), lambda x: self.layer(x).cos(), (x,))


def test_of_the_exporters_notes_only_modules_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(Model(module=Chooses(), example_inputs=(torch.randn(2, 4),)), tmp_path, name="chooses")
    outer = onnx.load(tmp_path / "chooses.onnx").graph
    inner = [a.g for node in outer.node for a in node.attribute if a.HasField("g")]
    assert len(inner) == 2
    for graph in (outer, *inner):
        noted = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph]
        assert {entry.key for one in noted for entry in one.metadata_props} <= {"pkg.torch.onnx.name_scopes"}
        assert {value.name for value in graph.value_info} <= {name for node in graph.node for name in node.output}
    assert str(Path(__file__).parent).encode() not in (tmp_path / "chooses.onnx").read_bytes()


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class CountsBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] == 2 else x + 1


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


class Bakes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 4, 4).sum(2)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Branches(), r"data-dependent.*operators without an ONNX equivalent"),
        (
            CountsBatch(),
            r"batch size of the example baked into input 'x'; wanted an open batch size.*dynamic_batch=False",
        ),
        (Eigenvalues(), r"No ONNX function found for .*linalg_eig"),
        (Bakes(), r"export of bad: found .*dynamic_batch=False"),
    ],
    ids=["branches", "counts-batch", "eigenvalues", "bakes"],
)
def test_what_cannot_be_exported_is_said_and_leaves_no_file(tmp_path: Path, network: nn.Module, text: str) -> None:
    model = Model(module=network, example_inputs=(torch.randn(2, 4, 4),))
    with pytest.raises(ExportError, match=text):
        export(model, tmp_path, name="bad")
    assert list(tmp_path.iterdir()) == []


class Wavering(nn.Module):
    """Another function at every call, which no file can be."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_another_function_is_an_error_with_numbers_and_leaves_the_old_file(tmp_path: Path) -> None:
    old = tmp_path / "wavering.onnx"
    old.write_bytes(b"the one before")
    model = Model(module=Wavering(), example_inputs=(torch.randn(2, 4),))
    with pytest.raises(EqualityError, match=r"relative difference of .*output 'output' between torch and onnxruntime"):
        export(model, tmp_path, name="wavering")
    assert old.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [old]


def test_nan_weights_are_not_a_proof(tmp_path: Path) -> None:
    network = nn.Linear(4, 3)
    nn.init.constant_(network.weight, float("nan"))
    with pytest.raises(EqualityError, match="no finite number in the outputs of torch"):
        export(Model(module=network, example_inputs=(torch.randn(2, 4),)), tmp_path, name="nan")


@pytest.mark.parametrize(
    ("shapes", "arguments", "text"),
    [
        (((2, 4),), {"name": "../x"}, r"the name '../x'; wanted letters"),
        (((2, 4),), {"name": "x", "opset": 17}, r"opset 17; wanted 18 to \d+"),
        (((2, 4), (3, 4)), {"name": "x"}, r"shapes \[\(2, 4\), \(3, 4\)\]; wanted one batch size"),
        (((2, 4), ()), {"name": "x"}, r"shapes \[\(2, 4\), \(\)\]; wanted one batch size"),
    ],
)
def test_requests_that_make_no_sense(
    tmp_path: Path, shapes: tuple[tuple[int, ...], ...], arguments: dict[str, object], text: str
) -> None:
    model = Model(module=nn.Linear(4, 3), example_inputs=tuple(torch.zeros(shape) for shape in shapes))
    with pytest.raises(ExportError, match=text):
        export(model, tmp_path, **arguments)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    model = Model(module=nn.Linear(4, 3), example_inputs=(torch.randn(2, 4),))
    with pytest.raises(StorageError, match=r"wanted a file that can be read and written"):
        export(model, tmp_path / "file", name="x")


def test_random_inputs_are_like_the_example() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = random_like(torch.tensor([[2.0, 5.0]]), (100, 2), generator)
    assert drawn.shape == (100, 2)
    assert 2 <= drawn.min() < 2.5
    assert 4.5 < drawn.max() <= 5
    tokens = random_like(torch.tensor([[3, 7]]), (50, 2), generator)
    assert set(tokens.unique().tolist()) == {3, 7}
    assert random_like(torch.zeros(1, 3), (100, 3), generator).std() > 0.5
