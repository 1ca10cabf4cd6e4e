"""Keep a cut network's features near its teacher's: the channels that stayed are compared with those they once were."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from secateur.artifacts import Group, Model, Reader
from secateur.calibration.processes import mean
from secateur.calibration.readers import channel_axis, tap_readers
from secateur.errors import TrainingError

__all__ = ["FeatureDistance", "MatchedReader", "Recording", "match_readers"]

LEAST_POWER = 0.01
"""Share of the mean power of a group's channels below which a channel's power does not count as smaller."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedReader:
    """A layer that reads the same group in the student and in the teacher.

    Channel j of the student arrives at ``student_entries[j]`` of the layer's input channels and was, before the cut,
    what arrives at ``teacher_entries[j]`` in the teacher. ``importance`` sums to one over the channels.
    """

    group: str
    weight: str
    channel_axis: int
    student_entries: Int64[Tensor, "channels entries"]
    teacher_entries: Int64[Tensor, "channels entries"]
    importance: Float[Tensor, " channels"]


def match_readers(
    student: Model,
    teacher: Model,
    student_groups: Sequence[Group],
    teacher_groups: Sequence[Group],
    importance: Mapping[str, Tensor],
    num_readers: int = 1,
) -> tuple[MatchedReader, ...]:
    """Find the layers at which features can be compared, ``num_readers`` of each group.

    The last layer that reads a group comes first, for what is read there depends on all layers that wrote the group;
    more are spread evenly from there to the first.
    ``importance`` gives one value >= 0 for every channel that a group had in the uncut network; where it is absent, or
    zero for all channels that stayed, these count alike. A group that only one network has is left out.
    TrainingError where the widths, ``kept`` and ``importance`` contradict each other.
    """
    before = {group.name: group for group in teacher_groups}
    weights = dict(student.module.named_parameters(remove_duplicate=False))
    matched: list[MatchedReader] = []
    for group in student_groups:
        if group.name not in before:
            continue
        originals = before[group.name]
        stayed = _teacher_channels(group, originals, student, teacher)
        positions = {reader.weight: reader.positions for reader in originals.readers}
        shared = _spread([reader for reader in group.readers if reader.weight in positions], num_readers)
        share = _shares(group, originals, student, importance.get(group.name))
        matched += [
            MatchedReader(
                group=group.name,
                weight=reader.weight,
                channel_axis=channel_axis(weights[reader.weight]),
                student_entries=torch.from_numpy(np.ascontiguousarray(reader.positions)),
                teacher_entries=torch.from_numpy(np.ascontiguousarray(positions[reader.weight][stayed])),
                importance=share,
            )
            for reader in shared
            if reader.positions.shape[1] == positions[reader.weight].shape[1]
        ]
    return tuple(matched)


def _spread(readers: Sequence[Reader], number: int) -> list[Reader]:
    """Return so many of the readers, evenly spaced from the last to the first."""
    places = np.linspace(len(readers) - 1, 0, min(number, len(readers))).round().astype(int)
    return [readers[place] for place in places]


def _teacher_channels(group: Group, originals: Group, student: Model, teacher: Model) -> np.ndarray:
    """Return which channel of the teacher each of the student's was."""
    mine = student.kept.get(group.name, torch.arange(group.num_channels)).numpy()
    theirs = teacher.kept.get(group.name, torch.arange(originals.num_channels)).numpy()
    place = {int(original): channel for channel, original in enumerate(theirs)}
    unknown = [int(original) for original in mine if int(original) not in place]
    uncut = group.name not in student.kept
    if unknown or len(mine) != group.num_channels or (uncut and group.num_channels != len(theirs)):
        raise TrainingError(
            f"features of group {group.name}",
            f"{group.num_channels} channels in the student, {originals.num_channels} in the teacher, "
            + ("no kept channels" if uncut else f"{len(mine)} kept channels"),
            "kept channels that name one of the teacher's for each of the student's",
            "Give the model that the cut returned, with its kept channels, and the groups of both networks.",
        )
    return np.array([place[int(original)] for original in mine], dtype=np.int64)


