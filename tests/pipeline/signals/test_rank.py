"""The rank of maps, where layers read maps and where they do not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.calibration.gates import pass_gates
from secateur.calibration.quantities import PLACES
from secateur.calibration.statistics import Statistic, StatisticTally
from secateur.pipeline.signals import SIGNALS, collect_evidence
from secateur.pipeline.structure import trace


class Through(nn.Module):
    """Hands its input on to a layer, channel by channel."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.make, self.reader = nn.Conv2d(3, 3, 1, bias=False), reader
        self.make.weight.data = torch.eye(3)[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = self.make(x)
        return self.reader(x if isinstance(self.reader, nn.Conv2d) else x.mean((2, 3)))


def maps(ranks: tuple[int, ...], size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(4, size, rank, generator=generator) @ torch.randn(4, rank, size + 2, generator=generator)
        for rank in ranks
    ]
    return torch.stack(made, 1)


def ranks_of(module: nn.Module, x: Tensor) -> list[float]:
    structure = trace(module.eval(), (x[:2],))
    signal = SIGNALS["hrank"]
    evidence = collect_evidence(signal.needs, module, structure, [(x, None)], lambda *_: x.sum())
    return signal(evidence, structure.groups[0]).tolist()


def test_a_channel_is_worth_the_share_of_the_full_rank() -> None:
    assert ranks_of(Through(nn.Conv2d(3, 2, 3)), maps((1, 4, 6))) == pytest.approx([1 / 6, 4 / 6, 1])
    mixed = torch.cat([maps((1, 4, 6)), maps((3, 0, 6))])
    assert ranks_of(Through(nn.Conv2d(3, 2, 3)), mixed) == pytest.approx([2 / 6, 2 / 6, 1])


def test_what_is_read_without_space_is_worth_how_often_it_is_not_zero() -> None:
    x = maps((1, 4, 6))
    x[:3, 1] = 0
    assert ranks_of(Through(nn.Linear(3, 2)), x) == pytest.approx([1, 1 / 4, 1])


def test_ranks_and_the_count_of_places_see_tokens() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    x = torch.randn(4, 7, 3)
    groups = trace(module, (x,)).groups
    tally = StatisticTally(
        groups=groups, statistics={"n": Statistic(quantities={"p": PLACES}, value=lambda values: values["p"])}
    )
    assert pass_gates(module, groups, [(x, None)], functional.cross_entropy, [tally]).num_samples == 4
    assert tally.means(4)["n"][groups[0].name].tolist() == [7] * 5
    alive = (module[:2](x) > 0).any(1).float().mean(0)
    assert ranks_of(module, x) == pytest.approx(alive.tolist())
