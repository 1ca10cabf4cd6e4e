"""Fisher pruning of gaze networks as it was published: few channels at a time, while training goes on.

Theis et al. 2018 (arXiv 1801.05787, section 2.4) train 10 steps by SGD, remove the one feature map that is worth least
for its cost, and so on. Here it is the pipeline's own schedule, and the price of the FLOPs is chosen on pictures.
"""

from dataclasses import dataclass, replace

import torch
from gaze_family import multiply_adds
from gaze_ways import TASK, Cut, Given, Way
from pruning_ways import settled as better_statistics
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, Model
from secateur.pipeline.allocation import Allocator
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.prune import Prune

SHARE = 2
"""One step of this many is taken while a network is cut, where no number of steps a removal is asked for."""


@dataclass(frozen=True, kw_only=True)
class OneAtATime:
    """Fisher pruning one step of one group at a time, see `Prune`; without an allocator with FLOPs, as `Way` has it.

    A removal takes ``multiple`` channels, decided on ``num_samples`` of the samples, and is followed by ``num_steps``
    steps of training. Where that is None, half of the steps that all ways get are spread over the removals by what
    they save.
    """

    allocator: Allocator | None = None
    multiple: int = 1
    num_samples: int = 32
    num_steps: int | None = None

    def __call__(self, given: Given) -> Cut:
        """Return the network cut to the budget, trained all the way."""
        facts, allocator, batch_size = {}, self.allocator, min(16, self.num_samples)
        few = given.samples[: -(-self.num_samples // len(given.samples[0][0]))]
        if allocator is None:
            facts = dict(Way(multiple=self.multiple)(replace(given, samples=few)).facts)
            allocator = Theis(beta=facts["beta"])
        pictures, counts = (torch.cat(each)[: self.num_samples] for each in zip(*few, strict=True))
        whole = multiply_adds(given.network, given.size)
        trained, removals = 0, 0

        def recover(model: Model) -> Model:
            nonlocal trained, removals
            removals += 1
            now = multiply_adds(model.module, given.size)
            due = self._due(removals, (whole - now) / (whole - given.budget), given.num_steps) - trained
            if due > 0:
                given.train(model.module, due)
                trained += due
            return model

        prune = Prune(
            keep=given.budget / whole, schedule="one-at-a-time", allocator=allocator, labels="true",
            samples=len(pictures), batch_size=batch_size, multiple=self.multiple, compensation="none", batch_norm=False,
        )  # fmt: skip
        dataset = TensorDataset(pictures, counts)
        model = Model(module=given.network, example_inputs=(torch.zeros(2, 3, *given.size),))
        found, result = prune(model, TASK, Data(train=dataset, test=dataset), recover=recover)
        network = better_statistics(found.module.eval(), given.samples, TASK.loss)
        facts |= {"removals": len(result.rounds), "steps_between": trained, "maps_a_removal": self.multiple}
        return Cut(network=network, num_steps=trained if self.num_steps is None else 0, facts=facts)

    def _due(self, removals: int, done: float, num_steps: int) -> int:
        """Return how many steps ought to be behind when a share of the cost that must go has gone."""
        if self.num_steps is not None:
            return removals * self.num_steps
        return int(min(done, 1.0) * num_steps / SHARE)
