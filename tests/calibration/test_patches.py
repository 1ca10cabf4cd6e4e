"""A layer as a matrix: what it multiplies, times its weight, is what it makes, for every kind of layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from secateur.calibration.calls import Calls
from secateur.calibration.patches import LAYERS, Application, rows_of

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def agrees(layer: nn.Module, inputs: torch.Tensor) -> None:
    """Assert that patches times weight is the layer, for a part of the samples."""
    seen = []

    def watch(name, func, args, kwargs):
        seen.append((Application.of(func, args, kwargs), func(*args, **kwargs)))
        return seen[-1][1]

    with Calls({id(layer.weight): "weight"}, watch):
        layer(inputs)
    ((application, outputs),) = seen
    patches = application.patches(slice(1, 3))
    weight = application.weight.reshape(application.groups, -1, application.weight[0].numel())
    found = torch.einsum("rgi,goi->rgo", patches, weight).flatten(1)
    wanted = outputs[1:3] if layer.bias is None else outputs[1:3] - along_channels(layer.bias, application.rank)
    torch.testing.assert_close(found, rows_of(wanted, application.rank), rtol=1e-10, atol=1e-10)


def along_channels(bias: torch.Tensor, rank: int) -> torch.Tensor:
    return bias.reshape(-1, *(1,) * rank)


@given(
    rank=st.sampled_from([1, 2, 3]), groups=st.sampled_from([1, 2, 4]), kernel=st.integers(1, 3),
    stride=st.integers(1, 2), padding=st.sampled_from([0, 1, 2, "same", "valid"]), dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "reflect"]), bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_patches_times_weight_is_the_convolution(rank, groups, kernel, stride, padding, dilation, mode, bias):
    stride = 1 if padding == "same" else stride
    layer = CONVOLUTIONS[rank](
        4, 8, kernel, stride, padding, dilation, groups, bias, padding_mode=mode, dtype=torch.float64
    )
    agrees(layer, torch.randn(3, 4, *(7, 8, 6)[:rank], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_patches_times_weight_is_the_linear_layer(shape, bias):
    agrees(nn.Linear(5, 6, bias=bias, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64))


def test_a_functional_call_by_keyword_is_read_too():
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    application = Application.of(functional.conv2d, (x,), {"weight": weight, "padding": 1, "stride": (2, 1)})
    assert (application.stride, application.padding, application.dilation) == ((2, 1), (1, 1), (1, 1))
    assert application.patches(slice(0, 1)).shape == (3 * 5, 1, 27)
    assert set(LAYERS) >= {functional.conv2d, functional.linear}
