"""Carry an optimiser's state over a cut."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import TraceError
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.cut import along, require_traced, root_factors, surviving, taken
from secateur.pipeline.structure.plan import Plan
from secateur.pipeline.structure.stand_in import VALUE
from secateur.pipeline.structure.structure import Structure

_POWERS = {
    "exp_avg": 1, "exp_avg_sq": 2, "exp_inf": 1, "grad_avg": 1, "max_exp_avg_sq": 2, "momentum_buffer": 1, "prev": 1,
    "square_avg": 2, "sum": 2,
}  # fmt: skip
"""How PyTorch's optimisers' running means depend on the gradient's scale."""


def cut_optimizer(
    optimizer: Optimizer, module: nn.Module, small: nn.Module, structure: Structure, plan: Plan
) -> Optimizer:
    """Return an optimiser of the same class and settings over the cut network, with the state of what survives.

    ``optimizer`` trains ``module``, of which ``small`` is the cut by ``plan``; both are left as they were. State
    tensors of a parameter's shape (momenta, second moments) lose the entries that the parameter lost; others (step
    counts) are copied. The constant of a branch that was removed takes the place of the weight that made its channels,
    without state. Where a cut scales entries to make up for a division by the root of a width, their gradients shrink
    or grow the other way, and the means of these follow. Raises TraceError where the optimiser trains parameters
    that are not the network's, or the networks and the plan do not belong together.
    """
    require_traced(module, structure)
    left, masks = plan.remainder(structure)
    axes, factors = surviving(left, masks), root_factors(left, masks)
    gone = structure.shapes.keys() - left.shapes.keys()
    heirs = {made_by[0]: f"{path}.{VALUE}" for branch in structure.branches if branch.name in plan.removed
             for path, made_by in branch.writers.items()}  # fmt: skip
    names = {id(tensor): name for name, tensor in tensors(module).items()}
    cut_ones = tensors(small)

    def name_of(parameter: Tensor) -> str:
        name = names.get(id(parameter))
        if name is None or name not in cut_ones.keys() | gone:
            raise TraceError(
                "cut_optimizer", f"a parameter of shape {list(parameter.shape)} that is not the network's",
                f"parameters of {type(module).__name__}", "Give the optimiser that trains this network.",
            )  # fmt: skip
        return name

    groups = [
        {
            **group,
            "params": [
                cut_ones[heirs.get(n, n)] for n in map(name_of, group["params"]) if n not in gone - heirs.keys()
            ],
        }
        for group in optimizer.param_groups
    ]
    accepted = inspect.signature(type(optimizer)).parameters
    settings: dict[str, Any] = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    result = type(optimizer)(groups, **settings)

    def carried(name: str, key: str, value: Any, shape: torch.Size) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape != shape:
            return value.clone()
        for axis, factor in factors.get(name, {}).items():
            value = value / along(factor ** _POWERS.get(key, 0), value, axis)
        return taken(value, axes.get(name, {})).clone()

    for parameter, state in optimizer.state.items():
        name = name_of(parameter)
        if name not in gone:
            result.state[cut_ones[name]] = {k: carried(name, k, value, parameter.shape) for k, value in state.items()}
    return result
