"""Cut channels out of a network."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import Group
from secateur.calibration.randomness import randomness_kept
from secateur.errors import TraceError
from secateur.pipeline.structure.capture import copy_of, device_of, flat_outputs, tensors
from secateur.pipeline.structure.resize import replace_tensors
from secateur.pipeline.structure.structure import Structure

Kept = Mapping[str, np.ndarray]
"""For every group that is cut, a mask of its surviving channels."""


def cut(module: nn.Module, structure: Structure, keep: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the network that has only the channels in ``keep``; the one given is left as it was.

    ``keep`` maps the names of groups to a bool mask [num_channels] or to int64 indices of the channels that stay;
    groups that are not named stay whole. The cut network is run once on the structure's example inputs, and the shapes
    of its outputs must not have changed. Raises TraceError for a ``keep`` that does not fit the structure, for a
    network other than the one that was traced, and where the cut network does not run.
    """
    result = cut_unchecked(module, structure, keep)
    shapes = run_shapes(result, structure)
    if shapes != structure.output_shapes:
        raise TraceError(
            f"cut of {sorted(keep)}", f"outputs of shapes {list(shapes)}", f"{list(structure.output_shapes)} as before",
            "The network's forward uses fixed sizes; name the modules in question in keep= of trace.",
        )  # fmt: skip
    return result


def cut_unchecked(module: nn.Module, structure: Structure, keep: Mapping[str, Tensor]) -> nn.Module:
    """Cut as `cut` does without running the cut network."""
    masks = {name: _mask(structure.group(name), stays) for name, stays in keep.items()}
    own = {name: tuple(tensor.shape) for name, tensor in tensors(module).items()}
    for name, shape in structure.shapes.items():
        if own.get(name) != shape:
            raise TraceError(
                f"cut, {name}", f"shape {own.get(name)}", f"{shape} as in the network that was traced",
                "Trace this network again before cutting it.",
            )  # fmt: skip
    result = copy_of(module)
    replace_tensors(result, cut_tensors(tensors(result), structure, masks))
    return result


def cut_tensors(whole: Mapping[str, Tensor], structure: Structure, masks: Kept) -> dict[str, Tensor]:
    """Return the tensors that shrink, shrunk."""
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for name, mask in masks.items():
        for s in structure.group(name).slices:
            gone.setdefault((s.tensor, s.axis), []).append(s.indices[~mask].reshape(-1))
    shrunk: dict[str, Tensor] = {}
    for (tensor, axis), indices in gone.items():
        stays = np.ones(whole[tensor].shape[axis], dtype=bool)
        stays[np.concatenate(indices)] = False
        source = shrunk.get(tensor, whole[tensor]).detach()
        shrunk[tensor] = source.index_select(axis, torch.from_numpy(np.flatnonzero(stays)).to(source.device))
    return shrunk


def run_shapes(module: nn.Module, structure: Structure) -> tuple[tuple[int, ...], ...]:
    """Run a copy of a cut network on the example inputs in evaluation mode and return its outputs' shapes."""
    trial = copy_of(module).eval()
    inputs = tuple(x.to(device_of(trial)) for x in structure.example_inputs)
    try:
        with torch.no_grad(), randomness_kept(device_of(trial)):
            outputs = trial(*inputs)
    except Exception as error:  # the network's own code fails in its own ways
        raise TraceError(
            f"cut, running the cut {type(module).__name__}", f"{type(error).__name__}: {str(error)[:300]}",
            "a forward pass that follows the new widths",
            "The network's forward uses fixed sizes; name the modules in question in keep= of trace.",
        ) from error  # fmt: skip
    return tuple(tuple(output.shape) for output in flat_outputs(outputs))


def _mask(group: Group, stays: Tensor) -> np.ndarray:
    """Return the mask of surviving channels; raises TraceError where it does not fit the group."""
    where, width = f"cut, group {group.name}", group.num_channels
    given = stays.detach().cpu().numpy()
    if given.dtype == bool and given.shape != (width,):
        raise TraceError(where, f"a mask of shape {given.shape}", f"({width},)", "Give one entry a channel.")
    if given.dtype == bool:
        mask = given
    elif given.ndim == 1 and np.issubdtype(given.dtype, np.integer):
        if given.size and (given.min() < 0 or given.max() >= width or np.unique(given).size < given.size):
            raise TraceError(
                where, f"indices {given.tolist()[:8]}", f"distinct indices in [0, {width})", "List each channel once."
            )
        mask = np.zeros(width, dtype=bool)
        mask[given] = True
    else:
        raise TraceError(
            where, f"{given.dtype} of shape {given.shape}", "a bool mask or int64 indices",
            "Turn scores into a mask."
        )  # fmt: skip
    left = int(mask.sum())
    if left < group.least:
        raise TraceError(
            where, f"{left} channels to stay", f"at least {group.least}", "Keep more channels of this group."
        )
    if left % group.multiple and left != width:
        raise TraceError(
            where, f"{left} channels to stay", f"a multiple of {group.multiple}, or all {width}",
            "Round the width, or trace with another multiple.",
        )  # fmt: skip
    return mask
