"""Run a network as trials do: in double precision, where even a small difference is a difference, or for shapes."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calibration.randomness import randomness_kept
from secateur.pipeline.structure.capture import device_of, flat_outputs
from secateur.pipeline.structure.copying import copy_of, tensors
from secateur.pipeline.structure.dispatch import InDouble, WithoutValues, seeing, without_values

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
        self.module, self.inputs = copy_of(module, _drawn(module), shares_parameters=True), inputs
        # Apple's GPUs have no float64.
        self.is_double = wants_double and device_of(module).type != "mps"
        self._is_settled = not self.is_double
        self._last: dict[str, list[Tensor]] = {}

    def remembered(self, key: str, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Return what was computed under this key in this precision if it was among the last two, else compute it."""
        key = f"{key} {self.is_double}"
        if key not in self._last:
            self._last = dict(list(self._last.items())[-1:])
            self._last[key] = compute()
        return self._last[key]

    def run(self, module: nn.Module) -> list[Tensor]:
        """Return the outputs of a copy or a cut of ``module``."""
        # TensorFloat-32 would hide a wrong cut behind its rounding.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), randomness_kept(device_of(module)), exact, self.precision():
            return flat_outputs(module(*self.inputs))

    def precision(self) -> AbstractContextManager[None]:
        """Return the context in which operators compute as trials do."""
        return in_double() if self.is_double else nullcontext()

    def falls_back(self) -> bool:
        """Tell, after an error, whether double precision is the cause: then the network is used as it is from now on.

        Whatever was compared must be compared again.
        """
        if not self._is_settled:
            self._is_settled = True
            try:
                self.run(copy_of(self.module, shares_parameters=True).eval())
            except Exception:  # the network's own code refuses double precision in its own ways
                self.is_double = False
                return True
        return False

    @functools.cached_property
    def bare(self) -> nn.Module | None:
        """The network without values, None if it does not run so."""
        found = copy_of(self.module, {name: without_values(t) for name, t in tensors(self.module).items()}).eval()
        try:
            self.run_bare(copy_of(found, shares_parameters=True))
        except Exception:  # the network's own code asks for values in its own ways
            return None
        return found

    def run_bare(self, module: nn.Module) -> Any:
        """Run a copy or a cut of ``bare``, as errors of shapes come to light without computing anything."""
        with torch.no_grad(), randomness_kept(device_of(module)), seeing(WithoutValues()):
            return module(*map(without_values, self.inputs))


@contextmanager
def in_double() -> Iterator[None]:
    """Compute in double precision, what forward makes of numbers included, such as the root of a width."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with seeing(InDouble()):
            yield
    finally:
        torch.set_default_dtype(before)


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
    values = parameter.detach().reshape(-1)
    parts = values[:64], values  # most show at once that they are not
    return all(max(abs(float(extreme)) for extreme in torch.aminmax(part)) < NEAR_ZERO for part in parts)
