"""The pattern that sparse tensor cores compute: two of every four neighbours along the input channels."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.errors import LoadError

STAY, OF = 2, 4
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def two_of_four(scores: Float[Tensor, "outputs inputs *kernel"]) -> Bool[Tensor, "outputs inputs *kernel"]:
    """Return which weights stay: of every four neighbours along the inputs the two of the largest scores.

    Exactly two stay, the first ones where scores are equal (Mishra et al. 2021, arXiv 2104.08378). The number of inputs
    is a multiple of four.
    """
    moved = scores.movedim(1, -1)
    fours = moved.reshape(*moved.shape[:-1], -1, OF)
    order = fours.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter(-1, order[..., :STAY], True)
    return mask.flatten(-2).movedim(-1, 1)


def sparse_layers(module: nn.Module, keep: Sequence[str] = ()) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights that can take the pattern, by name, and why others cannot.

    Args:
        module: the network.
        keep: dotted paths of modules that stay dense, with all that is in them.

    Raises:
        LoadError: a path is that of no module.
    """
    paths = dict(module.named_modules())
    if unknown := [path for path in keep if path not in paths]:
        raise LoadError(
            "sparsity, keep", f"{unknown}", f"paths of modules, as {list(paths)[1:5]}", "Name modules of the network."
        )
    found: dict[str, Tensor] = {}
    dense: dict[str, str] = {}
    seen: set[int] = set()
    for path, layer in paths.items():
        if not isinstance(layer, LAYERS) or isinstance(layer, _ConvTransposeNd) or id(layer.weight) in seen:
            continue
        seen.add(id(layer.weight))
        name = f"{path}.weight" if path else "weight"
        groups = getattr(layer, "groups", 1)
        if any(path == kept or path.startswith(f"{kept}.") for kept in keep):
            dense[name] = "kept"
        elif groups > 1:
            dense[name] = f"a convolution in {groups} groups"
        elif layer.weight.shape[1] % OF:
            dense[name] = f"{layer.weight.shape[1]} inputs, no multiple of {OF}"
        else:
            found[name] = layer.weight
    return found, dense
