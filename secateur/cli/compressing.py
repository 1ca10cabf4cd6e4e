"""The verbs that take a recipe: run, sweep, estimate and check."""

import sys
from typing import Annotated

import typer
import yaml

from secateur.cli.options import (
    Fresh,
    Json,
    Junit,
    Markdown,
    PolicyPath,
    Quiet,
    RecipePath,
    Set,
    listening,
    show,
    show_json,
)
from secateur.errors import RecipeError


def run(
    recipe: RecipePath,
    overrides: Set = None,
    policy: PolicyPath = None,
    junit: Junit = None,
    markdown: Markdown = None,
    as_json: Json = False,
    quiet: Quiet = False,
    fresh: Fresh = False,
) -> None:
    """Compress, export, build, measure and judge; a rerun resumes.

    Processes that torchrun started train together, and the first one does all the rest.
    """
    from secateur.chain import assist
    from secateur.chain import run as run_chain
    from secateur.judging import write_verdict
    from secateur.launched import is_helper
    from secateur.recipe_file import read_policy, read_recipe
    from secateur.report.console import verdict_panel
    from secateur.report.write import summary_json

    wanted = read_recipe(recipe, overrides or ())
    if policy is not None:
        wanted = wanted.model_copy(update={"gates": read_policy(policy).gates})
    if is_helper():
        assist(wanted, beside=recipe.parent)
        return
    with listening(quiet) as listener:
        outcome = run_chain(wanted, beside=recipe.parent, fresh=fresh, listener=listener)
    write_verdict(outcome.summary, junit=junit, markdown=markdown)
    if as_json:
        sys.stdout.write(summary_json(outcome.summary))
    else:
        show(verdict_panel(outcome.summary), f"Report: {outcome.report}")
    raise typer.Exit(outcome.exit_code)


def sweep(
    recipe: RecipePath,
    keep: Annotated[str, typer.Option(help="Shares that may stay, as in 0.7,0.5,0.35.", show_default=False)],
    overrides: Set = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster that makes the runs, as in ray://head:10001.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    fresh: Fresh = False,
) -> None:
    """Run a recipe at several budgets and compare; exits with 0 once every run is made, whatever its verdict."""
    from secateur.comparing import runs_table
    from secateur.recipe_file import read_recipe
    from secateur.report.console import rich_table
    from secateur.sweep import sweep as run_sweep

    try:
        shares = [float(share) for share in keep.split(",")]
    except ValueError as error:
        raise RecipeError(
            f"--keep {keep}", "no list of numbers", "shares with commas between", "For example --keep 0.7,0.5,0.35."
        ) from error
    with listening(quiet) as listener:
        found = run_sweep(
            read_recipe(recipe, overrides or ()), shares, beside=recipe.parent, fresh=fresh, ray=ray, listener=listener
        )
    if as_json:
        show_json(found.model_dump(mode="json"))
    else:
        failed = (f"{name} could not be run: {error}" for name, error in found.failed.items())
        show(rich_table(runs_table(found.compared)), *found.compared.warnings, *failed, f"Sweep: {found.folder}")
    raise typer.Exit(2 if found.failed else 0)


def estimate(
    recipe: RecipePath, overrides: Set = None, as_json: Json = False, quiet: Quiet = False, fresh: Fresh = False
) -> None:
    """Show how much of the network is superfluous, and its maximum compression."""
    from secateur.chain import estimate as estimate_chain
    from secateur.recipe_file import read_recipe
    from secateur.report.console import redundancy_view
    from secateur.report.redundancy import redundancy_json

    with listening(quiet) as listener:
        redundancy, picture = estimate_chain(
            read_recipe(recipe, overrides or ()), beside=recipe.parent, fresh=fresh, listener=listener
        )
    if as_json:
        show_json(redundancy_json(redundancy))
    else:
        show(redundancy_view(redundancy), f"Spectra: {picture}")


def check(recipe: RecipePath, overrides: Set = None, as_json: Json = False) -> None:
    """Print everything that a recipe means, in full, and touch nothing."""
    from secateur.check import check as check_recipe
    from secateur.recipe_file import read_recipe
    from secateur.report.console import rich_table
    from secateur.report.formatting import count, percent
    from secateur.report.tables.cutting import pinned_table
    from secateur.report.tables.table import Table

    found = check_recipe(read_recipe(recipe, overrides or ()), beside=recipe.parent)
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    groups = Table(
        title="Groups that may be narrowed", header=("Group", "Block", "Channels", "Least", "Step"),
        right=frozenset({2, 3, 4}),
        rows=tuple((g.name, g.block, str(g.num_channels), str(g.least), str(g.multiple)) for g in found.groups),
    )  # fmt: skip
    budget = "latency of the layers, which a run measures"
    if found.target is not None and found.reachable is not None:
        budget = f"{count(found.target)} {found.budget}; without floors {percent(found.reachable)} can be reached"
    show(
        yaml.safe_dump(found.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        rich_table(groups),
        rich_table(pinned_table(found.pinned)),
        f"Data: {found.data or 'no description'}; {found.num_train} training and {found.num_test} test samples",
        f"Task: {found.task}, metrics {', '.join(found.metrics)}; inputs {', '.join(map(str, found.input_shapes))}",
        f"Network: {count(found.macs)} MACs, {count(found.parameters)} parameters",
        f"Budget: {budget}",
        *(f"Runtime {name}: {state}" for name, state in found.backends.items()),
    )
