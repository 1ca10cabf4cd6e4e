"""Choose calibration samples: at random, and none that the network is judged on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from secateur.artifacts import as_tuple
from secateur.calibration.batches import batches
from secateur.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CalibrationSamples:
    """Some samples of a data set, whose inputs come in batches as often as they are asked for.

    ``num_shared`` is the number of drawn samples that were left out because they are in the evaluation data too.
    """

    dataset: Dataset[Any]
    indices: tuple[int, ...]
    batch_size: int
    num_shared: int = 0

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, ...]]:
        """Walk the batches' inputs, without the targets."""
        for inputs, _ in batches(Subset(self.dataset, self.indices), self.batch_size):
            yield inputs


def draw_samples(
    dataset: Dataset[Any], evaluation: Dataset[Any], *, num_samples: int, batch_size: int, seed: int
) -> CalibrationSamples:
    """Draw samples in an order that depends on the seed alone, leaving out inputs that the evaluation data has too.

    Fewer come where the data set has no more.

    Raises:
        DataError: every sample is in the evaluation data.
    """
    held_out = {_digest(evaluation[index][0]) for index in range(len(evaluation))}  # type: ignore[arg-type]
    size = len(dataset)  # type: ignore[arg-type]
    chosen: list[int] = []
    num_shared = 0
    for index in torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist():
        if len(chosen) == num_samples:
            break
        if _digest(dataset[index][0]) in held_out:
            num_shared += 1
        else:
            chosen.append(index)
    if not chosen:
        raise DataError(
            "calibration samples", f"all of {size} samples in the evaluation data too", "samples of their own",
            "Give data.calibration, or a training set that does not share the test set's samples.",
        )  # fmt: skip
    return CalibrationSamples(dataset=dataset, indices=tuple(chosen), batch_size=batch_size, num_shared=num_shared)


def _digest(inputs: Any) -> bytes:
    total = hashlib.sha256()
    for tensor in as_tuple(inputs):
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return total.digest()
