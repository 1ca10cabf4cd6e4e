"""Put tensors of other sizes into a copy of a network and bring the modules' own numbers into line."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.pipeline.structure.copying import copy_of


def resized(module: nn.Module, replacements: Mapping[str, Tensor], *, shares_parameters: bool = False) -> nn.Module:
    """Copy a network with other tensors in place of some, see `copy_of`, and set its layers' numbers accordingly."""
    result = copy_of(module, replacements, shares_parameters=shares_parameters)
    for path in {name.rpartition(".")[0] for name in replacements}:
        _set_numbers(result.get_submodule(path))
    return result


NUMBERED = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU, nn.Embedding)
"""The layers whose numbers are set from their tensors."""


def _set_numbers(owner: nn.Module) -> None:
    """Set a layer's numbers from the shapes of its tensors, as its forward and its repr use them.

    Those that a user's own module keeps are found by `secateur.pipeline.structure.numbers`.
    """
    if isinstance(owner, _ConvNd):
        rows, columns = owner.weight.shape[:2]
        if owner.groups == owner.in_channels > 1:  # depthwise: outputs a group stay as many as they were
            transposed = isinstance(owner, _ConvTransposeNd)
            multiplier = owner.out_channels // owner.groups
            owner.groups = owner.in_channels = rows if transposed else rows // multiplier
            owner.out_channels = owner.groups * multiplier
        elif isinstance(owner, _ConvTransposeNd):
            owner.in_channels, owner.out_channels = rows, columns * owner.groups
        else:
            owner.in_channels, owner.out_channels = columns * owner.groups, rows
    elif isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = owner.weight.shape
    elif isinstance(owner, _NormBase):
        held = [t for t in (owner.weight, owner.running_mean) if isinstance(t, Tensor)]
        owner.num_features = held[0].shape[0]
    elif isinstance(owner, (nn.LayerNorm, nn.RMSNorm)) and isinstance(owner.weight, Tensor):
        owner.normalized_shape = tuple(owner.weight.shape)
    elif isinstance(owner, nn.GroupNorm):
        owner.num_channels = owner.weight.shape[0]
    elif isinstance(owner, nn.PReLU):
        owner.num_parameters = owner.weight.shape[0]
    elif isinstance(owner, nn.Embedding):
        owner.embedding_dim = owner.weight.shape[1]
