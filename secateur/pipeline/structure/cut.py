"""Cut channels out of a network."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from secateur.calibration.randomness import randomness_kept
from secateur.errors import TraceError
from secateur.pipeline.structure.blame import blame
from secateur.pipeline.structure.capture import device_of, flat_outputs
from secateur.pipeline.structure.copying import copy_of, tensors
from secateur.pipeline.structure.numbers import lower
from secateur.pipeline.structure.plan import Plan
from secateur.pipeline.structure.removal import without_branches
from secateur.pipeline.structure.resize import resized
from secateur.pipeline.structure.structure import Joints, Structure

Kept = Mapping[str, np.ndarray]
"""For every group that is cut, a mask of its surviving channels."""


def cut(module: nn.Module, structure: Structure, keep: Plan | Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the network that has only the channels in ``keep``; the one given is left as it was.

    ``keep`` is a plan, or maps the names of groups to a bool mask [num_channels] or to int64 indices of the channels
    that stay; groups that are not named stay whole, and residual branches of which no channel stays are removed, their
    modules replaced by constants. The cut network is run once on the structure's example inputs, and
    the shapes of its outputs must not have changed. Raises TraceError for a ``keep`` that does not fit the structure,
    for a network other than the one that was traced, and where the cut network does not run.
    """
    result = cut_unchecked(module, structure, keep)
    shapes = run_shapes(result, structure)
    if shapes != structure.output_shapes:
        raise TraceError(
            f"cut of {type(module).__name__}", f"outputs of shapes {list(shapes)}",
            f"{list(structure.output_shapes)} as before",
            "The network's forward uses fixed sizes; name the modules in question in keep= of trace.",
        )  # fmt: skip
    return result


def cut_unchecked(module: nn.Module, structure: Structure, keep: Plan | Mapping[str, Tensor]) -> nn.Module:
    """Cut as `cut` does without running the cut network."""
    plan = keep if isinstance(keep, Plan) else Plan.of(structure, keep)
    _, masks = plan.remainder(structure)
    require_traced(module, structure)
    result = shrunk(module, structure, masks)
    branches = [branch for branch in structure.branches if branch.name in plan.removed]
    # What is left of a branch may depend on the channels that it finds.
    return without_branches(result, branches, structure.example_inputs) if branches else result


def shrunk(
    module: nn.Module, structure: Joints, masks: Kept, *, shares_parameters: bool = False, is_double: bool = False
) -> nn.Module:
    """Return a cut copy of a network; whole parameters may stay the given network's own, see `copy_of`.

    With ``is_double`` entries that are scaled come in double precision, for a run in which all else is computed so.
    """
    replacements = cut_tensors(module, structure, masks, is_double=is_double)
    result = resized(module, replacements, shares_parameters=shares_parameters)
    for number in structure.numbers:
        if number.group in masks:
            lower(result, number, int(np.count_nonzero(~masks[number.group])))
    return result


def require_traced(module: nn.Module, structure: Structure) -> None:
    """Raise TraceError where a network has other tensors than the one that was traced."""
    own = {name: tuple(tensor.shape) for name, tensor in tensors(module).items()}
    for name, shape in structure.shapes.items():
        if own.get(name) != shape:
            raise TraceError(
                f"cut, {name}", f"shape {own.get(name)}", f"{shape} as in the network that was traced",
                "Trace this network again before cutting it.",
            )  # fmt: skip


def cut_tensors(module: nn.Module, structure: Joints, masks: Kept, *, is_double: bool = False) -> dict[str, Tensor]:
    """Return the tensors that shrink, shrunk, those that are scaled in double precision if wanted."""
    whole = tensors(module)
    factors = root_factors(structure, masks)
    found = {}
    for name, axes in surviving(structure, masks).items():
        tensor = whole[name].detach()
        for axis, factor in factors.get(name, {}).items():
            tensor = tensor.double() if is_double else tensor
            tensor = tensor * along(factor, tensor, axis)
        found[name] = taken(tensor, axes)
    return found


def root_factors(structure: Joints, masks: Kept) -> dict[str, dict[int, np.ndarray]]:
    """Return what entries are multiplied by so that a division by the root of a width keeps its uncut value.

    One factor an index of an axis, by axis, of every tensor that such a division follows.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    for name, mask in masks.items():
        for s in structure.group(name).roots:
            ones = np.ones(structure.shapes[s.tensor][s.axis])
            factors = found.setdefault(s.tensor, {}).setdefault(s.axis, ones)
            factors[s.indices.reshape(-1)] *= mask.mean() ** s.power
    return found


def along(factor: np.ndarray, tensor: Tensor, axis: int) -> Tensor:
    """Lay one number an index of an axis so that it multiplies a tensor."""
    shape = [-1 if a == axis else 1 for a in range(tensor.ndim)]
    return torch.from_numpy(factor).to(tensor.device, tensor.dtype).reshape(shape)


def surviving(structure: Joints, masks: Kept) -> dict[str, dict[int, np.ndarray]]:
    """Return the indices that stay, int64 ascending, by axis, of every tensor that shrinks."""
    gone: dict[str, dict[int, list[np.ndarray]]] = {}
    for name, mask in masks.items():
        slices = structure.group(name).slices
        removed = {id(s.indices): s.indices[~mask].reshape(-1) for s in {id(s.indices): s for s in slices}.values()}
        for s in slices:
            gone.setdefault(s.tensor, {}).setdefault(s.axis, []).append(removed[id(s.indices)])
    found: dict[str, dict[int, np.ndarray]] = {}
    for tensor, axes in gone.items():
        for axis, indices in axes.items():
            stays = np.ones(structure.shapes[tensor][axis], dtype=bool)
            stays[np.concatenate(indices)] = False
            found.setdefault(tensor, {})[axis] = np.flatnonzero(stays)
    return found


def taken(tensor: Tensor, axes: Mapping[int, np.ndarray]) -> Tensor:
    """Return a tensor's entries at these indices of these axes.

    Indices that come in blocks, as those of channels that were flattened with their space, are taken block by block.
    """
    for axis, indices in sorted(axes.items()):
        size = tensor.shape[axis]
        stays = np.zeros(size + 2, dtype=bool)
        stays[indices + 1] = True
        block = int(np.gcd.reduce(np.append(np.flatnonzero(stays[1:] != stays[:-1]), size)))
        blocks = torch.from_numpy(indices[::block] // block).to(tensor.device)
        parts = tensor.reshape(*tensor.shape[:axis], -1, block, *tensor.shape[axis + 1 :])
        tensor = parts.index_select(axis, blocks).flatten(axis, axis + 1)
    return tensor


def run_shapes(module: nn.Module, structure: Structure) -> tuple[tuple[int, ...], ...]:
    """Run a copy of a cut network on the example inputs in evaluation mode and return its outputs' shapes."""
    trial = copy_of(module, shares_parameters=True).eval()
    inputs = tuple(x.to(device_of(trial)) for x in structure.example_inputs)
    try:
        with torch.no_grad(), randomness_kept(device_of(trial)):
            outputs = trial(*inputs)
    except Exception as error:  # the network's own code fails in its own ways
        raise TraceError(
            f"cut, running the cut {type(module).__name__}", blame(error, trial)[0],
            "a forward pass that follows the new widths",
            "The network's forward uses fixed sizes; name the modules in question in keep= of trace.",
        ) from error  # fmt: skip
    return tuple(tuple(output.shape) for output in flat_outputs(outputs))
