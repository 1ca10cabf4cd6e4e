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
from secateur.pipeline.sparsity.two_of_four import STAY, fours_of, two_of_four


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """Training of an indicator c for every weight, jointly with the weights w, from c = 1.

    Descends E loss(w c) + a sum |c|, as extremely sparse pruned networks are found (ESPN, Cho et al. 2020, arXiv
    2006.15741), until in all but ``rest`` of the fours no more than two indicators exceed ``threshold``, or for
    ``num_steps``. ESPN sets a by hand; here it begins where it would bring an indicator that the loss does not mind to
    zero in ``num_steps`` and doubles ``num_doublings`` times on the way. The two largest |c| of every four stay, with
    the weights w c.
    """

    num_steps: int = 400
    learning_rate: float = 0.02
    momentum: float = 0.9
    batch_size: int = 32
    num_doublings: int = 8
    threshold: float = 1e-2
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
        first = (1 - self.momentum) / (self.learning_rate * self.num_steps)
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
                    total = value + pressure * torch.stack([c.abs().sum() for c in indicators.values()]).sum()
                    grads = torch.autograd.grad(total, [*trained.values(), *indicators.values()])
                    for tensor, grad in zip([*trained.values(), *indicators.values()], grads, strict=True):
                        tensor.grad = grad
                    optimizer.step()
                    step += 1
                    if step >= self.num_steps or self._is_found(indicators):
                        masks = {name: two_of_four(c.detach().abs()) for name, c in indicators.items()}
                        return masks, {name: (trained[name] * indicators[name]).detach() for name in trained}
        raise AssertionError("a data set has samples")

    def _is_found(self, indicators: Mapping[str, Tensor]) -> bool:
        over = [fours_of(c.detach().abs() > self.threshold).sum(-1).flatten() > STAY for c in indicators.values()]
        return float(torch.cat(over).float().mean()) <= self.rest
