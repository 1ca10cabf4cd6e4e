"""The gaze networks of the benchmarks by name, whole and cut: what they cost, their shapes and their weights."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from published import macs
from torch import Tensor, nn

from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.resize import resized
from secateur.workloads.gaze.backbones import BACKBONES
from secateur.workloads.gaze.network import GazeNetwork

MOBILE = "mobilenetv2"
FAMILY: dict[str, Callable[..., nn.Module]] = {**BACKBONES, MOBILE: GazeNetwork}
"""All networks by name; MobileNetV2's sees pictures at half the height and width."""


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Count a network's multiply-adds on one picture, without running it."""
    return macs(copy.deepcopy(network).to("meta").eval(), (torch.zeros(1, 3, *size, device="meta"),))


def family_of(row: str) -> str:
    """Return which network of `FAMILY` a row is about; those of the ensemble are numbered."""
    return re.sub(r" \d+$", "", row.partition(",")[0])


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """Return the shapes of a network's tensors by name, from which one of equal latency can be built again."""
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items() if tensor.ndim}


def rebuilt(name: str, shapes: Mapping[str, Sequence[int]], state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a cut network of `FAMILY` in evaluation mode: its shapes, and its weights where they were kept.

    Without them it has those of a fresh network, which takes as long.
    """
    whole = FAMILY[name](log_prior=torch.zeros(*shapes["log_prior"]))
    own = tensors(whole)
    network = resized(whole, {key: own[key].detach()[tuple(slice(n) for n in shapes[key])].clone() for key in shapes})
    if state is not None:
        network.load_state_dict(single_precision(state))
    return network.eval()


def single_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in single precision where they are not whole numbers."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def half_precision(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors on the processor, in half precision where they are not whole numbers."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
