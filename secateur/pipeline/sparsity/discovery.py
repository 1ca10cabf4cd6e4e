"""Discover which weights stay by training: indicators that fall to zero where the loss lets them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from secateur.artifacts import Data, Model, Task, as_tuple
from secateur.calibration.batches import batches, device_of, per_sample, to_device
from secateur.calibration.observe import observing
from secateur.errors import TrainingError
from secateur.pipeline.sparsity.two_of_four import two_of_four


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """Training of an indicator c for every weight, jointly with the weights w, from c = 1.

    Descends E loss(w c), and after each step draws the indicators of those weights that are not among the two largest
    |w c| of their four towards zero, by what a penalty a |c| would (soft threshold), until all but ``rest`` of them are
    there, or for ``num_steps``. A weight that the loss needs resists, and takes the place of another when it becomes
    the larger. Extremely sparse pruned networks are found so (ESPN, Cho et al. 2020, arXiv 2006.15741), with the
    penalty on all indicators, a set by hand, and the largest of the whole network staying; here a begins where it would
    bring an indicator that the loss does not mind to zero in ``num_steps`` and doubles ``num_doublings`` times on the
    way.
    """

    num_steps: int = 400
    learning_rate: float = 0.02
    momentum: float = 0.9
    batch_size: int = 32
    num_doublings: int = 4
    rest: float = 0.01
    seed: int = 0

    def __call__(
        self, model: Model, task: Task, data: Data, weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the masks and the weights w c, both by name; the network stays as it was.

        Raises:
            TrainingError: the loss is not finite.
        """
        module, loss, device = model.module, per_sample(task.loss), device_of(model.module)
        trained = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        indicators = {name: torch.ones_like(weight).requires_grad_() for name, weight in weights.items()}
        optimizer = torch.optim.SGD(
            [*trained.values(), *indicators.values()], lr=self.learning_rate, momentum=self.momentum
        )
        first = 1 / (self.learning_rate * self.num_steps)
        step = 0
        with observing(module), torch.enable_grad():
            while step < self.num_steps:
                for inputs, targets in batches(data.train, self.batch_size, seed=self.seed + step):
                    pressure = first * 2.0 ** (step * self.num_doublings // self.num_steps)
                    replaced = {name: trained[name] * indicators[name] for name in trained}
                    outputs = functional_call(module, replaced, to_device(as_tuple(inputs), device))
                    value = loss(outputs, to_device(targets, device)).mean()
                    if not torch.isfinite(value):
                        raise TrainingError(
                            f"sparsity, step {step}", f"a loss of {float(value)}", "a finite one",
                            f"Lower learning_rate (here {self.learning_rate:.3g}).",
                        )  # fmt: skip
                    grads = torch.autograd.grad(value, [*trained.values(), *indicators.values()])
                    for tensor, grad in zip([*trained.values(), *indicators.values()], grads, strict=True):
                        tensor.grad = grad
                    optimizer.step()
                    step += 1
                    left = self._drawn(trained, indicators, self.learning_rate * pressure)
                    if step >= self.num_steps or left <= self.rest:
                        found = {name: (trained[name] * indicators[name]).detach() for name in trained}
                        return {name: two_of_four(values.abs()) for name, values in found.items()}, found
        raise AssertionError("a data set has samples")

    @torch.no_grad()
    def _drawn(self, trained: Mapping[str, Tensor], indicators: Mapping[str, Tensor], by: float) -> float:
        """Draw the indicators of the smaller weights towards zero; return the share of them that is not there."""
        left = total = 0
        for name, c in indicators.items():
            smaller = ~two_of_four((trained[name] * c).abs())
            c.copy_(torch.where(smaller, c.sign() * (c.abs() - by).clamp(min=0), c))
            left += int((c[smaller] != 0).sum())
            total += int(smaller.sum())
        return left / total
