"""Prove on real inputs that a cut network is the masked one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import Group, as_tuple
from secateur.calibration.batches import device_of, to_device
from secateur.calibration.masks import masked
from secateur.calibration.observe import observing
from secateur.equality import difference
from secateur.errors import EqualityError
from secateur.pipeline.structure.capture import flat_outputs


def assert_cut_equals_masked(
    module: nn.Module,
    groups: Sequence[Group],
    keep: Mapping[str, Tensor],
    small: nn.Module,
    inputs: Any,
    tolerance: float = 1e-4,
) -> float:
    """Return how far the outputs of the cut network are from those of the whole one with the same channels masked.

    ``small`` is ``module`` cut to the channels in ``keep``. The distance is the largest difference relative to the
    largest entry, over all output tensors, in the network's own precision without TensorFloat-32. Both networks run in
    eval mode and are left as they were. Raises EqualityError where it exceeds ``tolerance``.
    """
    placed = to_device(as_tuple(inputs), device_of(module))
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with observing(module), observing(small), torch.no_grad(), exact, _without_tf32():
        with masked(module, groups, keep):
            wanted = flat_outputs(module(*placed))
        found = flat_outputs(small(*placed))
    apart = difference([_array(t) for t in wanted], [_array(t) for t in found])
    if not apart.relative <= tolerance:
        raise EqualityError(
            f"cut, output {apart.array}", f"a relative difference of {apart.relative:.3g} from the masked network",
            f"at most {tolerance:g}",
            "Protect the modules whose forward depends on widths, and switch off random operators in eval mode.",
        )  # fmt: skip
    return apart.relative


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64 if tensor.dtype == torch.float64 else torch.float32).numpy()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Multiply matrices in full float32 within the context; the rounding of TensorFloat-32 would hide a wrong cut."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
