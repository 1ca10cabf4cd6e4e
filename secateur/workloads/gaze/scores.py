"""Scores of densities that need no network: the centre bias, and the truth where it is known."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from secateur.workloads.gaze.metrics import nss
from secateur.workloads.gaze.roc import auc


def scores_of(
    name: str,
    log_density: Float[Tensor, "*pictures rows columns"],
    counts: Float32[np.ndarray, "pictures rows columns"],
) -> dict[str, float]:
    """Return ``{name}_auc`` and ``{name}_nss``, means over the pictures; one density may serve all of them."""
    fixations = torch.from_numpy(counts)
    densities = log_density.expand_as(fixations)
    return {
        f"{name}_auc": float(auc(densities, fixations).mean()),
        f"{name}_nss": float(nss(densities, fixations).mean()),
    }
