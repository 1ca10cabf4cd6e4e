"""The four tables that signals are combined from (the components of Persand et al. 2019, arXiv 1906.04675)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

Scores = Float64[Tensor, " num_channels"]


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a signal looks at: values one an entry, and the gradients of the loss there.

    The entries of ``weights`` are those of the filters that write the channel, with the mean loss's gradient; those of
    ``activations`` are what layers read of the channel, with the gradient of each sample's own loss. ``centred`` takes
    off the mean of each channel that a layer reads first.
    """

    place: Literal["weights", "activations"]
    entries: Callable[[Tensor, Tensor], Tensor]
    needs_gradient: bool = True
    centred: bool = False


INPUTS: dict[str, Input] = {
    "weight": Input(place="weights", entries=lambda x, _: x, needs_gradient=False),
    "weight-gradient": Input(place="weights", entries=lambda _, g: g),
    "weight*gradient": Input(place="weights", entries=lambda x, g: x * g),
    "activation": Input(place="activations", entries=lambda x, _: x, needs_gradient=False),
    "gradient": Input(place="activations", entries=lambda _, g: g),
    "activation*gradient": Input(place="activations", entries=lambda x, g: x * g),
    "centred": Input(place="activations", entries=lambda x, _: x, needs_gradient=False, centred=True),
    "centred*gradient": Input(place="activations", entries=lambda x, g: x * g, centred=True),
}


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """What is done to each entry; ``signed`` says whether the result may be negative."""

    of: Callable[[Tensor], Tensor]
    signed: bool = False


POINTWISE: dict[str, Pointwise] = {
    "identity": Pointwise(of=lambda u: u, signed=True),
    "absolute": Pointwise(of=lambda u: u.abs()),
    "square": Pointwise(of=lambda u: u.square()),
    # The change of the loss to second order when an entry goes, u its product with the gradient, u^2 for the Hessian.
    "second-order": Pointwise(of=lambda u: u.square() / 2 - u, signed=True),
    "positive": Pointwise(of=lambda u: (u > 0).to(u.dtype)),
}


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How a channel's entries become one number a sample, of which the mean over samples is taken.

    Each entry goes through the function of `POINTWISE` that ``each`` names; ``total`` takes the sum over all places
    where the channel is read, over all layers that read it, and the number of places.
    """

    each: Literal["identity", "absolute", "square"]
    total: Callable[[Tensor, Tensor], Tensor]
    signed: bool = False


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(each="identity", total=lambda s, _: s, signed=True),
    "mean": Reduction(each="identity", total=lambda s, m: s / m.clamp_min(1), signed=True),
    "absolute": Reduction(each="absolute", total=lambda s, _: s),
    "square": Reduction(each="square", total=lambda s, _: s),
    "absolute-sum": Reduction(each="identity", total=lambda s, _: s.abs()),
    "square-sum": Reduction(each="identity", total=lambda s, _: s.square()),
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What scores may be divided by: the number of places of each channel, and what removing one channel saves."""

    places: Scores
    saved: Callable[[Literal["macs", "parameters"]], int]


SCALINGS: dict[str, Callable[[Tensor, Facts], Tensor]] = {
    "none": lambda scores, _: scores,
    "places": lambda scores, facts: scores / facts.places.clamp_min(1),
    "layer-l1": lambda scores, _: _over(scores, scores.abs().sum()),
    "layer-l2": lambda scores, _: _over(scores, scores.norm()),
    # Transitively: in all layers that write and read the channel.
    "parameters": lambda scores, facts: scores / max(facts.saved("parameters"), 1),
    "macs": lambda scores, facts: scores / max(facts.saved("macs"), 1),
}


def _over(scores: Tensor, norm: Tensor) -> Tensor:
    return scores / norm if norm > 0 else scores
