"""Networks as tests want them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Layers by name and a forward written as a function of them."""

    def __init__(self, forward: Callable[..., object], **layers: object) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> object:
        return self.run(self, *inputs)


class SelfAttention(nn.Module):
    """Two heads on [batch, tokens, 12]; ``weigh`` makes the weights of queries and keys [batch, heads, tokens, d]."""

    def __init__(self, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.qkv, self.proj, self.weigh = nn.Linear(12, 36), nn.Linear(12, 12), weigh

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.proj((self.weigh(q, k) @ v).transpose(1, 2).flatten(2))


def scaled(q: Tensor, k: Tensor) -> Tensor:
    """Divide by the root of the width that is found."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)


def lowered(q: Tensor, k: Tensor) -> Tensor:
    """Compute in single precision, whatever comes in."""
    return ((q @ k.mT).float() * 0.3).softmax(-1).to(q.dtype)


def randomise_norms(module: nn.Module) -> nn.Module:
    """Give batch norms statistics under which a channel of zeros does not stay zero."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()
