"""The packaged weights: they load, they predict, and a damaged file is named."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.artifacts import Task
from secateur.calibration.batches import evaluate
from secateur.errors import LoadError
from secateur.workloads.gaze import GazeNetwork, eyecrowd, osie, rendered, scene500, task, teacher
from secateur.workloads.gaze.teacher import WEIGHTS, save_teacher


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return teacher()


def test_the_packaged_network_is_ready_to_use(trained):
    assert WEIGHTS.stat().st_size < 8 * 2**20
    assert not trained.training
    floats = [tensor for tensor in trained.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in floats)


def test_it_comes_close_to_the_best_on_rendered_scenes(trained):
    data = rendered(num_train=1, num_test=40)
    metrics = measured(trained, data.test, task())
    assert metrics["auc"] > data.facts["attainable_auc"] - 0.03
    assert metrics["nss"] > 0.85 * data.facts["attainable_nss"]
    assert metrics["information_gain"] > 1


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("read", "folder", "peer_nss"),
    [(osie, "gaze_osie", 1.97), (eyecrowd, "gaze_eyecrowd", 1.46), (scene500, "gaze_scene500", 1.37)],
)
def test_it_beats_the_centre_bias_and_the_peer_on_real_pictures(shared_data, trained, read, folder, peer_nss):
    data = read(shared_data / folder)
    part = torch.utils.data.Subset(data.test, range(0, len(data.test), 2))
    metrics = measured(trained, part, task())
    assert metrics["nss"] > peer_nss
    assert metrics["auc"] > data.facts["centre_bias_auc"] + 0.03
    assert metrics["information_gain"] > 0.3


def measured(network: GazeNetwork, part: torch.utils.data.Dataset, gaze: Task) -> dict[str, float]:
    return dict(evaluate(network, gaze, part, batch_size=10).metrics)


def test_saving_and_loading_keeps_the_function_to_half_precision(tmp_path):
    torch.manual_seed(3)
    network = GazeNetwork().eval()
    save_teacher(network, tmp_path / "own.safetensors")
    again = teacher(tmp_path / "own.safetensors")
    pictures = torch.rand(1, 3, 192, 256)
    with torch.inference_mode():
        torch.testing.assert_close(again(pictures), network(pictures), atol=2e-2, rtol=0)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(LoadError, match=r"found no such file; .* Reinstall the package, or train .*train_gaze_teacher"):
        teacher(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_named(tmp_path, damage):
    content = WEIGHTS.read_bytes()
    damaged = {"cut": content[:100_000], "empty": b"", "noise": b"\xff" * 500}[damage]
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(LoadError, match=r"damaged\.safetensors: found a damaged file"):
        teacher(path)


def test_weights_of_another_network_do_not_fit(tmp_path):
    state = load_file(WEIGHTS)
    del state["prior_weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(LoadError, match=r"weights that do not fit .*prior_weight"):
        teacher(tmp_path / "other.safetensors")
