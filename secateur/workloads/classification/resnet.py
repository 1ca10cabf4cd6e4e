"""Residual networks for 32 x 32 pictures, with parameter-free shortcuts."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import LoadError

__all__ = ["CifarResNet", "load_weights", "resnet20", "resnet32", "resnet44", "resnet56"]


class ResidualBlock(nn.Module):
    """Add two 3 x 3 convolutions to the input; where the block widens, the input is subsampled and padded with zeros.

    That shortcut has no parameters ("option A" of He et al. 2015, arXiv:1512.03385): every second pixel is taken and
    half of the new channels are put before, half after the old ones.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.new_channels = channels_out - channels_in

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels_out h w"]:
        """Return relu(input + residual)."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
            )
        return functional.relu(x + residual)


class CifarResNet(nn.Module):
    """Classify 32 x 32 pictures with 6n + 2 layers: three stages of n blocks with 16, 32 and 64 channels.

    He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", arXiv:1512.03385, section 4.2.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise LoadError(
                "CifarResNet", f"depth {depth}", "6n + 2 layers: 8, 14, 20, 26, 32, ...", "Choose such a depth."
            )
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, num_blocks)
        self.layer2 = _stage(16, 32, 2, num_blocks)
        self.layer3 = _stage(32, 64, 2, num_blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = functional.relu(self.bn1(self.conv1(pictures)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(channels_in: int, channels_out: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(ResidualBlock(channels_out, channels_out, 1) for _ in range(num_blocks - 1)))


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Load a state dict from a file and return the module.

    A relative path starts in the working folder or, where nothing is there, in the folder that the environment variable
    SECATEUR_DATA names. The file holds the state dict itself or keeps it under ``state_dict``; a ``module.`` that
    data-parallel training put before the names is dropped. Nothing but tensors is unpickled. LoadError where the file
    is absent, damaged or made for another network.
    """
    path = _found(Path(path))
    where = f"weights {path}"
    if not path.is_file():
        raise LoadError(
            where, "no such file", "a file of weights",
            "Correct the path (a relative one starts in the working folder or in SECATEUR_DATA), or leave it out.",
        )  # fmt: skip
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise LoadError(
            where, f"a file that cannot be read ({_first_line(error)})", "tensors saved by torch.save",
            "Fetch the file again; it may be cut short, or hold more than tensors.",
        ) from error  # fmt: skip
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LoadError(
            where, f"{type(found).__name__} without tensors by name", "a state dict", "Save module.state_dict()."
        )
    try:
        module.load_state_dict(OrderedDict((name.removeprefix("module."), value) for name, value in state.items()))
    except RuntimeError as error:
        raise LoadError(
            where, f"weights of another network ({_differences(module, state)})", f"those of {type(module).__name__}",
            "Choose the network that the weights were trained for.",
        ) from error  # fmt: skip
    return module


def _found(path: Path) -> Path:
    elsewhere = Path(os.environ.get("SECATEUR_DATA", "")) / path
    return elsewhere if not path.exists() and elsewhere.is_file() else path


def _differences(module: nn.Module, state: dict[str, Tensor]) -> str:
    """Say which tensors are missing, unknown or of another shape, one example each."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name.removeprefix("module."): tuple(value.shape) for name, value in state.items()}
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    reshaped = [name for name in wanted if name in given and wanted[name] != given[name]]
    said = []
    if missing:
        said.append(f"{len(missing)} missing, as {missing[0]}")
    if unknown:
        said.append(f"{len(unknown)} unknown, as {unknown[0]}")
    if reshaped:
        said.append(f"{len(reshaped)} of another shape, as {reshaped[0]} {given[reshaped[0]]}")
    return "; ".join(said)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def _network(depth: int, weights: str | Path | None, num_classes: int) -> CifarResNet:
    module = CifarResNet(depth, num_classes)
    if weights is not None:
        load_weights(module, weights)
    return module.eval()


def resnet20(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 20 layers (0.27 M parameters, 40.6 M multiply-adds), trained where weights are given."""
    return _network(20, weights, num_classes)


def resnet32(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 32 layers (0.46 M parameters), trained where weights are given."""
    return _network(32, weights, num_classes)


def resnet44(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 44 layers (0.66 M parameters), trained where weights are given."""
    return _network(44, weights, num_classes)


def resnet56(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 56 layers (0.85 M parameters), trained where weights are given."""
    return _network(56, weights, num_classes)
