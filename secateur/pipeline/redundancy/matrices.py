"""Whose spectrum is counted: gates' gradients, filters' gradients, or activations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from secateur.artifacts import Batch
from secateur.calibration.activation_gram import collect_activation_gram
from secateur.calibration.batches import Loss
from secateur.calibration.gram import GateGram
from secateur.calibration.weight_gradients import collect_weight_gradient_gram
from secateur.pipeline.signals.filters import writers
from secateur.pipeline.structure import Structure


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """A symmetric matrix [num_channels, num_channels] by group, made of ``num_rows`` products of vectors.

    ``name`` is that of the table of matrices; ``labels`` says which ones the loss had, where one was differentiated.
    """

    name: str
    gram: Mapping[str, Tensor]
    num_rows: Mapping[str, int]
    num_samples: int
    labels: str


class Collect(Protocol):
    """Makes a network's matrices; ``gate_gram`` is there anyway, ``loss`` is the one that it was collected with."""

    def __call__(
        self, module: nn.Module, structure: Structure, batches: Iterable[Batch], loss: Loss, gate_gram: GateGram
    ) -> Matrix:
        """Return the matrix of every group."""
        ...


def of_gates(gate_gram: GateGram) -> Matrix:
    """Return the Gram matrices of gate gradients, M = (1/N) sum_n g_n g_n^T."""
    return Matrix(
        name="gate", gram=gate_gram.gram, num_rows=dict.fromkeys(gate_gram.gram, gate_gram.num_samples),
        num_samples=gate_gram.num_samples, labels=gate_gram.labels,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Gate gradients as they were collected: in nats, and the only matrix that a tail can be read off."""

    def __call__(
        self, module: nn.Module, structure: Structure, batches: Iterable[Batch], loss: Loss, gate_gram: GateGram
    ) -> Matrix:
        """Return the given matrices."""
        return of_gates(gate_gram)


@dataclass(frozen=True, kw_only=True)
class WeightGradient:
    """Filters' gradients as rows: the literal reading of a matrix of gradients.

    Implemented from the abstract of Zhou, Lian, Yin and Wang 2022 (arXiv 2206.03596).
    """

    def __call__(
        self, module: nn.Module, structure: Structure, batches: Iterable[Batch], loss: Loss, gate_gram: GateGram
    ) -> Matrix:
        """Return (1/N) sum_b G_b G_b^T of every group, see `WeightGradientGram`."""
        written = {group.name: writers(module, group) for group in structure.groups}
        found = collect_weight_gradient_gram(module, written, batches, loss, labels=gate_gram.labels)
        return Matrix(
            name="weight-gradient", gram=found.gram, num_rows=found.num_columns, num_samples=found.num_samples,
            labels=found.labels,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Activation:
    """Covariance of activations where they are read: it sees copies of a feature whose outgoing weights differ.

    Centred, because a constant is carried by the readers' biases and needs no channel.
    """

    def __call__(
        self, module: nn.Module, structure: Structure, batches: Iterable[Batch], loss: Loss, gate_gram: GateGram
    ) -> Matrix:
        """Return the covariance of every group's channels, summed over the layers that read them."""
        found = collect_activation_gram(module, structure.groups, batches)
        names = [group.name for group in structure.groups]
        return Matrix(
            name="activation", gram={name: found.centred(name) for name in names},
            num_rows={name: found.num_rows(name) for name in names}, num_samples=found.num_samples, labels="no",
        )  # fmt: skip


MATRICES: dict[str, Collect] = {
    "gate": Gate(),
    "weight-gradient": WeightGradient(),
    "activation": Activation(),
}
"""The matrices by the name that recipes give them."""
