"""An optimiser's state follows weights that have several names."""

import torch
from torch import nn

from secateur.pipeline.structure import Plan, cut, cut_optimizer, trace


class Twice(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.other(self.one(self.first(x).relu()).relu()).relu())


def test_means_of_tied_weights_are_cut_with_them() -> None:
    module, x = Twice(), torch.randn(8, 6)
    structure = trace(module, (x,))
    plan = Plan.random(structure, keep=0.5)
    optimizer = torch.optim.Adam(module.parameters())
    module(x).square().mean().backward()
    optimizer.step()
    small = cut(module, structure, plan)
    carried = cut_optimizer(optimizer, module, small, structure, plan)
    (kept,) = plan.kept.values()
    whole = optimizer.state[module.one.weight]["exp_avg"]
    assert torch.equal(carried.state[small.one.weight]["exp_avg"], whole[kept][:, kept])
    small(x).square().mean().backward()
    carried.step()
