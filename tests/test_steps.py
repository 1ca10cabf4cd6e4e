"""What a recipe says of healing reaches the training, whole, from the estimate on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import secateur
from secateur import chain, recipe_objects, steps
from secateur.artifacts import FinetuneResult, PruneResult, Redundancy
from secateur.errors import RecipeError
from secateur.listening import Silent
from secateur.loading import importable, load
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.finetune import Averaging, Finetune, Memory
from secateur.pipeline.prune import Prune
from secateur.pipeline.signals import Combination
from secateur.recipe import Recipe
from secateur.steps import Steps, read
from secateur.sweep import sweep

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))


def samples(num=64):
    inputs = torch.randn(num, 4, generator=torch.Generator().manual_seed(2))
    data = TensorDataset(inputs, inputs[:, :3].argmax(1))
    return data, data
"""
HEALING = {
    "epochs": 2, "batch_size": 8, "learning_rate": 0.01, "label_smoothing": 0.1, "mixup": 0.3, "ema": 0.9,
    "warmup": 0.2, "momentum": 0.5, "clip_norm": None, "optimizer": "sgd", "device": "cpu",
    "distillation": {
        "task": 0.5, "output": 1.0, "feature": 0.2, "parameter": 0.3, "temperature": 2.0, "method": "dist",
        "teachers": [{"function": "ownsteps:network", "arguments": {"seed": 7}}],
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "ownsteps.py").write_text(OWN)
    with importable(tmp_path):
        yield tmp_path
    sys.modules.pop("ownsteps", None)


def recipe_with(finetune: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "own", "model": "ownsteps:network", "data": "ownsteps:samples", "task": "classification",
            "estimate": {"samples": 32, "batch_size": 8},
            "prune": {"macs": 0.6, "rounds": 1, "recovery_steps": 3, "multiple": 1, "samples": 32, "floors": False},
            "finetune": finetune,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("finetune", "held"), [(HEALING, True), ({"epochs": 1, "batch_size": 8}, False)])
def test_a_recipe_is_healed_as_it_says(
    project: Path, monkeypatch: pytest.MonkeyPatch, finetune: dict[str, Any], held: bool
) -> None:
    asked: list[Finetune] = []

    def noted(**settings: Any) -> Finetune:
        asked.append(Finetune(**settings))
        return asked[-1]

    monkeypatch.setattr(recipe_objects, "Finetune", noted)
    recipe = recipe_with(finetune)
    work = Steps(recipe=recipe, workload=load(recipe), listener=Silent())
    folders = [project / name for name in ("estimate", "prune", "finetune")]
    work.estimate(folders[0])
    assert (folders[0] / steps.PARAMETER_FISHER).is_file() == held
    work.prune(folders[0], folders[1])
    work.finetune(*folders)
    assert read(folders[1], "prune", PruneResult).macs_after < read(folders[1], "prune", PruneResult).macs_before
    result = read(folders[2], "finetune", FinetuneResult)
    assert (result.epochs[-1].parameter_loss > 0) == held
    assert all(torch.isfinite(torch.tensor(epoch.loss)) for epoch in result.epochs)
    recovery, healing = asked
    assert (recovery.num_steps, recovery.validation_share, healing.num_steps) == (3, 0.0, None)
    wanted = recipe.finetune
    for found in asked:
        for name in ("epochs", "batch_size", "learning_rate", "warmup", "momentum", "clip_norm", "optimizer",
                     "weight_decay", "device"):  # fmt: skip
            assert getattr(found, name) == getattr(wanted, name), name
        assert found.precision == recipe_objects.PRECISIONS[wanted.precision]
        for name in ("task", "output", "feature", "parameter"):
            assert getattr(found.weights, name) == getattr(wanted.distillation, name), name
        assert (found.method, found.temperature) == (wanted.distillation.method, wanted.distillation.temperature)
        assert (found.targets.label_smoothing, found.targets.mixup) == (wanted.label_smoothing, wanted.mixup)
        assert found.averaging == (None if wanted.ema is None else Averaging(decay=wanted.ema))


@pytest.mark.parametrize("carry", [True, False])
def test_recovery_goes_on_through_the_rounds(project: Path, monkeypatch: pytest.MonkeyPatch, carry: bool) -> None:
    """Every round trains on samples of its own, on request with the optimiser's means of the channels that are left."""
    begun: list[int] = []
    recall = Memory.recall

    def noted(memory: Memory, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        recall(memory, module, optimizer)
        begun.append(memory.num_steps)
        assert len(optimizer.state) == (len(list(module.parameters())) if carry and begun[1:] else 0)
        assert all(state["exp_avg"].shape == parameter.shape for parameter, state in optimizer.state.items())

    monkeypatch.setattr(Memory, "recall", noted)
    given = recipe_with({"batch_size": 8}).model_dump()
    given["prune"] |= {"macs": 0.4, "rounds": 3, "carry_optimizer": carry}
    recipe = Recipe.model_validate(given)
    work = Steps(recipe=recipe, workload=load(recipe), listener=Silent())
    work.estimate(project / "estimate")
    work.prune(project / "estimate", project / "prune")
    assert begun == [0, 3, 6]


def test_what_a_recipe_says_of_labels_and_latency_reaches_the_estimate_and_the_cut(project: Path) -> None:
    given = recipe_with({"distillation": {"teachers": HEALING["distillation"]["teachers"]}}).model_dump()
    given["estimate"] |= {"labels": "teacher", "latency": True}
    given["prune"] |= {"labels": "teacher", "temperature": 2.0, "recovery_steps": 0, "multiple": 4}
    given["measure"]["backend"], given["folder"] = "onnxruntime", project / "runs"
    recipe = Recipe.model_validate(given)
    work = Steps(recipe=recipe, workload=load(recipe), listener=Silent())
    work.estimate(project / "estimate")
    found = read(project / "estimate", "redundancy", Redundancy)
    assert (found.labels, found.backend) == ("teacher", "onnxruntime")
    assert found.latency_s >= found.latency_effective_s >= 0
    assert set(found.maximum_compression) >= {"filters", "macs", "parameters"}
    assert list((project / "runs" / steps.LATENCIES).glob("onnxruntime-*.json"))
    # A network's own outputs would leave no gradient, and so no effective filters but one.
    assert any(group.spectrum[0] > 0 for group in found.groups)
    work.prune(project / "estimate", project / "prune")
    pruned = read(project / "prune", "prune", PruneResult)
    assert pruned.macs_after < pruned.macs_before


class StopError(Exception):
    """Ends a step once it has said what it wants."""


def test_everything_that_a_recipe_says_of_pruning_arrives(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Prune] = []

    def noted(**settings: Any) -> Prune:
        asked.append(Prune(**settings))
        raise StopError

    monkeypatch.setattr(steps, "Prune", noted)
    four = {"input": "activation*gradient", "pointwise": "square", "reduction": "mean", "scaling": "macs"}
    alike = {
        "allowed_loss": 0.2, "rounds": 2, "schedule": "one-at-a-time", "labels": "true", "temperature": 2.0,
        "compensation": "gates", "samples": 48, "batch_size": 12, "multiple": 2, "dead": True, "branches": True,
    }  # fmt: skip
    given = recipe_with({}).model_dump()
    given["prune"] = alike | {
        "parameters": 0.4, "allocator": {"name": "theis", "beta": 0.3, "by_class": True}, "signal": four, "keep": ["0"],
    }  # fmt: skip
    recipe = Recipe.model_validate(given | {"seed": 5})
    with pytest.raises(StopError):
        Steps(recipe=recipe, workload=load(recipe), listener=Silent()).prune(project, project)
    wanted = Prune(
        **alike, keep=0.4, kind="parameters", allocator=Theis(beta=0.3, by_class=True), signal=Combination(**four),
        protect=("0",), seed=5,
    )  # fmt: skip
    assert asked == [wanted]


def test_without_options_a_recipe_asks_for_what_finetune_does_by_itself() -> None:
    """Recipes that name no option of healing give the numbers they gave before there were any."""
    plain, recipe = Finetune(), recipe_with({}).finetune
    for name in ("warmup", "momentum", "clip_norm", "device"):
        assert getattr(plain, name) == getattr(recipe, name), name
    assert (plain.method, plain.weights.parameter) == (recipe.distillation.method, recipe.distillation.parameter)
    assert (plain.targets.label_smoothing, plain.targets.mixup) == (recipe.label_smoothing, recipe.mixup)
    assert plain.precision == recipe_objects.PRECISIONS[recipe.precision]
    assert plain.averaging is None
    assert recipe.ema is None


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"found 2 processes that torchrun did not start"):
        chain.run(recipe_with({}))
    for start in (chain.estimate, lambda recipe: sweep(recipe, [0.5])):
        with pytest.raises(RecipeError, match=r"found 2 processes; wanted one.*Start it without torchrun"):
            start(recipe_with({}))
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RecipeError, match=r"assist: found a single process"):
        chain.assist(recipe_with({}))


