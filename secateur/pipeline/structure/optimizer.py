"""Carry an optimiser's state over a cut."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import TraceError
from secateur.pipeline.structure.copying import canonical_names, tensors
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

    ``optimizer`` trains ``module``, of which ``small`` is the cut by ``plan``; both are left as they were. What becomes
    of the state is told at `cut_state`. The constant of a branch that was removed takes the place of the weight that
    made its channels, without state. Raises TraceError where the optimiser trains parameters that are not the
    network's, or the networks and the plan do not belong together.
    """
    require_traced(module, structure)
    left, _ = plan.remainder(structure)
    gone = structure.shapes.keys() - left.shapes.keys()
    first = canonical_names(module)
    heirs = {first[made_by[0]]: f"{path}.{VALUE}" for branch in structure.branches if branch.name in plan.removed
             for path, made_by in branch.writers.items()}  # fmt: skip
    names = {id(tensor): first[name] for name, tensor in tensors(module).items()}
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
    state = {name_of(parameter): values for parameter, values in optimizer.state.items()}
    for name, values in cut_state(state, module, structure, plan).items():
        result.state[cut_ones[name]] = values
    return result


def cut_state(
    state: Mapping[str, Mapping[str, Any]], module: nn.Module, structure: Structure, plan: Plan
) -> dict[str, dict[str, Any]]:
    """Return what is left of the state of an optimiser of ``module``, by the first names of parameters, after a cut.

    Tensors of a parameter's shape (momenta, second moments) lose the entries that the parameter loses; others (step
    counts) are copied. Where a cut scales entries to make up for a division by the root of a width, their gradients
    shrink or grow the other way, and the means of these follow. Parameters that go as a whole leave nothing.
    """
    left, masks = plan.remainder(structure)
    gone = structure.shapes.keys() - left.shapes.keys()
    first = canonical_names(module)
    axes = {first.get(name, name): indices for name, indices in surviving(left, masks).items()}
    factors = {first.get(name, name): by_axis for name, by_axis in root_factors(left, masks).items()}

    def carried(name: str, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if tuple(value.shape) != tuple(structure.shapes[name]):
            return value.clone()
        for axis, factor in factors.get(name, {}).items():
            value = value / along(factor ** _POWERS.get(key, 0), value, axis)
        return taken(value, axes.get(name, {})).clone()

    return {
        name: {key: carried(name, key, value) for key, value in values.items()}
        for name, values in state.items()
        if name not in gone
    }
