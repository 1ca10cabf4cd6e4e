"""Taps reach the inputs of layers however they are called, and leave nothing behind."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import _get_current_function_mode_stack

from secateur.calibration.readers import channel_axis, tap_readers
from secateur.errors import TraceError

LAYERS = {
    "conv1d": (nn.Conv1d(4, 3, 3), (2, 4, 7)),
    "conv2d": (nn.Conv2d(4, 3, 3), (2, 4, 7, 7)),
    "conv2d reflected": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
    "conv3d": (nn.Conv3d(4, 3, 3), (2, 4, 5, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 7, 7)),
    "transposed 1d": (nn.ConvTranspose1d(4, 3, 3), (2, 4, 7)),
    "transposed 2d": (nn.ConvTranspose2d(4, 3, 3), (2, 4, 7, 7)),
    "transposed 3d": (nn.ConvTranspose3d(4, 3, 3), (2, 4, 5, 5, 5)),
    "linear": (nn.Linear(4, 3), (2, 4)),
    "linear on tokens": (nn.Linear(4, 3), (2, 9, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_scaling_the_input_through_a_tap_is_scaling_the_input(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape)
    axis = channel_axis(layer.weight)
    gates = torch.rand(4)
    scale = gates.reshape(4, *(1,) * (-axis - 1))
    with tap_readers(layer, {"weight": lambda x: x * scale}) as seen:
        tapped = layer(inputs)
    torch.testing.assert_close(tapped, layer(inputs * scale))
    assert inputs.shape[axis] == 4
    assert seen == {"weight"}


class Functional(nn.Module):
    """One weight used twice, by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(
            input=torch.conv1d(x, self.matrix[..., None]).mT, weight=self.matrix
        ) + functional.linear(x.mT, self.matrix)


def test_bare_functions_and_keywords_are_seen_but_only_with_the_parameter_itself() -> None:
    module, calls = Functional(), []
    with tap_readers(module, {"matrix": lambda x: calls.append(tuple(x.shape)) or x}):
        module(torch.randn(2, 4, 5))
    assert calls == [(2, 5, 4), (2, 5, 4)]


def test_inner_contexts_come_first_and_both_end() -> None:
    layer, order = nn.Linear(3, 2), []
    with tap_readers(layer, {"weight": lambda x: order.append("outer") or x}):
        with tap_readers(layer, {"weight": lambda x: order.append("inner") or x}):
            layer(torch.zeros(1, 3))
        layer(torch.zeros(1, 3))
    layer(torch.zeros(1, 3))
    assert order == ["inner", "outer", "outer"]
    assert not _get_current_function_mode_stack()


def test_an_error_inside_ends_the_context() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(RuntimeError), tap_readers(layer, {"weight": lambda x: x}):
        layer(torch.zeros(1, 4))
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_seen_through_and_computes_the_same(batch_first: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    tokens, calls = torch.randn(3, 5, 8), {}
    names = ("in_proj_weight", "out_proj.weight")
    taps = {name: (lambda x, name=name: calls.setdefault(name, tuple(x.shape)) and x) for name in names}
    with torch.no_grad(), tap_readers(attention, taps) as seen:
        tapped, _ = attention(tokens, tokens, tokens, need_weights=False)
    plain, _ = attention(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(tapped, plain)
    assert seen == set(names)
    assert calls["in_proj_weight"] == ((5, 3, 8) if batch_first else (3, 5, 8))


def test_transformer_layers_are_seen_although_torch_has_a_fused_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    names = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    tokens = torch.randn(2, 4, 8)
    with torch.no_grad(), tap_readers(layer, {name: lambda x: x for name in names}) as seen:
        tapped = layer(tokens)
    assert seen == set(names)
    torch.testing.assert_close(tapped, layer(tokens))


def test_a_shared_weight_is_tapped_once_a_call_under_all_its_names() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    module, calls = nn.Sequential(first, second), []
    with tap_readers(
        module, {name: (lambda x, name=name: calls.append(name) or x) for name in ("0.weight", "1.weight")}
    ) as seen:
        module(torch.zeros(1, 3))
    assert calls == ["0.weight", "0.weight"]
    assert seen == {"0.weight", "1.weight"}


def test_a_parametrised_weight_is_not_seen() -> None:
    module = weight_norm(nn.Linear(3, 2))
    with tap_readers(module, {"parametrizations.weight.original1": lambda x: x * 0}) as seen:
        module(torch.ones(1, 3))
    assert seen == set()


def test_an_unknown_weight_is_named() -> None:
    message = r"Linear: found no parameter 'other\.weight'; wanted the name of a layer's weight"
    with pytest.raises(TraceError, match=message), tap_readers(nn.Linear(3, 2), {"other.weight": lambda x: x}):
        pass
