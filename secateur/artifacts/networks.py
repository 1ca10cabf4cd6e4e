"""Networks, the data they are called on and the tasks they are trained for."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from secateur.artifacts.interface import Pictures
from secateur.errors import DataError, LoadError

Batch = tuple[Any, Any]
"""One batch: inputs (a tensor or a tuple of tensors, batch first) and targets (whatever the loss takes)."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of merit, one value a sample: ``per_sample(outputs, targets) -> [batch]``; the mean is reported."""

    per_sample: Callable[[Any, Any], Tensor]
    higher_is_better: bool = True
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network is trained for.

    ``loss(outputs, targets)`` gives one loss a sample, shape [batch], in nats where it is a log-likelihood.
    ``distill(outputs, teacher_outputs, temperature)`` gives one loss a sample, shape [batch].
    ``sampled_loss(outputs, temperature, generator)`` draws labels from the network's own softened predictions and
    gives the softened loss against them, shape [batch]; absent where predictions are not distributions.
    ``log_probabilities(outputs, temperature)`` gives the softened log-probabilities of all outcomes, in nats, shape
    [batch, outcomes, ...]; absent likewise.
    ``illustrate(inputs, targets, outputs, compressed_outputs)`` draws one sample (no batch axis on any argument,
    targets None where there are none) as an RGB picture, uint8 [height, width, 3]; optional.
    """

    name: str
    loss: Callable[[Any, Any], Tensor]
    metrics: Mapping[str, Metric]
    primary: str
    distill: Callable[[Any, Any, float], Tensor]
    sampled_loss: Callable[[Any, float, torch.Generator], Tensor] | None = None
    illustrate: Callable[[Any, Any, Any, Any], np.ndarray] | None = None
    log_probabilities: Callable[[Any, float], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.primary not in self.metrics:
            raise LoadError(
                f"task {self.name}", f"primary metric {self.primary!r}", f"one of {sorted(self.metrics)}",
                "Name one of the task's metrics.",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Data:
    """Map-style data sets of ``(inputs, target)``, inputs a tensor or a tuple of tensors without batch axis.

    ``facts`` are figures about the data that the report prints (for example the best attainable value of a metric).
    ``pictures`` are further inputs without targets, by caption, that the report draws if the task can.
    ``classes`` names the network's scores, ``preparation`` says how pictures become inputs: exported files and deployed
    engines carry both.
    ``fingerprint`` identifies the content for caching; without it the first and last items are hashed.
    """

    train: Dataset[Any]
    test: Dataset[Any]
    calibration: Dataset[Any] | None = None
    description: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    preparation: Pictures | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "calibration"):
            dataset = getattr(self, name)
            if dataset is not None and len(dataset) == 0:
                raise DataError(
                    f"data.{name}", "an empty data set", "at least one sample", "Check the folder and the split."
                )


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with the inputs it is called on.

    ``example_inputs`` is a tuple of tensors, batch axis first, that ``module(*example_inputs)`` accepts.
    ``kept`` maps the name of every group that was ever cut to the original indices of its surviving channels, int64.
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def clone(self) -> "Model":
        """Copy the network so that training the copy leaves this one as it is."""
        return replace(self, module=copy.deepcopy(self.module))

    @property
    def device(self) -> torch.device:
        """The device of the first parameter, cpu where there is none."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))


def as_tuple(inputs: Any) -> tuple[Tensor, ...]:
    """Return inputs as the tuple of positional arguments of ``module.forward``."""
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
