"""AUC maximisation: the saddle function against all pairs, and two processes that seldom average."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from secateur.errors import TrainingError
from secateur.pipeline.coda import Classes, Coda, MinMaxAuc
from secateur.workloads.gaze.auc_objective import fixated_and_all

NUM_PROCESSES = 2
SETTINGS = Coda(num_stages=2, num_steps=30, interval=1, learning_rate=0.05, gamma=500.0, num_start=4)
INTERVALS = (1, 10)


def weighed(scores: Tensor, labels: Tensor) -> Classes:
    """Weigh a batch in which either class occurs."""
    return Classes(scores=scores, positives=labels / labels.sum(), negatives=(1 - labels) / (1 - labels).sum())


def test_the_saddle_point_is_the_mean_over_all_pairs() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(50, dtype=torch.float64), (torch.arange(50) % 5 == 0).double()
    positive, negative = scores[labels == 1], scores[labels == 0]
    saddle = MinMaxAuc().double()
    with torch.no_grad():
        saddle.a.copy_(positive.mean())
        saddle.b.copy_(negative.mean())
        saddle.alpha.copy_(negative.mean() - positive.mean())
    value = saddle(weighed(scores, labels))
    pairs = ((1 - positive[:, None] + negative[None, :]) ** 2).mean()
    torch.testing.assert_close(value, pairs, atol=1e-12, rtol=0)
    for gradient in torch.autograd.grad(value, list(saddle.parameters())):
        assert abs(float(gradient)) < 1e-12
    with torch.no_grad():
        saddle.alpha += 0.1
        assert saddle(weighed(scores, labels)) < pairs
        saddle.alpha -= 0.1
        saddle.a += 0.1
        assert saddle(weighed(scores, labels)) > pairs


def test_fixations_and_cells_weigh_one_a_batch_and_scores_are_centred() -> None:
    counts = torch.zeros(3, 4, 5)
    counts[:, 1, 2], counts[0, 3, 3] = 2.0, 1.0
    classes = fixated_and_all(torch.randn(3, 4, 5), counts)
    assert float(classes.positives.sum()) == pytest.approx(1)
    assert float(classes.negatives.sum()) == pytest.approx(1)
    torch.testing.assert_close(classes.positives.sum((1, 2)), torch.full((3,), 1 / 3))
    torch.testing.assert_close(classes.scores.mean((1, 2)), torch.zeros(3), atol=1e-6, rtol=0)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(TrainingError, match="interval"):
        Coda(interval=0)


def drawn(seed: int, num: int = 40) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of two overlapping classes, a fifth of them positive, without end."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.linspace(-1, 1, 8)
    while True:
        labels = (torch.arange(num) % 5 == 0).float()
        yield torch.randn(num, 8, generator=generator) + 1.2 * labels[:, None] * direction, labels


def area(scores: Tensor, labels: Tensor) -> float:
    return float((scores[labels == 1][:, None] > scores[labels == 0][None, :]).double().mean())


def trained(rank: int, folder: str) -> None:
    """Train on a shard of one's own, once for each interval, and write what came of it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=NUM_PROCESSES)
    found = {}
    for interval in INTERVALS:
        torch.manual_seed(rank)  # what processes start with is averaged
        module = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0))
        before: list[Tensor] = []
        reduce = distributed.all_reduce

        def counted(tensor: Tensor, reduce=reduce, before=before, **settings) -> None:  # type: ignore[no-untyped-def]
            before.append(tensor.clone())
            reduce(tensor, **settings)

        distributed.all_reduce = counted
        result = Coda(**{**vars(SETTINGS), "interval": interval})(module, drawn(10 + rank), weighed)
        distributed.all_reduce = reduce
        inputs, labels = next(drawn(99, 2000))
        found[interval] = {
            "rounds": result.num_rounds, "messages": len(before), "steps": result.num_steps,
            "bytes": result.sent_bytes, "area": area(module(inputs).detach(), labels), "before": before[-2],
            "weights": torch.cat([tensor.float().flatten() for tensor in module.state_dict().values()]),
        }  # fmt: skip
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_seldom_averaging_costs_rounds_less_and_area_nothing(tmp_path: Path) -> None:
    multiprocessing.spawn(trained, (str(tmp_path),), nprocs=NUM_PROCESSES)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(NUM_PROCESSES))
    num_steps = 30 + 90
    for interval in INTERVALS:
        mine, theirs = one[interval], two[interval]
        # The start, each stage's start and end, and every so many steps.
        assert mine["rounds"] == mine["messages"] == 1 + 2 * SETTINGS.num_stages + num_steps // interval
        assert mine["steps"] == num_steps
        assert torch.equal(mine["weights"], theirs["weights"])
        assert not torch.equal(mine["before"], theirs["before"])
        assert mine["area"] > 0.85
    assert one[10]["bytes"] < one[1]["bytes"] / 5
    assert one[10]["area"] > one[1]["area"] - 0.02


def test_one_process_alone_sends_nothing() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))
    result = Coda(num_stages=1, num_steps=3, interval=1)(module, drawn(0), weighed)
    assert (result.num_steps, result.num_rounds, result.sent_bytes) == (3, 0, 0)
