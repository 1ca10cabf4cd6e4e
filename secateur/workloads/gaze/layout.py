"""Layouts of rendered scenes, and the density that their simulated viewers follow.

Every scene is laid out from its own seed: a background, clutter nobody looks at, and one to five things, each of a
kind with a known pull. The viewers' density is a mixture of one Gaussian a thing, the centre bias and a uniform
remainder; fixations are drawn from it. Faces and text pull more than plain objects (Cerf et al. 2009), and things
that hardly differ from their surroundings pull little.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.network import GRID_SIZE

NUM_FIXATIONS = 120
"""Fixations a scene: fifteen viewers, eight fixations each."""

PULL = {"face": 1.0, "text": 0.6, "ball": 0.35, "box": 0.35, "dim": 0.1}
"""How strongly a thing of a kind attracts fixations; "dim" things have almost their surroundings' colour."""

THINGS_SHARE, CENTRE_SHARE = 0.75, 0.2
"""Shares of the density that the things and the centre bias own; the rest is uniform."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing in a scene; place and size as shares of the scene's width and height, ``seed`` for its details."""

    kind: str
    x: float
    y: float
    half_width: float
    half_height: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is where in a scene; ``seed`` for background and clutter."""

    seed: int
    things: tuple[Thing, ...]


def lay_out(seed: int, part: int, index: int) -> Layout:
    """Place the things of scene ``index`` of a part (0 train, 1 test) so that none hides another."""
    random = np.random.default_rng((seed, part, index))
    things: list[Thing] = []
    for num_before in range(int(random.integers(1, 6))):
        # The first is never dim: a scene whose only thing can hardly be seen has no reason to draw three quarters.
        kind = str(random.choice(list(PULL)[: 5 if num_before else 4]))
        half_height = float(random.uniform(0.06, 0.13))
        # In a 4:3 scene a thing as wide as high has three quarters of the share across.
        half_width = half_height * (1.8 if kind == "text" else 0.75)
        for _ in range(20):
            x = float(random.uniform(half_width, 1 - half_width))
            y = float(random.uniform(half_height, 1 - half_height))
            if all(
                abs(x - other.x) > half_width + other.half_width or abs(y - other.y) > half_height + other.half_height
                for other in things
            ):
                things.append(
                    Thing(
                        kind=kind, x=x, y=y, half_width=half_width, half_height=half_height,
                        seed=int(random.integers(2**31)),
                    )
                )  # fmt: skip
                break
    return Layout(seed=int(random.integers(2**31)), things=tuple(things))


def true_density(layout: Layout) -> Float[Tensor, "rows columns"]:
    """Return the log-density that the scene's viewers follow, in nats.

    sum_k share_k N(place_k, (0.6 size_k)^2) + centre bias + uniform, share_k proportional to the pull times the
    fourth root of the centre bias at the thing's place relative to its peak.
    """
    rows, columns = GRID_SIZE
    down = (np.arange(rows) + 0.5) / rows
    across = (np.arange(columns) + 0.5) / columns
    centre = gaussian_centre_bias().double().exp().numpy()
    density = CENTRE_SHARE * centre + (1 - THINGS_SHARE - CENTRE_SHARE) / centre.size
    pulls = np.array([PULL[thing.kind] * _centrality(centre, thing) for thing in layout.things])
    for thing, pull in zip(layout.things, pulls / pulls.sum(), strict=True):
        blob = np.outer(
            np.exp(-0.5 * ((down - thing.y) / (0.6 * thing.half_height)) ** 2),
            np.exp(-0.5 * ((across - thing.x) / (0.6 * thing.half_width)) ** 2),
        )
        density += THINGS_SHARE * pull * blob / blob.sum()
    return torch.from_numpy(np.log(density / density.sum()).astype(np.float32))


def _centrality(centre: np.ndarray, thing: Thing) -> float:
    rows, columns = centre.shape
    cell = centre[min(int(thing.y * rows), rows - 1), min(int(thing.x * columns), columns - 1)]
    return float((cell / centre.max()) ** 0.25)


def draw_fixations(
    log_density: Float[Tensor, "rows columns"], seed: tuple[int, ...], num_fixations: int = NUM_FIXATIONS
) -> Float32[np.ndarray, "rows columns"]:
    """Draw fixations from a density and count them by cell."""
    density = log_density.double().exp().numpy().ravel()
    counts = np.random.default_rng(seed).multinomial(num_fixations, density / density.sum())
    return counts.astype(np.float32).reshape(log_density.shape)
