"""Bring attention into the four axes that the exporter knows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class FourAxes(TorchFunctionMode):
    """Let ``scaled_dot_product_attention`` of any rank be captured as one of [batch, heads, tokens, channels].

    PyTorch takes [..., tokens, channels]; its exporter refuses all but four axes, as single heads (three) and windows
    (five) do not have.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function, attention with axes merged or added."""
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return attention(*args, **(kwargs or {}))


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Return ``scaled_dot_product_attention`` of [..., tokens, channels] by one of four axes."""
    ranks = {t.ndim for t in (query, key, value)}
    if ranks == {4}:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)
    shares_keys = kwargs.get("enable_gqa", False)
    heads = query.shape[:-2]
    if not shares_keys:
        heads = torch.broadcast_shapes(heads, key.shape[:-2], value.shape[:-2])  # type: ignore[no-untyped-call]

    def four(tensor: Tensor, *, broadcast: bool) -> Tensor:
        whole = tensor.expand(*heads, *tensor.shape[-2:]) if broadcast else tensor
        return whole.flatten(0, -4) if max(ranks) > 4 else whole[(None,) * (4 - whole.ndim)]

    if attn_mask is not None and max(ranks) > 4:
        attn_mask = four(attn_mask, broadcast=True)
    q, k, v = (four(t, broadcast=not shares_keys) for t in (query, key, value))
    found = functional.scaled_dot_product_attention(q, k, v, attn_mask, *args, **kwargs)
    return found.reshape(*heads, *found.shape[-2:])
