"""Workloads: what networks are trained for, with readers, losses, metrics and pictures."""

from collections.abc import Callable

from secateur.artifacts import Task
from secateur.workloads import classification, gaze
from secateur.workloads.distances import kullback_leibler, log_probabilities, squared_error

__all__ = ["TASKS", "kullback_leibler", "log_probabilities", "squared_error"]

TASKS: dict[str, Callable[[], Task]] = {
    "classification": classification.task,
    "gaze": gaze.task,
}
"""The tasks that a recipe can name by one word."""
