"""Gaze prediction: a trained network, eye-tracking sets, rendered scenes with known viewers, and the task."""

from secateur.workloads.gaze.network import GazeNetwork
from secateur.workloads.gaze.photographs import photographs
from secateur.workloads.gaze.readers import combined, eyecrowd, mit300, osie, scene500, split_set
from secateur.workloads.gaze.scenes import rendered
from secateur.workloads.gaze.task import task, task_of
from secateur.workloads.gaze.teacher import teacher

__all__ = [
    "GazeNetwork", "combined", "eyecrowd", "mit300", "osie", "photographs", "rendered", "scene500", "split_set", "task",
    "task_of", "teacher",
]  # fmt: skip
