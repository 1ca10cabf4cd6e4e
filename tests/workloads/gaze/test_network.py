"""The gaze network: a density out, prunable where it costs, exportable as it is."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from secateur.pipeline.structure import cut, trace
from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.network import GazeNetwork, SeparableBlur


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return GazeNetwork(log_prior=gaussian_centre_bias()).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 192, 256, generator=torch.Generator().manual_seed(1))


def test_outputs_are_log_densities(network, pictures):
    with torch.inference_mode():
        log_density = network(pictures)
    assert log_density.shape == (2, 48, 64)
    torch.testing.assert_close(log_density.exp().sum((1, 2)), torch.ones(2))


def test_a_silent_readout_leaves_the_centre_bias(network, pictures):
    silent = GazeNetwork(log_prior=gaussian_centre_bias()).eval()
    torch.nn.init.zeros_(silent.readout[-1].weight)
    with torch.inference_mode():
        torch.testing.assert_close(silent(pictures)[0], gaussian_centre_bias(), rtol=1e-4, atol=1e-4)


def test_reading_before_upsampling_is_reading_the_upsampled_features(network, pictures):
    def enlarged(maps, factor):
        for _ in range(factor):
            maps = functional.interpolate(maps, scale_factor=2.0, mode="bilinear")
        return maps

    with torch.inference_mode():
        fine = network.stride8((pictures - network.mean) / network.deviation)
        middle = network.stride16(fine)
        coarse = network.stride32(middle)
        features = torch.cat([fine, enlarged(middle, 1), enlarged(coarse, 2)], dim=1)
        weight = torch.cat([network.read8.weight, network.read16.weight, network.read32.weight], dim=1)
        saliency = network.blur(enlarged(network.readout(functional.conv2d(features, weight)), 1))
        expected = (saliency.flatten(1) + gaussian_centre_bias().flatten()).log_softmax(1).view(2, 48, 64)
        torch.testing.assert_close(network(pictures), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
def test_the_blur_spreads_a_point_by_its_sigma_and_keeps_constants(sigma):
    blur = SeparableBlur(sigma=sigma)
    point = torch.zeros(1, 1, 31, 31)
    point[0, 0, 15, 15] = 1
    with torch.inference_mode():
        spread = blur(point)[0, 0]
        torch.testing.assert_close(blur(torch.full((1, 1, 9, 11), 3.0)), torch.full((1, 1, 9, 11), 3.0))
    distance = torch.arange(31.0) - 15
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    for axis in (0, 1):
        assert (spread.sum(axis) * distance**2).sum().sqrt().item() == pytest.approx(sigma, rel=0.03)
    torch.testing.assert_close(spread, spread.T)


def test_every_parameter_learns(pictures):
    learning = GazeNetwork(log_prior=gaussian_centre_bias())
    learning(pictures)[:, 10, 10].sum().backward()
    silent = [name for name, p in learning.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_only_the_last_channel_is_pinned_and_a_cut_keeps_the_density(network, pictures):
    structure = trace(network, (pictures[:1],))
    assert [pinned.num_channels for pinned in structure.pinned] == [1]
    assert structure.macs() == pytest.approx(275e6, rel=0.01)
    halves = {group.name: torch.arange(group.num_channels) % 2 == 0 for group in structure.groups}
    small = cut(network, structure, halves)
    with torch.inference_mode():
        log_density = small(pictures)
    torch.testing.assert_close(log_density.exp().sum((1, 2)), torch.ones(2))
    assert trace(small, (pictures[:1],)).macs() < structure.macs() / 3


def test_onnx_runtime_computes_the_same_density_for_any_batch(network, pictures, tmp_path):
    program = torch.onnx.export(
        network, (pictures,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), opset_version=20
    )
    program.save(tmp_path / "gaze.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "gaze.onnx", providers=["CPUExecutionProvider"])
    for batch in (pictures, pictures.repeat(2, 1, 1, 1)[:3]):
        (computed,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(computed, network(batch).numpy(), atol=1e-4, rtol=1e-4)
