"""``secateur check``: everything that a recipe means, in full, without touching anything."""

from pathlib import Path

from secateur.artifacts import Pinned, Record
from secateur.deployment import Deployment
from secateur.listening import Silent
from secateur.loading import importable, load
from secateur.pipeline.allocation import floor_cost
from secateur.recipe import Recipe
from secateur.report.gates import check_gates
from secateur.steps import Steps


class GroupRow(Record):
    """One group of channels that pruning may narrow."""

    name: str
    block: str
    num_channels: int
    least: int
    multiple: int


class Check(Record):
    """What a recipe comes to on this machine.

    ``reachable`` is the smallest share of the budgeted cost that pruning could leave without floors, and ``target`` the
    budget, or that smallest cost where only a loss limits pruning. Both are None for a latency: a run measures it.
    """

    recipe: Recipe
    data: str
    num_train: int
    num_test: int
    task: str
    metrics: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    macs: int
    parameters: int
    groups: tuple[GroupRow, ...]
    pinned: tuple[Pinned, ...]
    budget: str
    target: int | None
    reachable: float | None
    backends: dict[str, str]


def check(recipe: Recipe, *, beside: Path = Path()) -> Check:
    """Load and trace what a recipe names and say what a run would do; nothing is written.

    Raises:
        SecateurError: what the run would raise before its first step, or a budget out of reach.
    """
    with importable(beside):
        workload = load(recipe)
        check_gates(recipe.gates, workload.task.metrics, quantized=recipe.quantize is not None)
        Deployment(recipe=recipe, workload=workload, listener=Silent()).require_runtime()
        structure = Steps(recipe=recipe, workload=workload, listener=Silent()).structure(workload.model)
        kind, keep = recipe.prune.budget
        target = reachable = None
        if kind != "latency":
            cost = structure.cost_terms(kind)
            whole = cost.total(cost.vector(structure.widths))
            smallest = floor_cost(structure.bare.cost_terms(kind), structure.bare.groups)
            target, reachable = smallest if keep is None else int(whole * keep), smallest / whole
        return Check(
            recipe=recipe,
            data=workload.data.description,
            num_train=len(workload.data.train),  # type: ignore[arg-type]
            num_test=len(workload.data.test),  # type: ignore[arg-type]
            task=workload.task.name,
            metrics=tuple(workload.task.metrics),
            input_shapes=tuple(tuple(x.shape[1:]) for x in workload.model.example_inputs),
            macs=structure.macs(),
            parameters=structure.parameters(),
            groups=tuple(
                GroupRow(name=g.name, block=g.block, num_channels=g.num_channels, least=g.least, multiple=g.multiple)
                for g in structure.groups
            ),
            pinned=structure.pinned,
            budget=kind,
            target=target,
            reachable=reachable,
            backends={
                backend.name: str(backend.unavailable() or f"{backend.name} {backend.version()}")
                for backend in map(
                    recipe.build.backend, dict.fromkeys([*recipe.build.backends, recipe.measure.backend])
                )
            },
        )
