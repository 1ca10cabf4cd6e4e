"""Give a cut network its removed channels back."""

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.cut import along, require_traced, root_factors, surviving
from secateur.pipeline.structure.plan import Plan
from secateur.pipeline.structure.resize import resized
from secateur.pipeline.structure.structure import Structure


def regrow(small: nn.Module, whole: nn.Module, structure: Structure, plan: Plan) -> nn.Module:
    """Undo a plan: return a network of the original shapes with the cut network's values where it has any.

    ``small`` is a network that was cut by ``plan``, trained since or not; ``whole`` one of the shapes that were traced,
    whose values the removed channels and branches take up again. Both are left as they were. Training methods that let
    channels return (cut, train, regrow, measure, cut differently) are made of this. Raises TraceError where the
    networks and the plan do not belong together.
    """
    require_traced(whole, structure)
    left, masks = plan.remainder(structure)
    axes, factors = surviving(left, masks), root_factors(left, masks)
    named, own = tensors(whole), tensors(small)
    grown: dict[str, Tensor] = {}
    for name, target in [(name, target) for name, target in named.items() if name in left.shapes]:
        expected = [len(axes.get(name, {}).get(axis, range(size))) for axis, size in enumerate(target.shape)]
        if name not in own or list(own[name].shape) != expected:
            found = list(own[name].shape) if name in own else "no such tensor"
            raise TraceError(
                f"regrow, {name}", str(found), f"shape {expected}, as the plan leaves it",
                "Give the network that was cut by this plan.",
            )  # fmt: skip
        filled, source = target.detach().clone(), own[name].detach().to(target.device)
        for axis, factor in factors.get(name, {}).items():
            source = source / along(factor[axes[name][axis]], source, axis)
        if name in axes:
            indices = [torch.from_numpy(axes[name].get(axis)) if axis in axes[name] else torch.arange(size)
                       for axis, size in enumerate(target.shape)]  # fmt: skip
            filled[torch.meshgrid(*(i.to(target.device) for i in indices), indexing="ij")] = source
        else:
            filled.copy_(source)
        grown[name] = filled
    return resized(whole, grown)
