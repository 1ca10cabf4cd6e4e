"""Runs of a sweep on the machines of a Ray cluster, one at a time on each."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import BackendError, SecateurError
from secateur.recipe import Recipe
from secateur.recipe_file import validate_recipe


def run_on_ray(
    recipes: Sequence[Recipe], address: str, *, beside: Path, fresh: bool
) -> Iterator[tuple[Recipe, Path | None, str]]:
    """Run recipes on a cluster and yield each with its run folder, or with why it has none, as they finish.

    Every machine sees the same folders (a network file system), has this package installed, and is given one run at a
    time, which may use all of it: runs beside each other would disturb their stopwatches.

    Args:
        recipes: what to run.
        address: a Ray cluster's, as in ray://head:10001, or auto for the one that this machine belongs to.
        beside: the folder whose modules the recipes may name, besides the working folder.
        fresh: redo every step.

    Raises:
        BackendError: Ray is absent, or no cluster answers there.
    """
    ray = _connected(address)
    whole = max(1.0, min(node["Resources"].get("CPU", 0.0) for node in _workers(ray)))
    remote = ray.remote(num_cpus=whole, max_retries=2)(_run_one)
    here = str(Path.cwd())
    pending = {
        remote.remote(recipe.model_dump(mode="json"), str(beside.resolve()), here, fresh): recipe for recipe in recipes
    }
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        recipe = pending.pop(done)
        try:
            folder, error = ray.get(done)
        except ray.exceptions.RayError as failure:
            folder, error = None, f"the run's machine or process was lost: {str(failure).splitlines()[0]}"
        yield recipe, None if folder is None else Path(folder), error


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise BackendError(
            "--ray", f"no ray ({error})", "Ray, which runs the sweep", "Install it: pip install 'secateur[ray]'."
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"--ray {address}", str(error).splitlines()[0], "the address of a cluster that runs",
                "Start one with `ray start --head`, and further machines with `ray start --address`.",
            ) from error  # fmt: skip
    return ray


def _workers(ray: Any) -> list[dict[str, Any]]:
    """Return the nodes that compute."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0.0) > 0]
    if not nodes:
        raise BackendError(
            "--ray", "a cluster without processors", "a machine that computes", "Add one to the cluster."
        )
    return nodes


def _run_one(values: dict[str, Any], beside: str, here: str, fresh: bool) -> tuple[str | None, str]:
    """Run one recipe in a worker; return its folder, or why there is none."""
    from secateur.chain import run

    os.chdir(here)
    try:
        return str(run(validate_recipe(values, "sweep"), beside=Path(beside), fresh=fresh).folder.resolve()), ""
    except SecateurError as error:
        return None, str(error)