TOGETHER = """
import sys
from pathlib import Path

import yaml

from secateur.chain import assist
from secateur.launched import find_others, is_helper
from secateur.listening import Silent
from secateur.loading import importable, load
from secateur.recipe import Recipe
from secateur.steps import Steps

folder = Path(sys.argv[1])
recipe = Recipe.model_validate(yaml.safe_load((folder / "own.yaml").read_text()))
if is_helper():
    assist(recipe, beside=folder)
else:
    others = find_others()
    with importable(folder), others.apart():
        steps = Steps(recipe=recipe, workload=load(recipe), listener=Silent(), others=others)
        steps.estimate(folder / "estimate")
        steps.prune(folder / "estimate", folder / "prune")
        steps.finetune(folder / "estimate", folder / "prune", folder / "finetune")
"""


def test_two_processes_train_together_and_one_does_the_rest(project: Path) -> None:
    finetune = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "device": "cpu"}
    (project / "own.yaml").write_text(yaml.safe_dump(recipe_with(finetune).model_dump(mode="json")))
    (project / "together.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
               str(project / "together.py"), str(project)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(secateur.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    twice = recipe_with(finetune | {"batch_size": 8})
    alone = Steps(recipe=twice, workload=load(twice), listener=Silent())
    alone.finetune(project / "estimate", project / "prune", project / "alone")
    one, two = (read(project / name, "finetune", FinetuneResult).epochs for name in ("finetune", "alone"))
    assert [epoch.loss for epoch in one] == pytest.approx([epoch.loss for epoch in two], rel=1e-4)
