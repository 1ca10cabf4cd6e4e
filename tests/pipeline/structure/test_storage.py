"""A cut network survives the disk, and files that do not fit are refused."""

import json

import pytest
import torch
from torch import nn

from secateur.artifacts import Model
from secateur.errors import LoadError, StorageError
from secateur.pipeline.structure import cut, load_model, save_model, trace

X = torch.randn(2, 3, 8, 8)


class Network(nn.Module):
    def __init__(self, width=8, kernel=3, tied=True, extra=False):
        super().__init__()
        self.a = nn.Conv2d(3, width, kernel, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.c = nn.Conv2d(width, width, 1)
        self.d = nn.Conv2d(width, width, 1)
        if tied:
            self.d.weight = self.c.weight
        if extra:
            self.extra = nn.Parameter(torch.zeros(1))
        self.register_buffer("scale", torch.rand(1, width, 1, 1), persistent=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.b(self.norm(self.a(x)).relu()) * self.scale
        return self.head(self.d(self.c(x).relu()).relu().mean((2, 3)))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = Network().eval()
    structure = trace(module, (X,))
    kept = {name: torch.tensor([0, 2, 5, 7]) for name in structure.widths}
    small = Model(module=cut(module, structure, kept), example_inputs=(X,), kept=kept)
    save_model(small, tmp_path / "model")
    return small, tmp_path / "model"


def test_a_cut_network_comes_back_bit_for_bit(saved):
    small, folder = saved
    skeleton = Network().eval()
    before = {n: t.clone() for n, t in skeleton.state_dict().items()}
    loaded = load_model(folder, skeleton, (X,))
    assert torch.equal(loaded.module(X), small.module(X))
    assert loaded.module.b.groups == loaded.module.b.in_channels == 4
    assert loaded.module.d.weight is loaded.module.c.weight
    assert {n: k.tolist() for n, k in loaded.kept.items()} == {n: k.tolist() for n, k in small.kept.items()}
    assert all(torch.equal(before[n], t) for n, t in skeleton.state_dict().items())
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert loaded.module.a.weight.requires_grad


def test_saving_again_replaces(saved):
    small, folder = saved
    small.module.a.bias.data.fill_(3)
    save_model(small, folder)
    assert load_model(folder, Network(), (X,)).module.a.bias.eq(3).all()


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (
            Network(kernel=5),
            r"tensor a\.weight: found shape \(4, 3, 3, 3\) saved, shape \(8, 3, 5, 5\) in the skeleton",
        ),
        (Network(width=2), r"tensor a\.weight: found shape \(4, 3, 3, 3\) saved, shape \(2, 3, 3, 3\)"),
        (Network(tied=False), r"tensor d\.weight: found it shares its values with c\.weight"),
        (Network(extra=True), r"tensor extra: found no such tensor saved, shape \(1,\) in the skeleton"),
        (nn.Conv2d(3, 2, 1), r"tensor weight: found no such tensor saved"),
    ],
)
def test_a_skeleton_that_does_not_fit_names_the_tensor(saved, skeleton, message):
    with pytest.raises(LoadError, match=message):
        load_model(saved[1], skeleton, (X,))


def test_damaged_and_missing_files_are_refused(saved, tmp_path):
    folder = saved[1]
    with pytest.raises(LoadError, match="no file"):
        load_model(tmp_path / "elsewhere", Network(), (X,))
    description = (folder / "model.json").read_text()
    (folder / "model.json").write_text(json.dumps({**json.loads(description), "format": 99}))
    with pytest.raises(LoadError, match="another format"):
        load_model(folder, Network(), (X,))
    (folder / "model.json").write_text(description[: len(description) // 2])
    with pytest.raises(LoadError, match="JSONDecodeError"):
        load_model(folder, Network(), (X,))
    (folder / "model.json").write_text(description)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(LoadError, match="sha256"):
        load_model(folder, Network(), (X,))
    (folder / "model.safetensors").write_bytes(bytes(content[:100]))
    with pytest.raises(LoadError, match="SafetensorError"):
        load_model(folder, Network(), (X,))


def test_a_folder_that_cannot_be_made_is_said(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a folder that can be written"):
        save_model(saved[0], tmp_path / "file" / "model")


def test_example_inputs_that_do_not_fit_are_said(saved):
    with pytest.raises(LoadError, match="a network that accepts the example inputs"):
        load_model(saved[1], Network(), (torch.randn(2, 7, 8, 8),))


def test_biases_that_the_saved_network_has_and_the_skeleton_lacks_come_back(tmp_path):
    def build():
        return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False))

    whole = build()
    structure = trace(whole, (X,))
    small = cut(whole, structure, {"0": torch.tensor([1, 2, 5])})
    small[2].bias = nn.Parameter(torch.randn(4))
    small[0].bias = nn.Parameter(torch.randn(3))
    save_model(Model(module=small, example_inputs=(X,)), tmp_path)
    fresh = build()
    loaded = load_model(tmp_path, fresh, (X,)).module
    assert torch.equal(loaded(X), small(X))
    assert fresh[0].bias is None
    assert fresh[2].bias is None


def test_only_layers_that_can_have_a_bias_get_one(saved, tmp_path):
    module = saved[0].module
    module.register_parameter("bias", nn.Parameter(torch.zeros(4)))
    save_model(Model(module=module, example_inputs=(X,)), tmp_path)
    with pytest.raises(LoadError, match="tensor bias: found"):
        load_model(tmp_path, Network(), (X,))
