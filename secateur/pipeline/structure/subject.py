"""Run a network in double precision, in which even a small difference is a difference."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.calibration.randomness import randomness_kept
from secateur.pipeline.structure.capture import device_of, flat_outputs
from secateur.pipeline.structure.copying import copy_of, tensors

NEAR_ZERO = 1e-3
"""Below this, entries of a parameter count as not trained yet."""


class Subject:
    """The network that trials cut, with inputs on its device: in double precision if wanted and possible, else as is.

    Double precision is wanted where a mask sits at a place that was found by reasoning (attention, divided channels)
    and a wrong one may show in the last digits only. What masks inputs of layers is right by construction. Parameters
    near zero, as heads and the factors of branches are before they are trained, hide what they multiply: they are drawn
    anew for the trials.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], *, wants_double: bool) -> None:
        self._native = copy_of(module, _drawn(module), shares_parameters=True), inputs
        # Apple's GPUs have no float64.
        self._is_settled = not wants_double or device_of(module).type == "mps"
        self.module, self.inputs = self._native if self._is_settled else _doubled(*self._native)

    def run(self, module: nn.Module) -> list[Tensor]:
        """Return the outputs of a copy or a cut of ``module``."""
        # TensorFloat-32 would hide a wrong cut behind its rounding.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), randomness_kept(device_of(module)), exact:
            return flat_outputs(module(*self.inputs))

    def is_exact_after(self, module: nn.Module) -> tuple[list[Tensor], bool]:
        """Return the outputs and whether they are what they should be.

        They are not where a part of the network computes in less than double precision; then the network is used as it
        is from now on, and whatever was compared must be compared again.
        """
        if self._is_settled:
            return self.run(module), True
        with _Watch() as watch:
            outputs = self.run(module)
        if watch.has_seen_less:
            self._fall_back()
        self._is_settled = True
        return outputs, not watch.has_seen_less

    def falls_back(self) -> bool:
        """Tell, after an error, whether double precision may be the cause: then the network is used as it is."""
        if self._is_settled:
            return False
        try:
            _, is_exact = self.is_exact_after(copy_of(self.module, shares_parameters=True).eval())
        except Exception:  # the network's own code refuses double precision in its own ways
            self._fall_back()
            return True
        return not is_exact

    def _fall_back(self) -> None:
        self.module, self.inputs = self._native
        self._is_settled = True


def _drawn(module: nn.Module) -> dict[str, Tensor]:
    """Return positive numbers in place of the parameters that are near zero throughout."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, parameter in module.named_parameters():
        if _is_near_zero(parameter):
            scale = (parameter.numel() // len(parameter)) ** -0.5 if parameter.ndim > 1 else 0.3
            drawn = scale * (0.5 + torch.rand(parameter.shape, generator=generator))
            found[name] = drawn.to(parameter)
    return found


def _is_near_zero(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or not parameter.numel():
        return False
    return max(float(extreme.abs()) for extreme in torch.aminmax(parameter.detach())) < NEAR_ZERO


def _doubled(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    exact = {name: t.detach().double() for name, t in tensors(module).items() if t.is_floating_point()}
    return copy_of(module, exact), tuple(x.double() if x.is_floating_point() else x for x in inputs)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See whether anything is computed in less than double precision."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.has_seen_less = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor) and leaf.numel() > 1]
        self.has_seen_less |= any(leaf.is_floating_point() and leaf.itemsize < 8 for leaf in found)
        return result
