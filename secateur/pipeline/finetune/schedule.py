"""The learning rate of every step."""

import math

__all__ = ["learning_rate"]


def learning_rate(step: int, num_steps: int, peak: float, warmup: float) -> float:
    """Return a linear rise to the peak over the first share ``warmup`` of the steps, then half a cosine towards zero.

    ``step`` counts from 0. The last step's rate is above zero. Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    num_rising = math.ceil(warmup * num_steps)
    if step < num_rising:
        return peak * (step + 1) / (num_rising + 1)
    fallen = (step - num_rising) / max(1, num_steps - num_rising)
    return peak * 0.5 * (1 + math.cos(math.pi * fallen))
