"""The trackers that a recipe asks for."""

from secateur.errors import LoadError
from secateur.loading import call
from secateur.recipe import Recipe
from secateur.report.mlflow import Mlflow
from secateur.report.tracking import Tracker


def trackers(recipe: Recipe) -> tuple[Tracker, ...]:
    """Make them, and have each say whether it can keep runs; call it within `importable`.

    Raises:
        LoadError: a name that does not import, or something that is no tracker.
        SecateurError: as trackers do.
    """
    found: list[Tracker] = [] if recipe.mlflow is None else [Mlflow(**recipe.mlflow.model_dump())]
    for place, named in enumerate(recipe.trackers):
        key = f"trackers.{place}"
        tracker = call(named, key)
        if not isinstance(tracker, Tracker):
            raise LoadError(
                f"{key}: {named.function}", f"it returned {type(tracker).__name__}",
                "a tracker, which has require and track", "See secateur.report.tracking.Tracker.",
            )  # fmt: skip
        found.append(tracker)
    for tracker in found:
        tracker.require()
    return tuple(found)
