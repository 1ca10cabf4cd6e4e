"""Which batch-norm layers learn new statistics while a network trains."""

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.calibration.batch_norm import running_norms

__all__ = ["BatchNormMode", "learning_norms"]

BatchNormMode = Literal["auto", "train", "frozen"]
LEAST_BATCH = 16
"""Statistics of fewer samples are too noisy to train with (Wu and He 2018, arXiv:1803.08494, figure 1)."""


def learning_norms(module: nn.Module, mode: BatchNormMode, batch_size: int) -> list[_BatchNorm]:
    """Return the batch-norm layers that use and collect the statistics of the batches that are trained on.

    The others keep theirs; their scale and shift train all the same. ``train`` means all layers, ``frozen`` none.
    ``auto`` means none where batches have fewer than 16 samples, else all but those that do nothing because they were
    folded into the convolution before them: with a batch's own statistics they would begin to normalise, and the
    network would no longer be the one that was trained.
    """
    norms = running_norms(module)
    if mode == "train":
        return norms
    if mode == "frozen" or batch_size < LEAST_BATCH:
        return []
    return [norm for norm in norms if not _does_nothing(norm)]


def _does_nothing(norm: _BatchNorm) -> bool:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach()
    return bool(torch.allclose(scale, torch.ones_like(scale), atol=1e-3) and float(shift.abs().max()) <= 1e-6)
