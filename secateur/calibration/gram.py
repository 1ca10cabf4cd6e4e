"""Measure what every channel is worth, and which channels stand for each other, in one pass over a few batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.artifacts import Batch, Group
from secateur.calibration.batches import Loss
from secateur.calibration.gates import pass_gates
from secateur.calibration.processes import total
from secateur.calibration.quantities import GATE_GRADIENT, Quantity, exact
from secateur.errors import StorageError


@dataclass(frozen=True, kw_only=True, eq=False)
class GateGram:
    """The gate-gradient Gram matrix of every group, in nats where the loss is.

    ``gram`` maps a group's name to M = (1/N) sum_n g_n g_n^T, float64 [num_channels, num_channels], where
    g_ni = sum over positions of a_ni * dloss_n/da_ni is the derivative of sample n's loss with respect to a gate that
    multiplies channel i. ``labels`` says which labels the loss had.
    """

    gram: Mapping[str, Tensor]
    num_samples: int
    labels: str = "true"

    def saliency(self, name: str) -> Float64[Tensor, " num_channels"]:
        """Return M_ii / 2, the loss that removing channel i costs (Theis et al. 2018, arXiv 1801.05787, eq. 9)."""
        return self.gram[name].diagonal() / 2

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        partial = path.with_name(path.name + ".part")
        facts = {"num_samples": str(self.num_samples), "labels": self.labels}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: matrix.contiguous() for name, matrix in self.gram.items()}, partial, metadata=facts)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                str(path), str(error), "a file that can be written", "Free space or choose another folder."
            ) from error


def load_gate_gram(path: Path) -> GateGram:
    """Read what `GateGram.save` wrote; raise StorageError where the file is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            gram = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return GateGram(gram=gram, num_samples=int(facts["num_samples"]), labels=facts["labels"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageError(str(path), str(error), "a gate Gram file", "Delete it and collect it again.") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class GramTally:
    """Adds up the gate gradients' Gram matrices of all groups over a pass, see `pass_gates`."""

    groups: Sequence[Group]
    totals: dict[str, Tensor] = field(default_factory=dict)
    quantities: ClassVar[Mapping[str, Quantity]] = {"gate gradient": GATE_GRADIENT}

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch."""
        widths = [group.num_channels for group in self.groups]
        for group, g in zip(self.groups, torch.split(exact(values["gate gradient"]), widths, dim=1), strict=True):
            if group.name not in self.totals:
                self.totals[group.name] = g.new_zeros(group.num_channels, group.num_channels)
            self.totals[group.name].addmm_(g.mT, g)

    def gram(self, num_samples: int, labels: str) -> GateGram:
        """Return the mean over so many samples, those of all processes.

        What is added up over them is g g^T, never g, which belongs to one sample.
        """
        empty = {g.name: torch.zeros(g.num_channels, g.num_channels, dtype=torch.float64) for g in self.groups}
        gram = {name: (total(matrix) / num_samples).cpu() for name, matrix in (empty | self.totals).items()}
        return GateGram(gram=gram, num_samples=num_samples, labels=labels)


def collect_gate_gram(
    module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch], loss: Loss, *, labels: str = "true"
) -> GateGram:
    """Return the gate-gradient Gram matrix of every group, one forward and one backward a batch.

    What a channel's gate gets from each layer that reads it is added before it is squared. Memory beyond the forward's
    is that of the matrices. In several connected processes each gives batches of its own, and all return the matrix of
    all samples. See `pass_gates` for ``loss`` and for what is raised.
    """
    tally = GramTally(groups=groups)
    return tally.gram(pass_gates(module, groups, batches, loss, [tally]).num_samples, labels)
