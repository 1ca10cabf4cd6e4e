"""The laws of a cut, as a fixture that any network can be put through."""

import copy
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from networks import randomise_norms
from torch import Tensor, nn
from torch.nn import functional

from secateur.pipeline.structure import Structure, cut, trace


def random_masks(structure: Structure, seed: int = 0, share: float = 0.6) -> dict[str, Tensor]:
    """Draw allowed masks, one a group."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in structure.groups:
        wanted = int((torch.rand(group.num_channels, generator=generator) < share).sum())
        width = max(wanted // group.multiple * group.multiple, group.least)
        mask = torch.zeros(group.num_channels, dtype=torch.bool)
        mask[torch.randperm(group.num_channels, generator=generator)[:width]] = True
        masks[group.name] = mask
    return masks


def over_survivors(owner: nn.Module, x: Tensor, stays: Tensor) -> Tensor:
    """Normalise the channels that stay as if there were no others; the others are zero."""
    axis = 1 if isinstance(owner, nn.GroupNorm) or "2d" in type(owner).__name__ else -1
    few, weight = x.index_select(axis, stays), owner.weight[stays]
    bias = owner.bias[stays] if getattr(owner, "bias", None) is not None else None
    if isinstance(owner, nn.RMSNorm):
        normed = functional.rms_norm(few, weight.shape, weight, owner.eps)
    elif isinstance(owner, nn.LayerNorm):
        normed = functional.layer_norm(few.movedim(axis, -1), weight.shape, weight, bias, owner.eps).movedim(-1, axis)
    else:
        normed = functional.group_norm(few, owner.num_groups, weight, bias, owner.eps)
    return torch.zeros_like(x).index_copy(axis, stays, normed)


def masked(module: nn.Module, structure: Structure, masks: Mapping[str, Tensor]) -> nn.Module:
    """Copy a network and multiply the removed input channels of every reader by zero, of convolutions by hooks.

    Linear layers, which attention calls in ways of its own, and queries get zero weights instead. Norms over channels
    see the survivors only.
    """
    result = copy.deepcopy(module)
    names = {id(p): n for n, p in result.named_parameters()}
    parameters = dict(result.named_parameters())
    convolutions = {
        n for n in parameters if isinstance(result.get_submodule(n.rpartition(".")[0]), nn.modules.conv._ConvNd)
    }
    for group in structure.groups:
        if group.name in masks:
            gone = ~masks[group.name].numpy()
            for reader in [reader for reader in group.readers if reader.weight not in convolutions]:
                parameters[reader.weight].data.index_fill_(1, torch.from_numpy(reader.positions[gone].reshape(-1)), 0)
            for writer in group.writers:
                rows = torch.from_numpy(writer.positions[gone].reshape(-1))
                for name in (writer.weight, writer.weight.removesuffix("weight") + "bias"):
                    if name in parameters:
                        parameters[name].data.index_fill_(0, rows, 0)
    for owner in result.modules():
        weight = getattr(owner, "weight", None)
        if isinstance(owner, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)) and weight is not None:
            stays = torch.ones(weight.numel(), dtype=torch.bool)
            for group in structure.groups:
                for norm in group.norms:
                    if norm.weight == names[id(weight)] and group.name in masks:
                        stays[torch.from_numpy(norm.positions[~masks[group.name].numpy()].reshape(-1))] = False
            if not stays.all():
                index = stays.nonzero().flatten()
                owner.register_forward_hook(lambda o, args, _, index=index: over_survivors(o, args[0], index))
        if not isinstance(owner, nn.modules.conv._ConvNd):
            continue
        for group in structure.groups:
            for reader in group.readers:
                if reader.weight == names[id(weight)] and group.name in masks:
                    gone = torch.from_numpy(reader.positions[~masks[group.name].numpy()].reshape(-1))
                    owner.register_forward_pre_hook(
                        lambda _, args, gone=gone: (args[0].index_fill(1, gone, 0), *args[1:])
                    )
    return result


def tensors_of(outputs: object) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


def assert_lawful(
    module: nn.Module, inputs: tuple[Tensor, ...], structure: Structure, masks: Mapping[str, Tensor]
) -> nn.Module:
    """Cut equals masked; costs foretold at any widths are those of the cut network traced again; names are stable."""
    small = cut(module, structure, masks)
    with torch.no_grad():
        found, wanted = tensors_of(small(*inputs)), tensors_of(masked(module, structure, masks)(*inputs))
    for one, two in zip(found, wanted, strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() <= 1e-4 * two.abs().max(), "cut differs from masked"
    widths = {name: int(mask.sum()) for name, mask in masks.items()}
    again = trace(small, inputs)
    assert again.widths == {**structure.widths, **widths}
    assert structure.macs(widths) == again.macs()
    assert structure.parameters(widths) == again.parameters() == sum(p.numel() for p in small.parameters())
    return small


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks run faster on one thread than on several that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lawful() -> Callable[..., Structure]:
    """Put a network through the laws and return its structure."""

    def check(
        module: nn.Module,
        *inputs: Tensor,
        seed: int = 0,
        share: float = 0.6,
        keep: tuple[str, ...] = (),
        multiple: int = 1,
    ) -> Structure:
        randomise_norms(module)
        structure = trace(module, inputs, keep=keep, multiple=multiple)
        assert structure.parameters() == sum(p.numel() for p in module.parameters())
        assert_lawful(module, inputs, structure, random_masks(structure, seed, share))
        return structure

    return check


@pytest.fixture(scope="session")
def draw_masks() -> Callable[..., dict[str, Tensor]]:
    return random_masks
