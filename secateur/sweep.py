"""Run a recipe at several budgets, one run folder each, and put the runs beside each other."""

from collections.abc import Sequence
from pathlib import Path

from secateur.artifacts import Record
from secateur.chain import run
from secateur.comparing import RunsCompared, compare_runs, pareto_png, runs_table
from secateur.errors import BudgetError, EqualityError, RecipeError, TrainingError
from secateur.launched import require_one_process
from secateur.listening import Listener, Silent
from secateur.ray_sweep import run_on_ray
from secateur.recipe import Recipe
from secateur.recipe_file import validate_recipe
from secateur.report.markdown import markdown_table
from secateur.storage import write

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "compare.json", "compare.md", "compare.png"


class Sweep(Record):
    """The runs of a sweep, and why a budget has none."""

    folder: str
    compared: RunsCompared
    failed: dict[str, str]


def sweep(
    recipe: Recipe,
    keep: Sequence[float],
    *,
    beside: Path = Path(),
    fresh: bool = False,
    ray: str | None = None,
    listener: Listener | None = None,
) -> Sweep:
    """Run a recipe with each share of its own kind of budget, in ``<folder>/<name>-sweep/keep-<share>``.

    A sweep that was interrupted goes on where it was. A budget that cannot be reached or a training that fails leaves
    the other runs alone. The comparison is written beside the runs, as JSON, as Markdown
    and as a plot of quality over latency.

    Args:
        recipe: what to do; its budget's kind stays, its share is replaced.
        keep: shares that may stay, in (0, 1].
        beside: the folder whose modules the recipe may name, besides the working folder.
        fresh: redo every step.
        ray: the address of a Ray cluster that makes the runs, one at a time on each of its machines; see
            `secateur.ray_sweep`. None makes them here, one after the other.
        listener: who is told of the progress.

    Raises:
        RecipeError: a recipe without a share, or a share out of range; several processes.
        SecateurError: what stops every run, such as a missing runtime.
    """
    require_one_process("a sweep")
    told = listener or Silent()
    recipes = swept(recipe, keep)
    folder = recipe.folder / f"{recipe.name}-sweep"
    made: dict[str, Path] = {}
    failed: dict[str, str] = {}
    if ray is not None:
        for one, place, error in run_on_ray(recipes, ray, beside=beside, fresh=fresh):
            told.message(f"{one.name}: {error or 'finished'}")
            if place is None:
                failed[one.name] = error
            else:
                made[one.name] = place
    else:
        for one in recipes:
            told.step(one.name)
            try:
                made[one.name] = run(one, beside=beside, fresh=fresh, listener=told).folder
            except (BudgetError, EqualityError, TrainingError) as error:
                told.message(str(error))
                failed[one.name] = str(error)
    done = [made[one.name] for one in recipes if one.name in made]
    found = Sweep(folder=str(folder), compared=compare_runs(done), failed=failed)
    write(folder / JSON_FILE, found.model_dump_json(indent=1).encode() + b"\n")
    if done:
        write(folder / PLOT_FILE, pareto_png(found.compared))
    lines = [markdown_table(runs_table(found.compared)), *(f"- {name}: {error}" for name, error in failed.items())]
    write(folder / MARKDOWN_FILE, "\n\n".join([*lines, *found.compared.warnings, ""]).encode())
    return found


def swept(recipe: Recipe, keep: Sequence[float]) -> list[Recipe]:
    """Return the recipes of a sweep, validated; raises `RecipeError`."""
    kind, share = recipe.prune.budget
    if share is None:
        raise RecipeError(
            "sweep", "a recipe whose only budget is allowed_loss", "a share of macs, parameters, bytes or latency",
            "Add one with --set, for example --set prune.macs=0.5.",
        )  # fmt: skip
    if not keep or len(set(keep)) < len(keep):
        raise RecipeError(
            "sweep", f"the shares {list(keep)}", "one or more different shares", "For example --keep 0.7,0.5,0.35."
        )
    values = recipe.model_dump(mode="json")
    return [
        validate_recipe(
            {
                **values, "name": f"keep-{one}", "folder": str(recipe.folder / f"{recipe.name}-sweep"),
                "prune": {**values["prune"], kind: one},
            },
            f"sweep at {one}",
        )
        for one in keep
    ]  # fmt: skip
