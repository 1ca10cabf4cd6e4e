"""The centre bias: the density of fixations that knows nothing of the picture."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.ndimage import gaussian_filter
from torch import Tensor

from secateur.workloads.gaze.network import GRID_SIZE

SIGMA = (0.19, 0.225)
"""Standard deviations of the analytic centre bias as shares of the picture's height and width."""


def gaussian_centre_bias(
    sigma: tuple[float, float] = SIGMA, grid: tuple[int, int] = GRID_SIZE
) -> Float[Tensor, "rows columns"]:
    """Return the log-density of a Gaussian in the middle of the grid, in nats.

    ``sigma`` are the standard deviations along height and width, as shares of the picture's height and width.
    """
    rows, columns = (
        -0.5 * (((torch.arange(num, dtype=torch.float64) + 0.5) / num - 0.5) / share) ** 2
        for num, share in zip(grid, sigma, strict=True)
    )
    logits = rows[:, None] + columns[None, :]
    return (logits - logits.flatten().logsumexp(0)).to(torch.float32)


def fitted_centre_bias(
    counts: Float32[np.ndarray, "pictures rows columns"], *, blur: float = 1.5, uniform: float = 0.01
) -> Float[Tensor, "rows columns"]:
    """Return the log-density of all pictures' fixations together, in nats.

    The summed counts are blurred by ``blur`` cells and mixed with a share ``uniform`` of the uniform density, so that
    no cell is impossible.
    """
    blurred = gaussian_filter(counts.sum(axis=0, dtype=np.float64), blur, mode="nearest")
    density = (1 - uniform) * blurred / blurred.sum() + uniform / blurred.size
    return torch.from_numpy(np.log(density).astype(np.float32))
