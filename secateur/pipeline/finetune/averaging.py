"""The running average of a network's weights over the steps of its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import RecipeError
from secateur.pipeline.finetune.checkpoint import named_tensors, state_of, write_state

__all__ = ["Averaging", "WeightAverage"]


@dataclass(frozen=True, kw_only=True)
class Averaging:
    r"""Average the weights exponentially (Tarvainen and Valpola 2017, arXiv:1703.01780, section 2).

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad d_t = \min(d, (1 + t) / (10 + t))

    with d the ``decay``. It is approached from below, so that a short training is not an average with its start.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise RecipeError("finetune.ema", str(self.decay), "a number in [0, 1)", "0.999 is usual, or leave it out.")

    def at(self, step: int) -> float:
        """Return the decay of a step; they count from 0."""
        return min(self.decay, (1 + step) / (10 + step))


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightAverage:
    """A network's averaged parameters and buffers, by name, on its device; whole numbers are those of the last step."""

    averaging: Averaging
    state: dict[str, Tensor]

    @staticmethod
    def of(module: nn.Module, averaging: Averaging) -> "WeightAverage":
        """Begin with the weights as they are."""
        state = {name: tensor.detach().clone() for name, tensor in named_tensors(module)}
        return WeightAverage(averaging=averaging, state=state)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from an average that was written down."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take a step's weights in."""
        share = 1 - self.averaging.at(step)
        for name, tensor in named_tensors(module):
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, share)
            else:
                self.state[name].copy_(tensor)

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Put the average into the network within the context; afterwards its weights are what they were."""
        own = state_of(module)
        write_state(module, self.state)
        try:
            yield
        finally:
            write_state(module, own)
