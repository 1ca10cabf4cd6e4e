"""Gaze prediction: a trained network, eye-tracking sets, rendered scenes with known viewers, and the task."""

from secateur.workloads.gaze.network import GazeNetwork
from secateur.workloads.gaze.photographs import photographs
from secateur.workloads.gaze.readers import eyecrowd, osie, scene500
from secateur.workloads.gaze.scenes import rendered
from secateur.workloads.gaze.task import task
from secateur.workloads.gaze.teacher import teacher

__all__ = ["GazeNetwork", "eyecrowd", "osie", "photographs", "rendered", "scene500", "task", "teacher"]
