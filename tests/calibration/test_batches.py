"""Data sets become batches or are refused with the item that is wrong; metrics and losses are means over samples."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from secateur.artifacts import Metric, Task
from secateur.calibration.batches import batch_size_of, batches, collate, evaluate, mean_loss, per_sample, to_device
from secateur.errors import DataError


class Items(Dataset[Any]):
    """A list as a data set."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 20),
    batch_size=st.integers(1, 8),
    limit=st.none() | st.integers(1, 25),
    seed=st.none() | st.integers(0, 3),
)
def test_every_sample_comes_once_and_order_follows_the_seed_alone(
    count: int, batch_size: int, limit: int | None, seed: int | None
) -> None:
    state = torch.get_rng_state()
    found = list(batches(numbers(count), batch_size, limit=limit, seed=seed))
    assert torch.equal(torch.get_rng_state(), state)
    targets = torch.cat([t for _, t in found]).tolist()
    assert torch.cat([x for x, _ in found])[:, 0].tolist() == targets
    assert len(targets) == len(set(targets)) == min(count, limit or count)
    assert all(len(t) == batch_size for _, t in found[:-1])
    torch.manual_seed(17)
    again = torch.cat([t for _, t in batches(numbers(count), batch_size, limit=limit, seed=seed)]).tolist()
    assert again == targets
    if seed is None:
        assert targets == list(range(len(targets)))


def test_a_limit_with_a_seed_is_a_random_subset() -> None:
    chosen = torch.cat([t for _, t in batches(numbers(1000), 10, limit=50, seed=0)])
    assert 300 < chosen.float().mean() < 700


def test_workers_give_the_same_batches() -> None:
    alone = list(batches(numbers(7), 3, seed=1))
    helped = list(batches(numbers(7), 3, seed=1, num_workers=1))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, helped, strict=True))


def test_several_inputs_become_a_tuple_and_targets_keep_their_structure() -> None:
    items = [((torch.ones(2) * i, torch.zeros(3)), {"class": i, "box": torch.zeros(4)}) for i in range(3)]
    inputs, targets = next(batches(Items(items), 3))
    assert [tuple(x.shape) for x in inputs] == [(3, 2), (3, 3)]
    assert targets["class"].tolist() == [0, 1, 2]
    assert batch_size_of(inputs) == 3
    moved = to_device((inputs, targets, "name", None), torch.device("meta"))
    assert moved[0][0].is_meta
    assert moved[1]["box"].is_meta
    assert moved[2:] == ("name", None)


NAN = torch.tensor([float("nan")])
WRONG: dict[str, tuple[list[Any], str]] = {
    "not a pair": ([torch.zeros(2)], r"item 0: found Tensor; wanted a pair \(inputs, target\)"),
    "no tensor": ([("text", 0)], "item 0: found an input of type str; wanted tensors"),
    "NaN": ([(torch.zeros(1), 0), (NAN, 0)], "item 1: found an input with NaN or infinity"),
    "shapes": (
        [(torch.zeros(2), 0), (torch.zeros(3), 0)],
        r"item 1: found input shapes \[\(3,\)\]; wanted \[\(2,\)\] as in item 0",
    ),
    "targets": (
        [(torch.zeros(1), torch.zeros(1)), (torch.zeros(1), torch.zeros(2))],
        "items 0 to 1: found targets that cannot be stacked",
    ),
    "empty": ([], "data set: found no samples; wanted at least one"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_named(name: str) -> None:
    items, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        list(batches(Items(items), 4))


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(DataError, match="batch_size 0, limit None"):
        list(batches(numbers(3), 0))
    with pytest.raises(DataError, match=r"batch: found inputs with \[2, 3\] samples"):
        batch_size_of((torch.zeros(2, 1), torch.zeros(3, 1)))


def test_one_input_stays_a_tensor_and_a_tuple_of_one_a_tuple() -> None:
    assert isinstance(collate([(0, (torch.zeros(1), 0))])[0], Tensor)
    assert isinstance(collate([(0, ((torch.zeros(1),), 0))])[0], tuple)


def test_a_mean_loss_becomes_one_a_sample() -> None:
    outputs, targets = torch.randn(6, 4, requires_grad=True), torch.randint(0, 4, (6,))
    each = per_sample(lambda o, t: functional.cross_entropy(o, t, reduction="none"))(outputs, targets)
    mean = per_sample(functional.cross_entropy)(outputs, targets)
    assert each.shape == mean.shape == (6,)
    gradients = [torch.autograd.grad(loss.sum(), outputs, retain_graph=True)[0] for loss in (each, mean)]
    torch.testing.assert_close(gradients[0], gradients[1])
    with pytest.raises(DataError, match=r"loss: found shape \[6, 4\]; wanted \[6\], one value a sample"):
        per_sample(lambda o, _: o)(outputs, targets)


def task() -> Task:
    return Task(
        name="classes",
        loss=lambda o, t: functional.cross_entropy(o, t, reduction="none"),
        metrics={
            "accuracy": Metric(per_sample=lambda o, t: (o.argmax(1) == t).double(), unit="%"),
            "loss": Metric(
                per_sample=lambda o, t: functional.cross_entropy(o, t, reduction="none"), higher_is_better=False
            ),
        },
        primary="accuracy",
        distill=lambda o, t, _: (o - t).square().sum(1),
    )  # fmt: skip


def test_evaluation_lists_every_sample_in_order_in_eval_mode() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).train()
    dataset = TensorDataset(torch.randn(11, 4), torch.randint(0, 3, (11,)))
    result = evaluate(module, task(), dataset, 4)
    assert module.training
    module.eval()
    with torch.no_grad():
        outputs = module(dataset.tensors[0])
    expected = functional.cross_entropy(outputs, dataset.tensors[1], reduction="none")
    assert result.num_samples == 11
    assert result.per_sample["loss"] == pytest.approx(expected.tolist())
    assert result.metrics["loss"] == pytest.approx(expected.mean().item())
    assert result.metrics["accuracy"] == pytest.approx((outputs.argmax(1) == dataset.tensors[1]).float().mean().item())
    assert (result.higher_is_better, result.units["accuracy"]) == ({"accuracy": True, "loss": False}, "%")
    loss = mean_loss(module, functional.cross_entropy, batches(dataset, 4))
    assert loss == pytest.approx(expected.mean().item())


def test_metrics_that_are_not_one_a_sample_and_no_batches_are_refused() -> None:
    broken = Task(
        name="t", loss=lambda o, _: o, metrics={"m": Metric(per_sample=lambda o, _: o.mean())}, primary="m",
        distill=lambda o, t, _: o,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"metric m: found shape \[\]; wanted \[2\], one value a sample"):
        evaluate(nn.Identity(), broken, numbers(2), 2)
    with pytest.raises(DataError, match="mean loss: found no batches"):
        mean_loss(nn.Identity(), functional.mse_loss, [])


def test_outputs_without_tensors_are_refused() -> None:
    with pytest.raises(DataError, match="outputs: found str; wanted a tensor"):
        per_sample(lambda _o, _t: torch.zeros(()))("text", None)
