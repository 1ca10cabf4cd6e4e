"""Let biases carry on what removed channels were on average."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.artifacts import as_tuple
from secateur.calibration.activations import Activations
from secateur.calibration.masks import as_mask
from secateur.calibration.sites import find_sites
from secateur.errors import TraceError
from secateur.pipeline.structure import Structure, cut
from secateur.pipeline.structure.capture import device_of
from secateur.pipeline.structure.cut import surviving


def cut_to_means(
    module: nn.Module, structure: Structure, keep: Mapping[str, Tensor], activations: Activations
) -> nn.Module:
    """Return the network cut to ``keep``, as `cut` does, with the removed channels' means carried on by its biases.

    What a reader y = W a + b loses with the channels S is W_S a_S; its bias takes over W_S E[a_S] (Evci, Le Roux,
    Castro and Bottou 2018, "Mean replacement pruning"). That is exact where a_S is constant, but for the borders of
    layers that pad with zeros. A reader without bias hands it to the running mean of the batch norm that follows it
    directly, mu - W_S E[a_S]; where there is none it gets a bias, which `load` gives a freshly built network as well.
    Groups that no layer reads are cut as they are. ``activations`` are those of the uncut network.

    Raises TraceError as `cut` does, and where a reader has neither a bias nor a module that could have one.
    """
    masks = {name: as_mask(stays, structure.group(name).num_channels) for name, stays in keep.items()}
    small = cut(module, structure, masks)
    stays = surviving(structure, {name: mask.numpy() for name, mask in masks.items() if not mask.all()})
    lost = _lost(module, structure, masks, activations)
    device = device_of(small)
    sites = find_sites(small, tuple(x.to(device) for x in as_tuple(structure.example_inputs)))
    for weight, shift in lost.items():
        # The shift is that of the reader's uncut outputs, some of which were cut as well.
        kept = stays.get(weight, {}).get(1 if _transposed(module, weight) else 0)
        carried = shift if kept is None else shift[torch.from_numpy(kept)]
        if carried.any():
            site = sites.get(weight)
            _carry(small, weight, carried, None if site is None else site.running_mean)
    return small


def can_carry(module: nn.Module, weight: str) -> bool:
    """Tell whether the layer of a weight can carry on the means of what it no longer reads."""
    owner = module.get_submodule(weight.rpartition(".")[0])
    return isinstance(owner, (_ConvNd, nn.Linear)) or (
        module.get_parameter(weight).ndim == 2 and _bias_of(module, weight) is not None
    )


def _lost(
    module: nn.Module, structure: Structure, masks: Mapping[str, Tensor], activations: Activations
) -> dict[str, Float64[Tensor, " outputs"]]:
    """Return the mean that each reading layer's uncut outputs lose, by its weight."""
    lost: dict[str, Tensor] = {}
    for name, mask in masks.items():
        for reader in structure.group(name).readers if not mask.all() else ():
            moments = activations.moments[name][reader.weight]
            if not moments.mean[~mask].any():
                continue
            weights = _by_input(module, reader.weight)
            means = torch.zeros(weights.shape[0] * weights.shape[1], dtype=torch.float64)
            means[torch.from_numpy(reader.positions[~mask.numpy()])] = moments.mean[~mask]
            shift = (means.reshape(*weights.shape[:2], 1) * weights).sum(1).flatten()
            lost[reader.weight] = lost[reader.weight] + shift if reader.weight in lost else shift
    return lost


def _by_input(module: nn.Module, name: str) -> Float64[Tensor, "groups inputs outputs"]:
    """Return what a constant input channel adds to each output in the interior, [groups, inputs, outputs of a group].

    A transposed convolution spreads its taps over as many places as its strides make; on average each gets its share.
    """
    owner = module.get_submodule(name.rpartition(".")[0])
    weight = module.get_parameter(name).detach().cpu().double()
    if weight.ndim == 2:
        return weight.mT[None]
    if not isinstance(owner, _ConvNd):
        raise TraceError(
            f"means carried on, {name}", f"a kernel of {type(owner).__name__}", "a kernel of a convolution module",
            "Remove these channels without their means, or write the layer as a torch.nn convolution.",
        )  # fmt: skip
    taps = weight.flatten(2).sum(2)
    if isinstance(owner, _ConvTransposeNd):
        return taps.reshape(owner.groups, -1, taps.shape[1]) / math.prod(owner.stride)
    return taps.reshape(owner.groups, -1, taps.shape[1]).mT


def _transposed(module: nn.Module, weight: str) -> bool:
    return isinstance(module.get_submodule(weight.rpartition(".")[0]), _ConvTransposeNd)


def _bias_of(module: nn.Module, weight: str) -> nn.Parameter | None:
    """Return the bias that goes with a weight: ``in_proj_bias`` with ``in_proj_weight``."""
    path, _, attribute = weight.rpartition(".")
    found = getattr(module.get_submodule(path), attribute.replace("weight", "bias"), None)
    return found if isinstance(found, nn.Parameter) else None


def _carry(module: nn.Module, weight: str, carried: Tensor, running_mean: Tensor | None) -> None:
    """Add what is carried on to a reader's outputs, in place."""
    owner, bias = module.get_submodule(weight.rpartition(".")[0]), _bias_of(module, weight)
    with torch.no_grad():
        if bias is not None:
            bias.add_(carried.to(bias))
        elif running_mean is not None:
            running_mean.sub_(carried.to(running_mean))
        elif isinstance(owner, (_ConvNd, nn.Linear)):
            owner.bias = nn.Parameter(carried.to(module.get_parameter(weight)))
        else:
            raise TraceError(
                f"means carried on, {weight}", f"no bias in {type(owner).__name__}", "a convolution or linear module",
                "Remove these channels without their means, or give the layer a bias.",
            )  # fmt: skip
