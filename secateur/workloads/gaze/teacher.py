"""The packaged gaze network: MobileNetV2 features and readout, trained on real and rendered pictures."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.errors import LoadError
from secateur.workloads.gaze.network import GazeNetwork

WEIGHTS = Path(__file__).parent / "weights" / "mobilenet_v2_gaze.safetensors"
"""The packaged weights, stored in half precision."""


def teacher(weights: str | Path | None = None) -> GazeNetwork:
    """Return the trained gaze network in float32 and evaluation mode; ``weights`` defaults to the packaged file.

    LoadError where the file is missing, damaged, or not this network's.
    """
    path = WEIGHTS if weights is None else Path(weights)
    remedy = "Reinstall the package, or train the network again with benchmarks/train_gaze_teacher.py."
    if not path.is_file():
        raise LoadError(str(path), "no such file", "the gaze network's weights (safetensors)", remedy)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoadError(str(path), f"a damaged file ({error})", "a safetensors file", remedy) from error
    network = GazeNetwork()
    try:
        network.load_state_dict({name: _single(tensor) for name, tensor in state.items()})
    except RuntimeError as error:
        reasons = " ".join(str(error).split())
        raise LoadError(
            str(path), f"weights that do not fit ({reasons})", "the weights of GazeNetwork", remedy
        ) from error
    return network.eval()


def save_teacher(network: nn.Module, path: Path) -> None:
    """Write the network's state in half precision; whole numbers (counters) stay as they are."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    save_file({name: t.half().contiguous() if t.is_floating_point() else t for name, t in state.items()}, path)


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
