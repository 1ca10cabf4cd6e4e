"""Rendered scenes with simulated viewers: a data set whose best attainable scores are known."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from secateur.artifacts import Data
from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.dataset import FixatedPictures
from secateur.workloads.gaze.layout import NUM_FIXATIONS, PULL, Layout, draw_fixations, lay_out, true_density
from secateur.workloads.gaze.network import GRID_SIZE, PREPARATION
from secateur.workloads.gaze.painting import paint
from secateur.workloads.gaze.photographs import photographs
from secateur.workloads.gaze.scores import scores_of


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedPictures:
    """Paint a scene when it is first asked for, and keep it."""

    layouts: tuple[Layout, ...]
    painted: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """Return picture ``index``."""
        if index not in self.painted:
            self.painted[index] = paint(self.layouts[index])
        return self.painted[index]


def rendered(*, num_train: int = 400, num_test: int = 100, seed: int = 0, mirror: bool = False) -> Data:
    """Render scenes with simulated viewers; the same numbers give the same pixels and fixations everywhere.

    Test scenes do not depend on ``num_train``, nor training scenes on ``num_test``. The facts are the scores on the
    test scenes of the true density, which no network can beat but by luck, and of the centre bias.
    """
    plain, _ = _part(seed, 0, num_train)
    test, truth = _part(seed, 1, num_test)
    attainable = scores_of("attainable", truth, test.counts)
    centre_bias = scores_of("centre_bias", gaussian_centre_bias(), test.counts)
    settings = f"rendered-{num_train}-{num_test}-{seed}-{mirror}-{NUM_FIXATIONS}-{PULL}-{GRID_SIZE}"
    return Data(
        train=replace(plain, mirrored=mirror),
        test=test,
        calibration=plain,
        description=f"{num_train} training and {num_test} test scenes, rendered, {NUM_FIXATIONS} fixations each",
        facts=attainable | centre_bias,
        pictures=photographs(),
        preparation=PREPARATION,
        fingerprint=hashlib.sha256(settings.encode()).hexdigest(),
    )


def _part(seed: int, part: int, num_scenes: int) -> tuple[FixatedPictures, Float[Tensor, "scenes rows columns"]]:
    layouts = tuple(lay_out(seed, part, index) for index in range(num_scenes))
    truth = torch.stack([true_density(layout) for layout in layouts]) if layouts else torch.zeros(0, *GRID_SIZE)
    counts = [draw_fixations(density, (seed, part, index, 1)) for index, density in enumerate(truth)]
    scenes = FixatedPictures(
        picture=RenderedPictures(layouts=layouts),
        counts=np.stack(counts) if counts else np.zeros((0, *GRID_SIZE), dtype=np.float32),
        indices=np.arange(num_scenes, dtype=np.int64),
    )
    return scenes, truth