def _shares(group: Group, originals: Group, student: Model, importance: Tensor | None) -> Float[Tensor, " channels"]:
    """Return each channel's share of the importance, float32."""
    equal = torch.full((group.num_channels,), 1 / group.num_channels)
    if importance is None:
        return equal
    values = importance.detach().cpu().double()
    kept = student.kept.get(group.name, torch.arange(group.num_channels))
    if values.ndim != 1 or int(kept.max()) >= len(values) or not torch.isfinite(values).all() or values.min() < 0:
        raise TrainingError(
            f"importance of group {group.name}", f"shape {list(values.shape)}, least value {float(values.min()):.3g}",
            f"one finite value >= 0 for each of the {originals.num_channels} channels before the cut",
            "Give the Fisher saliency of the uncut network.",
        )  # fmt: skip
    values = values[kept]
    return (values / values.sum()).float() if float(values.sum()) > 0 else equal


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What some layers read in one forward; a layer that ran several times has several inputs."""

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)

    @contextmanager
    def of(self, module: nn.Module, weights: Sequence[str]) -> Iterator[None]:
        """Record within the context, anew."""
        self.inputs.clear()
        with tap_readers(module, {weight: self._recorder(weight) for weight in weights}):
            yield

    def _recorder(self, weight: str) -> "Recorder":
        return Recorder(into=self.inputs.setdefault(weight, []))


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Remember the tensors that come along."""

    into: list[Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Remember and pass on."""
        self.into.append(inputs)
        return inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureDistance:
    r"""How far a student's features are from its teacher's, weighted by what each channel is worth.

    .. math:: \frac1G \sum_g \sum_c w_{gc} \frac{E[(a^S_{gc} - a^T_{g\,kept(c)})^2]}{E[(a^T_{g\,kept(c)})^2]}

    with a the activation where it is read, E the mean over the batch and all positions, and w the Fisher saliency of
    the channel's gate, 1/2 E[(a dL/da)^2], divided by its sum over the channels. The saliency is what the loss rises
    by, to second order, per squared *relative* change of a channel: so each squared error is divided by its own
    channel's power, and the weighted sum is in proportion to the rise of the loss. No adapter is trained, since a cut
    network's channels are a subset of the teacher's. The term is ours; Fisher saliency after Theis et al. 2018,
    arXiv:1801.05787.
    """

    readers: tuple[MatchedReader, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The layers to record."""
        return tuple(dict.fromkeys(reader.weight for reader in self.readers))

    def __call__(self, student: Recording, teacher: Recording) -> Float[Tensor, ""] | None:
        """Return the distance; None where no layer was met in both forwards."""
        by_group: dict[str, list[Tensor]] = {}
        for reader in self.readers:
            pairs = zip(student.inputs.get(reader.weight, ()), teacher.inputs.get(reader.weight, ()), strict=False)
            by_group.setdefault(reader.group, []).extend(_distance(reader, mine, theirs) for mine, theirs in pairs)
        distances = [torch.stack(terms).mean() for terms in by_group.values() if terms]
        return torch.stack(distances).mean() if distances else None


def _distance(reader: MatchedReader, mine: Tensor, theirs: Tensor) -> Float[Tensor, ""]:
    """Return one reader's weighted relative squared error."""
    chosen = _select(mine, reader.channel_axis, reader.student_entries)
    target = _select(theirs.detach(), reader.channel_axis, reader.teacher_entries)
    axes = tuple(range(1, chosen.ndim))
    error = (chosen - target).square().mean(dim=axes).view(reader.student_entries.shape).mean(dim=1)
    # Powers divide errors, so all processes must divide by the same ones; errors are averaged with the gradients.
    power = mean(target.square().mean(dim=axes).view(reader.teacher_entries.shape).mean(dim=1))
    # In a group that is silent in this batch there is nothing that errors are relative to: they count as they are.
    floor = torch.where(power.mean() > 0, LEAST_POWER * power.mean() + torch.finfo(power.dtype).tiny, 1)
    return (reader.importance.to(error.device) * error / power.clamp_min(floor)).sum()


def _select(inputs: Tensor, axis: int, entries: Int64[Tensor, "channels entries"]) -> Float[Tensor, "selected ..."]:
    """Return the entries' activations in single precision or better, the channel axis first."""
    moved = inputs.to(torch.promote_types(inputs.dtype, torch.float32)).movedim(axis, 0)
    flat = entries.flatten().to(inputs.device)
    if len(flat) == len(moved) and torch.equal(flat, torch.arange(len(moved), device=flat.device)):
        return moved  # all channels in order: nothing to copy
    return moved.index_select(0, flat)
