import pickle

import pytest
import torch

from secateur.errors import LoadError
from secateur.workloads.classification import (
    CifarResNet,
    densenet40,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    vgg16,
)
from secateur.workloads.classification.resnet import ResidualBlock
from secateur.workloads.classification.weights import load_weights


@pytest.mark.parametrize(
    ("build", "depth", "parameters"),
    [
        (resnet20, 20, 269_722), (resnet32, 32, 464_154), (resnet44, 44, 658_586), (resnet56, 56, 853_018),
        (vgg16, 14, 14_724_042), (densenet40, 40, 1_019_722),
    ],
)  # fmt: skip
def test_depths_and_sizes_are_those_of_the_papers(build, depth, parameters):
    net = build()
    layers = [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == depth
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert not net.training


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = ResidualBlock(4, 8, 2).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # no residual
    x = torch.rand(2, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_are_loaded_in_every_wrapping(tmp_path, prefix, wrapped):
    trained = CifarResNet(8)
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 90.0} if wrapped else state, tmp_path / "w.th")
    torch.save(trained.state_dict(), tmp_path / "plain.th")
    loaded = load_weights(CifarResNet(8), tmp_path / "w.th")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(x), trained.eval()(x))


def test_relative_paths_start_here_or_in_the_data_folder(tmp_path, monkeypatch):
    there, here = CifarResNet(8), CifarResNet(8)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    torch.save(there.state_dict(), tmp_path / "data" / "w.th")
    assert torch.equal(load_weights(CifarResNet(8), "w.th").conv1.weight, there.conv1.weight)
    torch.save(here.state_dict(), tmp_path / "w.th")
    assert torch.equal(load_weights(CifarResNet(8), "w.th").conv1.weight, here.conv1.weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "w.th"
    with pytest.raises(LoadError, match=r"w.th: found no such file.*Correct the path \(a relative one starts in"):
        resnet20(path)
    torch.save(CifarResNet(8).state_dict(), path)
    with pytest.raises(
        LoadError, match=r"another network \(72 missing, as layer1.1.conv1.weight\); wanted those of Cif"
    ):
        resnet20(path)
    torch.save(CifarResNet(20, 7).state_dict(), path)
    with pytest.raises(LoadError, match=r"2 of another shape, as linear.weight \(7, 64\)"):
        resnet20(path)
    torch.save({"weights": 3}, path)
    with pytest.raises(LoadError, match="dict without tensors by name; wanted a state dict"):
        resnet20(path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(LoadError, match=r"cannot be read.*Fetch the file again"):
        resnet20(path)
    torch.save(CifarResNet(20).state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LoadError, match=r"cannot be read.*it may be cut short"):
        resnet20(path)


class Evil:
    def __reduce__(self):
        return eval, ("1/0",)


def test_weights_run_no_code(tmp_path):
    (tmp_path / "w.th").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(LoadError, match="cannot be read"):
        resnet20(tmp_path / "w.th")


@pytest.mark.parametrize("depth", [2, 9, 21, -4])
def test_depths_that_make_no_network_are_refused(depth):
    with pytest.raises(LoadError, match=rf"depth {depth}; wanted 6n \+ 2 layers"):
        CifarResNet(depth)
