"""What the names in a recipe become: a user's own loss and metrics, and the fingerprint of all that a run reads."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from secateur.errors import DataError, LoadError
from secateur.loading import Workload, importable, load
from secateur.recipe import Recipe
from secateur.workloads import kullback_leibler, squared_error

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur


def network(scale=1.0):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight.mul_(scale)
    return net


def narrow():
    return nn.Linear(4, 1)


def pairs(num=10):
    generator = torch.Generator().manual_seed(2)
    inputs, targets = torch.randn(num, 4, generator=generator), torch.randn(num, 2, generator=generator)
    return TensorDataset(inputs, targets), TensorDataset(inputs + 1, targets)


def huber(outputs, targets, delta=1.0):
    return nn.functional.huber_loss(outputs, targets, delta=delta, reduction="none").sum(1)


def mean_huber(outputs, targets):
    return nn.functional.huber_loss(outputs, targets)


def error(outputs, targets):
    return (outputs - targets).abs().sum(1)


def hits(outputs, targets):
    return (outputs.sign() == targets.sign()).float().mean(1)


def averaged(outputs, targets):
    return error(outputs, targets).mean()


def apart(outputs, reference, temperature):
    return ((outputs - reference) / temperature).square().sum(1)


def whole():
    metric = secateur.Metric(per_sample=error, higher_is_better=False)
    return secateur.Task(name="angles", loss=huber, metrics={"error": metric}, primary="error", distill=apart)


def no_task():
    return 3
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "ownwork.py").write_text(OWN)
    with importable(tmp_path):
        yield tmp_path
    sys.modules.pop("ownwork", None)


def loaded(task: Any, **changes: Any) -> Workload:
    recipe = {
        "name": "own", "model": "ownwork:network", "data": "ownwork:pairs", "task": task, "prune": {"macs": 0.5},
    }  # fmt: skip
    return load(Recipe.model_validate(recipe | changes))


OUTPUTS, TARGETS = torch.tensor([[0.5, -2.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, -1.0]])


def test_ones_own_loss_and_metrics_are_called_with_their_arguments() -> None:
    task = loaded(
        {
            "loss": {"function": "ownwork:huber", "arguments": {"delta": 0.5}},
            "metrics": {"error": "ownwork:error", "hits": "ownwork:hits"},
            "primary": "hits",
            "lower_is_better": ["error"],
        }
    ).task
    expected = functional.huber_loss(OUTPUTS, TARGETS, delta=0.5, reduction="none").sum(1)
    assert torch.equal(task.loss(OUTPUTS, TARGETS), expected)
    assert torch.equal(task.metrics["error"].per_sample(OUTPUTS, TARGETS), torch.tensor([3.5, 2.0]))
    assert [metric.higher_is_better for metric in task.metrics.values()] == [False, True]
    assert task.primary == "hits"
    assert task.distill is squared_error


def test_the_first_metric_is_the_primary_and_the_distance_can_be_chosen() -> None:
    own = {"loss": "ownwork:mean_huber", "metrics": {"error": "ownwork:error", "hits": "ownwork:hits"}}
    assert loaded(own).task.primary == "error"
    assert loaded({**own, "distill": "kullback-leibler"}).task.distill is kullback_leibler
    distance = loaded({**own, "distill": "ownwork:apart"}).task.distill(OUTPUTS, TARGETS, 2.0)
    assert torch.equal(distance, ((OUTPUTS - TARGETS) / 2).square().sum(1))


def test_a_function_may_return_the_whole_task() -> None:
    task = loaded("ownwork:whole").task
    assert (task.name, task.primary, task.metrics["error"].higher_is_better) == ("angles", "error", False)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("ownwork:no_task", r"task: ownwork:no_task: found it returned int; wanted a secateur\.Task"),
        ({"loss": "ownwork:huber", "metrics": {"a": "ownwork:averaged"}}, r"metric a: found \(\) for a batch of 2"),
        ({"loss": "ownwork:huber", "metrics": {"a": "ownwork:error"}, "primary": "b"}, r"unknown metrics \['b'\]"),
        (
            {"loss": "ownwork:huber", "metrics": {"a": "ownwork:error"}, "lower_is_better": ["c"]},
            r"unknown metrics \['c'\]; wanted names among \['a'\]",
        ),
    ],
)
def test_a_task_that_does_not_fit_is_refused(task: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        loaded(task)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="an empty data set"):
        loaded("ownwork:whole", data={"function": "ownwork:pairs", "arguments": {"num": 0}})


def test_the_fingerprint_follows_weights_data_arguments_and_source(project: Path) -> None:
    first = loaded("ownwork:whole").fingerprint
    assert loaded("ownwork:whole").fingerprint == first
    assert loaded("ownwork:whole", prune={"macs": 0.4}).fingerprint == first
    found = {
        first,
        loaded("ownwork:whole", model={"function": "ownwork:network", "arguments": {"scale": 2.0}}).fingerprint,
        loaded("ownwork:whole", data={"function": "ownwork:pairs", "arguments": {"num": 9}}).fingerprint,
        loaded("ownwork:whole", seed=5).fingerprint,
    }
    (project / "ownwork.py").write_text(OWN.replace("delta=1.0", "delta=2.0"))
    found.add(loaded("ownwork:whole").fingerprint)
    assert len(found) == 5


def with_teachers(*functions: Any) -> Workload:
    return loaded("ownwork:whole", finetune={"distillation": {"teachers": list(functions)}})


def test_further_teachers_are_networks_that_predict_the_same_and_belong_to_the_fingerprint() -> None:
    louder = {"function": "ownwork:network", "arguments": {"scale": 2.0}}
    found = with_teachers("ownwork:network", louder)
    weights = [teacher.module[0].weight for teacher in found.teachers]
    assert torch.equal(weights[0], found.model.module[0].weight)
    assert torch.equal(weights[1], 2 * weights[0])
    assert loaded("ownwork:whole").teachers == ()
    prints = {w.fingerprint for w in (found, with_teachers(louder), loaded("ownwork:whole"), with_teachers())}
    assert len(prints) == 3
    with pytest.raises(LoadError, match=r"distillation\.teachers\.1: ownwork:no_task: found it returned int"):
        with_teachers("ownwork:network", "ownwork:no_task")
    with pytest.raises(LoadError, match=r"teachers\.0: ownwork:narrow: found outputs of shapes \[\(2, 1\)\]; wanted"):
        with_teachers("ownwork:narrow")


def test_scores_that_are_compared_by_divergence_are_distributions_and_others_are_not() -> None:
    own = {"loss": "ownwork:mean_huber", "metrics": {"error": "ownwork:error"}}
    found = loaded({**own, "distill": "kullback-leibler"}).task.log_probabilities
    assert found is not None
    torch.testing.assert_close(found(OUTPUTS, 2.0).exp().sum(1), torch.ones(2))
    assert loaded(own).task.log_probabilities is None
