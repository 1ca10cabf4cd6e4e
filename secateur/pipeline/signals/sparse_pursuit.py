"""Which channels a layer's outputs can be rebuilt from: sparse recovery, with the weights fitted anew."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64
from torch import Tensor, from_numpy

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs


@dataclass(frozen=True, kw_only=True)
class SparsePursuit:
    """Score a channel by the relative squared error of its readers' outputs at which these no longer need it.

    For each number of channels in ``num_sizes`` steps from all to none, the support is found in turns (Wolfe and
    Kyrillidis 2021, "i-SpaSP", arXiv 2112.04905, after CoSaMP): to the channels kept add those whose inputs H_j explain
    most of the residual V, ||V H_j^T|| / ||H_j||; fit the weights by least squares, ``ridge`` times the mean diagonal
    added; keep those of largest ||W_j|| ||H_j||; fit again. Of ``num_turns`` turns the best counts. A channel is worth
    the error at the first size that leaves it out; those left out together share its rise by what they contribute to
    the outputs of the whole layer, least first. Scores are between 0 and 1. Raises DataError where second moments of
    inputs were not collected.
    """

    num_sizes: int = 8
    num_turns: int = 5
    ridge: float = 1e-4
    needs: ClassVar[Needs] = Needs(input_grams=True)

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the error that each channel goes at."""
        layers = [layer for layer in layers_of(evidence, group) if layer.energy > 0]
        scores = np.zeros(group.num_channels)
        if not layers:
            return from_numpy(scores)
        contribution = _mean([layer.contributions(layer.weight) / layer.energy for layer in layers])
        left, reached = np.ones(group.num_channels, dtype=bool), 0.0
        for size in _sizes(group.num_channels, self.num_sizes):
            kept, error = self.support(layers, size) if size else (np.zeros_like(left), 1.0)
            gone = np.flatnonzero(left & ~kept)
            gone = gone[np.argsort(contribution[gone], kind="stable")]
            error = max(error, reached)
            share = np.cumsum(contribution[gone]) / max(contribution[gone].sum(), np.finfo(float).tiny)
            scores[gone] = reached + (error - reached) * share
            left[gone], reached = False, error
        return from_numpy(scores)

    def support(self, layers: list["Layer"], size: int) -> tuple[Bool[np.ndarray, " c"], float]:
        """Return the channels, ``size`` of them, from which the layers' outputs are rebuilt, and the relative error."""
        kept = np.zeros(layers[0].num_channels, dtype=bool)
        fitted = [np.zeros_like(layer.weight) for layer in layers]
        best, least = kept, np.inf
        for _ in range(self.num_turns):
            explained = _mean([layer.explained(w) / layer.energy for layer, w in zip(layers, fitted, strict=True)])
            candidates = kept | _largest(explained, 2 * size)
            rough = [layer.fit(candidates, self.ridge) for layer in layers]
            contributed = _mean([layer.contributions(w) / layer.energy for layer, w in zip(layers, rough, strict=True)])
            chosen = _largest(np.where(candidates, contributed, -1.0), size)
            fitted = [layer.fit(chosen, self.ridge) for layer in layers]
            error = float(np.mean([layer.error(w) / layer.energy for layer, w in zip(layers, fitted, strict=True)]))
            if error < least:
                best, least = chosen, error
            if (chosen == kept).all():
                break
            kept = chosen
        return best, least


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer that reads the group: the second moments of its inputs, and its weights.

    Errors are squared: those of the part of the outputs that is the group's. Columns are channels by entries.
    """

    gram: Float64[np.ndarray, "columns columns"]
    weight: Float64[np.ndarray, "c entries outputs"]

    @property
    def num_channels(self) -> int:
        """How many channels the group has."""
        return self.weight.shape[0]

    @property
    def energy(self) -> float:
        """The squared norm of the outputs."""
        return self.error(np.zeros_like(self.weight))

    @property
    def masses(self) -> Float64[np.ndarray, " c"]:
        """The squared norm ||H_j||^2 of each channel's inputs."""
        return np.diagonal(self.gram).reshape(self.num_channels, -1).sum(1)

    def error(self, fitted: Float64[np.ndarray, "c entries outputs"]) -> float:
        """Return the squared norm of the residual V that these weights leave."""
        difference = (self.weight - fitted).reshape(len(self.gram), -1)
        return float((difference * (self.gram @ difference)).sum())

    def explained(self, fitted: Float64[np.ndarray, "c entries outputs"]) -> Float64[np.ndarray, " c"]:
        """Return ||V H_j^T||^2 / ||H_j||^2 for the residual V that these weights leave."""
        products = self.gram @ (self.weight - fitted).reshape(len(self.gram), -1)
        squares = np.square(products).reshape(self.num_channels, -1).sum(1)
        return np.divide(squares, self.masses, out=np.zeros_like(squares), where=self.masses > 0)

    def contributions(self, fitted: Float64[np.ndarray, "c entries outputs"]) -> Float64[np.ndarray, " c"]:
        """Return ||W_j||^2 ||H_j||^2."""
        return np.square(fitted).sum((1, 2)) * self.masses

    def fit(self, kept: Bool[np.ndarray, " c"], ridge: float) -> Float64[np.ndarray, "c entries outputs"]:
        """Return the weights of these channels, the others' zero, that rebuild the outputs best.

        The ridge holds them near the weights as they were: where these suffice they stay.
        """
        columns = np.repeat(kept, self.weight.shape[1])
        inside = self.gram[np.ix_(columns, columns)]
        weight, damping = self.weight.reshape(len(self.gram), -1), ridge * np.diagonal(self.gram).mean()
        wanted = self.gram[columns] @ weight + damping * weight[columns]
        fitted = np.zeros_like(weight)
        fitted[columns] = np.linalg.solve(inside + damping * np.eye(len(inside)), wanted)
        return fitted.reshape(self.weight.shape)


def layers_of(evidence: Evidence, group: Group) -> list[Layer]:
    """Return the layers that read a group, restricted to its channels."""
    found = []
    for reader in group.readers:
        weight = evidence.module.get_parameter(reader.weight).detach().cpu().double()
        size = weight[0, 0].numel()
        columns = (reader.positions[..., None] * size + np.arange(size)).reshape(group.num_channels, -1)
        gram = evidence.input_gram(reader.weight, group, "i-spasp").numpy()[np.ix_(columns.ravel(), columns.ravel())]
        entries = weight.flatten(1).numpy()[:, columns]  # outputs, channels, entries
        found.append(Layer(gram=gram, weight=np.ascontiguousarray(entries.transpose(1, 2, 0))))
    return found


def _sizes(num_channels: int, num_sizes: int) -> list[int]:
    """Return descending numbers of channels, below all and down to none."""
    return sorted({num_channels * step // num_sizes for step in range(num_sizes)}, reverse=True)


def _mean(values: list[np.ndarray]) -> Float64[np.ndarray, " c"]:
    return np.stack(values).mean(0)


def _largest(values: Float64[np.ndarray, " c"], number: int) -> Bool[np.ndarray, " c"]:
    """Return where the largest values are, so many of them."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:number]] = True
    return mask
