"""Take whole residual branches out of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calibration.randomness import randomness_kept
from secateur.pipeline.structure.branch import Branch
from secateur.pipeline.structure.capture import device_of
from secateur.pipeline.structure.copying import copy_of, tensors
from secateur.pipeline.structure.paths import covers
from secateur.pipeline.structure.stand_in import Place, StandIn, put


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a module was called with and returned: the shape of its first tensor, and the one tensor among its results.

    ``item`` is its position in a tuple and that one's length; ``times`` counts the calls.
    """

    input_shape: tuple[int, ...]
    output: Tensor
    item: tuple[int, int] | None
    times: int


def seen_without(
    module: nn.Module, readers: Sequence[str], paths: Sequence[str], inputs: tuple[Tensor, ...]
) -> dict[str, Seen]:
    """Run a copy of a network in which these layers read nothing but zeros, and return what the modules made of it.

    Modules that return other than one tensor, alone or in a tuple, are left out.
    """
    named = tensors(module)
    zeros = {name: torch.zeros_like(named[name]) for name in readers}
    trial = copy_of(module, zeros, shares_parameters=True).eval()
    found: dict[str, Seen] = {}

    def note(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any) -> None:
        items = outputs if isinstance(outputs, tuple) else (outputs,)
        made = [n for n, item in enumerate(items) if isinstance(item, Tensor)]
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if len(made) == 1 and given and all(items[n] is None for n in range(len(items)) if n != made[0]):
            item = (made[0], len(items)) if isinstance(outputs, tuple) else None
            times = found[path].times + 1 if path in found else 1
            # What comes next may write into it.
            output = items[made[0]].detach().clone()
            found[path] = Seen(input_shape=tuple(given[0].shape), output=output, item=item, times=times)

    for path in paths:
        trial.get_submodule(path).register_forward_hook(
            lambda _, args, kwargs, outputs, path=path: note(path, args, kwargs, outputs), with_kwargs=True
        )
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.no_grad(), randomness_kept(device_of(trial)), exact:
        trial(*(x.to(device_of(trial)) for x in inputs))
    return found


def without_branches(
    module: nn.Module, branches: Sequence[Branch], inputs: tuple[Tensor, ...], *, shares_parameters: bool = False
) -> nn.Module:
    """Return a copy of a network in which stand-ins take the places of these branches' modules.

    Their constants are what the branches make of zeros in all inner channels; they are found by running the network
    once, and train where a parameter of the branch did.
    """
    readers = [name for branch in branches for name in branch.readers]
    written = [path for branch in branches for path in branch.num_constants]
    seen = seen_without(module, readers, written, inputs)
    result = copy_of(module, shares_parameters=shares_parameters)
    for branch in branches:
        trains = any(p.requires_grad for n, p in module.named_parameters() if covers(branch.modules, n))
        for path, place in branch.places.items():
            value = _constant(seen[path].output, place) if path in branch.num_constants else None
            put(result, path, StandIn(place, value).requires_grad_(trains))
    return result


def _constant(output: Tensor, place: Place) -> Tensor:
    """Return the constant of each channel."""
    return output.movedim(place.axis, 0).flatten(1)[:, 0].clone()
