"""Exports with open sizes beside the batch's, with weights in a file of their own, and what files say of themselves."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from secateur.artifacts import Exported, FileFacts, Model, OpenSize, Pictures
from secateur.errors import EqualityError, ExportError
from secateur.pipeline.export import export


class Stages(nn.Module):
    """Down by four and up again, beside its input: sides come in fours."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, 2, 1))
        self.up = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(4, 3, 1))

    def forward(self, image: Tensor) -> Tensor:
        return image + self.up(self.down(image))


class Pooled(nn.Module):
    """Takes pictures of any size and says one thing of each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).flatten(1))


def sizes(multiple: int = 1, least: int = 16, most: int = 48) -> dict[str, OpenSize]:
    return {
        name: OpenSize(axis=axis, least=least, most=most, multiple=multiple)
        for axis, name in ((2, "rows"), (3, "columns"))
    }


def model(network: nn.Module, *shape: int) -> Model:
    torch.manual_seed(0)
    return Model(module=network, example_inputs=(torch.rand(shape or (1, 3, 24, 32)),))


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    return export(
        model(Stages()), tmp_path_factory.mktemp("stages"), name="stages", open_sizes=sizes(4), batch_name="pictures",
        input_names=["picture"], output_names=["map"], batches=[torch.rand(2, 3, 16, 40), torch.rand(2, 3, 18, 40)],
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 3, 16, 48), (5, 3, 48, 16), (2, 3, 36, 20)])
def test_any_size_in_steps_gives_the_networks_outputs(stages: Exported, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, picture = Stages().eval(), torch.rand(shape)
    session = onnxruntime.InferenceSession(str(stages.path))
    with torch.no_grad():
        np.testing.assert_allclose(session.run(["map"], {"picture": picture.numpy()})[0], network(picture), atol=1e-5)


def test_open_sizes_have_the_names_that_were_asked_for(stages: Exported) -> None:
    graph = onnx.load(stages.path).graph
    assert shape_of(graph.input[0]) == ["pictures", 3, "rows", "columns"]
    assert shape_of(graph.output[0]) == ["pictures", 3, "rows", "columns"]
    told = {str(size) for value in graph.value_info for size in shape_of(value) if isinstance(size, str)}
    symbols = {symbol for expression in told for symbol in re.findall(r"[a-z_]\w*", expression)}
    assert symbols <= {"pictures", "rows", "columns", "rows_steps", "columns_steps"}, told
    assert stages.result.open_sizes == sizes(4)
    # the example, one real batch with its first sample (the other is no multiple of four), two random ones, and the
    # least sizes, the largest, both mixtures, and a step over the least
    assert stages.result.parity.num_batches == 10


def test_a_fixed_batch_leaves_other_sizes_open(tmp_path: Path) -> None:
    result = export(model(Pooled()), tmp_path, name="pooled", open_sizes=sizes(), dynamic_batch=False).result
    assert shape_of(onnx.load(tmp_path / "pooled.onnx").graph.input[0]) == [1, 3, "rows", "columns"]
    assert result.parity.num_batches == 7


class Square(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + image.mT


class Flat(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.view(-1, 3 * 24 * 24)


@pytest.mark.parametrize(
    ("network", "shape", "text"),
    [
        (Stages(), (2, 3, 24, 32), r"the network refusing random inputs \(rows 17, columns 17\).*\(multiple\)"),
        (Square(), (2, 3, 24, 24), r"columns always equals rows; wanted both open"),
        (Flat(), (2, 3, 24, 24), r"export of bad: found .*(rows|columns|24)"),
    ],
    ids=["steps", "square", "baked"],
)
def test_sizes_that_cannot_be_open_are_said(
    tmp_path: Path, network: nn.Module, shape: tuple[int, ...], text: str
) -> None:
    with pytest.raises(ExportError, match=text):
        export(model(network, *shape), tmp_path, name="bad", open_sizes=sizes())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("2d", {}, "open size '2d': found axis 2, 16 to 48 in steps of 1; wanted a name of letters"),
        ("batch", {}, "that is not the batch's"),
        ("rows", {"axis": 0}, r"axis behind the batch's of inputs of shapes \[\(2, 3, 24, 32\)\]"),
        ("rows", {"axis": 4}, "axis behind the batch's"),
        ("rows", {"inputs": (1,)}, "axis behind the batch's"),
        ("rows", {"inputs": ()}, "at least one input"),
        ("rows", {"least": 48}, "1 <= least < most"),
        ("rows", {"multiple": 5}, "multiples of 5"),
        ("rows", {"least": 32}, "bounds that the example inputs keep"),
    ],
)
def test_open_sizes_that_make_no_sense(tmp_path: Path, name: str, change: dict[str, object], text: str) -> None:
    size = OpenSize(axis=2, least=16, most=48).model_copy(update=change)
    with pytest.raises(ExportError, match=text):
        export(model(Pooled()), tmp_path, name="x", open_sizes={name: size})


def test_onnxslim_cleans_up_what_attention_leaves_behind(tmp_path: Path) -> None:
    pytest.importorskip("onnxslim", reason="onnxslim is not installed: pip install 'secateur[slim]'")
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    attention = Model(module=block, example_inputs=(torch.rand(2, 5, 16),))
    plain = export(attention, tmp_path, name="plain")
    slim = export(attention, tmp_path, name="slim", slim=True)
    before, after = (onnx.load(exported.path).graph for exported in (plain, slim))
    assert len(after.node) < len(before.node)
    assert slim.result.parity.num_batches == plain.result.parity.num_batches
    assert shape_of(after.input[0]) == shape_of(before.input[0])
    assert any(entry.key == "pkg.torch.onnx.name_scopes" for node in after.node for entry in node.metadata_props)
    pooled = model(Pooled())
    same = [export(pooled, tmp_path, name="same", slim=slim).result.sha256 for slim in (False, True)]
    assert same[0] == same[1], "where nothing can go the file stays as it is"


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right.mean(1, keepdim=True)


def test_inputs_may_share_a_size(tmp_path: Path) -> None:
    both = Model(module=Two(), example_inputs=(torch.rand(2, 3, 8), torch.rand(2, 5, 8)))
    export(both, tmp_path, name="two", open_sizes={"length": OpenSize(axis=2, least=4, most=16, inputs=(0, 1))})
    graph = onnx.load(tmp_path / "two.onnx").graph
    assert [shape_of(value) for value in graph.input] == [["batch", 3, "length"], ["batch", 5, "length"]]


def test_a_file_says_how_it_is_used(tmp_path: Path) -> None:
    facts = FileFacts(
        lineage={"weights": "a" * 64}, classes=("cat", "dög"), pictures=Pictures(size=(24, 32), mean=(0.5,), std=(0.2,))
    )
    export(model(Pooled()), tmp_path, name="told", open_sizes=sizes(), metadata=facts.entries())
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "told.onnx").metadata_props}
    assert FileFacts.of(entries) == facts.model_copy(update={"sizes": sizes()})


def linear(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(
        module=nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), example_inputs=(torch.rand(2, 16),)
    )


def test_large_weights_go_into_a_file_beside_the_graph(tmp_path: Path) -> None:
    inside = export(linear(0), tmp_path / "inside", name="net").result
    assert inside.weights == {}
    result = export(linear(0), tmp_path / "beside", name="net", largest_bytes=1000).result
    (beside,) = result.weights
    files = {path.name: path.stat().st_size for path in (tmp_path / "beside").iterdir()}
    assert set(files) == {"net.onnx", beside}
    assert result.size_bytes == sum(files.values()) > inside.size_bytes
    assert files[beside] >= 16 * 32 * 4
    x = {"input": np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)}
    found = [onnxruntime.InferenceSession(str(tmp_path / f / "net.onnx")).run(None, x)[0] for f in ("inside", "beside")]
    np.testing.assert_array_equal(*found)
    other = export(linear(1), tmp_path / "beside", name="net", largest_bytes=1000).result
    assert {path.name for path in (tmp_path / "beside").iterdir()} == {"net.onnx", *other.weights}, "old weights go"
    assert export(linear(1), tmp_path / "again", name="net", largest_bytes=1000).result.sha256 == other.sha256
    export(linear(1), tmp_path / "beside", name="net")
    assert {path.name for path in (tmp_path / "beside").iterdir()} == {"net.onnx"}


class Wavering(nn.Module):
    """Another function at every call, which no file can be."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.weight = 0, nn.Parameter(torch.rand(16, 64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x @ self.weight * self.calls


def test_weights_of_a_file_that_is_not_proved_are_not_kept(tmp_path: Path) -> None:
    kept = export(linear(0), tmp_path, name="net", largest_bytes=1000).result
    wavering = Model(module=Wavering(), example_inputs=(torch.rand(2, 16),))
    with pytest.raises(EqualityError, match="relative difference"):
        export(wavering, tmp_path, name="net", largest_bytes=1000)
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", *kept.weights}
