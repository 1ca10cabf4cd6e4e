"""Attention of any rank is the same with four axes, and is exported."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Model
from secateur.pipeline.export import export
from secateur.pipeline.export_attention import attention

TOKENS, CHANNELS = 5, 4
HEADS = {2: (), 3: (3,), 4: (2, 3), 5: (2, 4, 3), 6: (2, 2, 4, 3)}


@pytest.mark.parametrize(
    ("masked", "options"),
    [("not", {}), ("not", {"is_causal": True}), ("alike", {}), ("each", {}), ("each", {"scale": 0.3})],
)
@pytest.mark.parametrize("rank", HEADS)
def test_attention_of_any_rank_is_pytorchs(rank: int, masked: str, options: dict[str, object]) -> None:
    torch.manual_seed(rank)
    heads = HEADS[rank]
    q, k, v = (torch.randn(*heads, TOKENS, CHANNELS) for _ in range(3))
    masks = {"not": None, "alike": torch.randn(TOKENS, TOKENS), "each": torch.randn(*heads, TOKENS, TOKENS)}
    wanted = functional.scaled_dot_product_attention(q, k, v, masks[masked], **options)
    torch.testing.assert_close(attention(q, k, v, masks[masked], **options), wanted)


@pytest.mark.parametrize("rank", [4, 5])
def test_queries_may_share_keys(rank: int) -> None:
    torch.manual_seed(rank)
    q = torch.randn(*(2, 2)[: rank - 3], 6, TOKENS, CHANNELS)
    k, v = (torch.randn(*q.shape[:-3], 2, TOKENS, CHANNELS) for _ in range(2))
    wanted = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v, enable_gqa=True), wanted)


def test_keys_may_be_broadcast_over_queries() -> None:
    q, k = torch.randn(2, 4, 3, TOKENS, CHANNELS), torch.randn(3, TOKENS, CHANNELS)
    wanted = functional.scaled_dot_product_attention(q, k, k)
    torch.testing.assert_close(attention(q, k, k), wanted)


class Windows(nn.Module):
    """Attention within windows, [batch, windows, heads, tokens, channels], then with one head, [batch, tokens, …]."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], 4, 4, 3, 2, 4).permute(3, 0, 1, 4, 2, 5)
        windows = functional.scaled_dot_product_attention(q, k, v)
        tokens = windows.transpose(2, 3).reshape(x.shape[0], 16, 8)
        return functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize("opset", [18, 23])
def test_attention_of_three_and_five_axes_is_exported(tmp_path: Path, opset: int) -> None:
    torch.manual_seed(0)
    model = Model(module=Windows().eval(), example_inputs=(torch.randn(2, 16, 8),))
    exported = export(model, tmp_path, name="windows", opset=opset, batches=[torch.randn(3, 16, 8)])
    assert exported.path.exists()
