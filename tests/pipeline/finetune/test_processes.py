"""Two processes that torchrun starts do what one does with twice the batch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from secateur.artifacts import Batch, Data, FinetuneResult, Group, Metric, Model, Task
from secateur.calibration.activation_gram import collect_activation_gram
from secateur.calibration.activations import collect_activations
from secateur.calibration.gram import collect_gate_gram
from secateur.calibration.input_gram import collect_input_grams
from secateur.calibration.parameter_fisher import collect_parameter_fisher
from secateur.calibration.processes import gathered, mean, num_processes, rank, total
from secateur.calibration.weight_gradients import collect_weight_gradient_gram
from secateur.errors import TrainingError
from secateur.pipeline.finetune import Averaging, DistillationWeights, Finetune, SoftTargets
from secateur.pipeline.signals.filters import writers
from secateur.pipeline.structure import cut, trace

TASK_ONLY = DistillationWeights(task=1.0, output=0.0, feature=0.0)
BASE = Finetune(
    epochs=3, batch_size=8, learning_rate=1e-2, validation_share=0.2, device="cpu", batch_norm="frozen",
    checkpoint_every_s=0.0,
)  # fmt: skip
TRAININGS = {
    "adamw": BASE,
    "sgd, task": replace(BASE, optimizer="sgd", weights=TASK_ONLY),
    "norms learn": replace(BASE, batch_norm="train"),
    "features, weights": replace(
        BASE, weights=DistillationWeights(task=0.1, output=0.9, feature=10.0, parameter=1.0), validation_share=0.0
    ),
    "dist": replace(
        BASE, method="dist", temperature=4.0, weights=DistillationWeights(task=0.0, output=1.0), validation_share=0.0
    ),
    "soft, averaged": replace(
        BASE, targets=SoftTargets(label_smoothing=0.1, mixup=0.4), averaging=Averaging(decay=0.9), batch_norm="train"
    ),
    "no validation": replace(BASE, validation_share=0.0, num_steps=5, clip_norm=0.1),
    "smaller than a batch": replace(BASE, batch_size=100, num_steps=3, validation_share=0.0),
}


class Pictures(Dataset):
    """Noisy stripes in double precision; the noise is drawn anew at every look."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        wave = (torch.arange(8) % 2).double() * 2 - 1
        picture = (wave[:, None].expand(8, 8), wave.expand(8, 8), torch.zeros(8, 8))[index % 3]
        return (picture + 0.3 * torch.randn(8, 8, dtype=torch.float64))[None], torch.tensor(index % 3)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def divergence(outputs: Tensor, reference: Tensor, temperature: float) -> Tensor:
    mine, theirs = (o.div(temperature).log_softmax(1) for o in (outputs, reference))
    return temperature**2 * (theirs.exp() * (theirs - mine)).sum(1)


TASK = Task(
    name="stripes",
    loss=cross_entropy,
    metrics={"likelihood": Metric(per_sample=lambda outputs, targets: -cross_entropy(outputs, targets))},
    primary="likelihood",
    distill=divergence,
    log_probabilities=lambda outputs, temperature: (outputs / temperature).log_softmax(1),
)
DATA = Data(train=Pictures(), test=Pictures())


def batches(num: int, parts: int) -> list[tuple[Tensor, Tensor]]:
    """The same samples in so many batches."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(num, 1, 8, 8, dtype=torch.float64, generator=generator)
    return list(zip(inputs.chunk(parts), (torch.arange(num) % 3).chunk(parts), strict=True))


def networks() -> tuple[Model, Model, dict[str, Any]]:
    """A teacher, its cut, and what is known of both.

    No bias stands before a norm, where its gradient would be rounding and nothing else.
    """
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 3),
    ).double()  # fmt: skip
    for _ in range(5):
        net(torch.randn(16, 1, 8, 8, dtype=torch.float64))
    teacher = Model(module=net.eval(), example_inputs=(torch.zeros(2, 1, 8, 8, dtype=torch.float64),))
    structure = trace(net, teacher.example_inputs)
    keep = {g.name: torch.arange(g.num_channels)[torch.arange(g.num_channels) % 3 > 0] for g in structure.groups}
    student = Model(module=cut(net, structure, keep).eval(), example_inputs=teacher.example_inputs, kept=keep)
    known = {
        "groups": structure.groups,
        "student_groups": trace(student.module, student.example_inputs).groups,
        "importance": {g.name: torch.arange(g.num_channels).double() for g in structure.groups},
        "fisher": collect_parameter_fisher(net, batches(32, 1), cross_entropy).fisher if num_processes() == 1 else None,
    }
    return teacher, student, known


def train(settings: Finetune, **other: Any) -> tuple[Model, FinetuneResult]:
    teacher, student, known = networks()
    return settings(student, teacher, other.pop("task", TASK), DATA, **known, **other)


def outcome(model: Model, result: FinetuneResult) -> dict[str, Any]:
    return {"weights": model.module.state_dict(), "epochs": [e.model_dump() for e in result.epochs],
            "best": result.best_epoch}  # fmt: skip


class StopError(Exception):
    pass


def stopping(calls: int) -> Task:
    """A task whose loss ends every process at the same step."""
    seen = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(1)
        if len(seen) > calls:
            raise StopError
        return cross_entropy(outputs, targets)

    return replace(TASK, loss=loss)


def broken_in_one() -> Task:
    """A task whose loss is not finite in one process only."""
    return replace(TASK, loss=lambda o, t: cross_entropy(o, t) * (float("nan") if rank() == 1 else 1.0))


def moments(module: nn.Module, groups: tuple[Group, ...], samples: list[Batch]) -> dict[str, Any]:
    """Collect everything that is the same whatever the batches, but the gate gradients."""
    gram, running = collect_activation_gram(module, groups, samples), collect_activations(module, groups, samples)
    written = {group.name: writers(module, group) for group in groups}
    gradients = collect_weight_gradient_gram(module, written, samples, cross_entropy)
    found: dict[str, Any] = {"inputs": collect_input_grams(module, groups, samples)}
    found["gradients"] = gradients.gram
    found["products"] = {group.name: gram.centred(group.name) for group in groups}
    for field in ("mean", "variance"):
        found[field] = {
            f"{name} {place}": getattr(own, field)
            for name, at in running.moments.items() for place, own in at.items()
        }  # fmt: skip
    found["counts"] = [gram.num_samples, running.num_samples, gradients.num_samples, gradients.num_columns]
    found["counts"] += [gram.num_rows(group.name) for group in groups]
    return found


def work(folder: Path) -> None:
    """Do everything in this process, one of two, and write down what came out."""
    torch.set_num_threads(1)
    teacher, _, known = networks()
    fisher = known["fisher"]
    found: dict[str, Any] = {"trainings": {}}
    for name, settings in TRAININGS.items():
        model, result = settings(networks()[1], teacher, TASK, DATA, **{**known, "fisher": fisher})
        found["trainings"][name] = outcome(model, result)
    given = {**known, "fisher": fisher}
    mine = batches(24, 4)[rank() :: 2]
    found["gram"] = collect_gate_gram(teacher.module, known["groups"], mine, cross_entropy)
    found["fisher"] = collect_parameter_fisher(teacher.module, mine, cross_entropy)
    found["moments"] = moments(teacher.module, known["groups"], mine)
    try:
        BASE(networks()[1], teacher, broken_in_one(), DATA, **given)
    except TrainingError as error:
        found["broken"] = str(error)
    settings, place = TRAININGS["soft, averaged"], folder / "checkpoint"
    try:
        settings(networks()[1], teacher, stopping(13), DATA, **given, checkpoint_folder=place)
    except StopError:
        found["stopped"] = place.joinpath("checkpoint.safetensors").is_file()
    steps: list[int] = []
    model, result = settings(
        networks()[1], teacher, TASK, DATA, **given, checkpoint_folder=place,
        progress=lambda _, done, __: steps.append(done),
    )  # fmt: skip
    found["resumed"], found["steps"] = outcome(model, result), steps
    x = torch.arange(3.0, dtype=torch.float64) + rank()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (mean(a) * (rank() + 1)).square().sum().backward()
    (gathered(b) * torch.arange(1, 7)).square().sum().backward()
    found["collectives"] = (total(x), mean(x), gathered(x), a.grad, b.grad)
    torch.save(found, folder / f"{rank()}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in (0, 1)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same(a: dict[str, Any], b: dict[str, Any], tolerance: float = 1e-9) -> None:
    for name, value in a["weights"].items():
        torch.testing.assert_close(value, b["weights"][name], rtol=tolerance, atol=tolerance, msg=name)
    assert a["best"] == b["best"]
    assert len(a["epochs"]) == len(b["epochs"])
    for mine, theirs in zip(a["epochs"], b["epochs"], strict=True):
        assert mine.pop("metrics") == pytest.approx(theirs.pop("metrics"), rel=1e-9)
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_trajectory_is_that_of_one_process_with_twice_the_batch(two: list[dict[str, Any]], name: str) -> None:
    settings = replace(TRAININGS[name], batch_size=2 * TRAININGS[name].batch_size)
    alone = outcome(*train(settings))
    start = networks()[1].module.state_dict()
    assert any(not torch.allclose(alone["weights"][key], value, rtol=1e-3) for key, value in start.items())
    assert_same(two[0]["trainings"][name], alone)


@pytest.mark.parametrize("name", TRAININGS)
def test_all_processes_hold_the_same_weights_bit_for_bit(two: list[dict[str, Any]], name: str) -> None:
    mine, theirs = (found["trainings"][name] for found in two)
    assert all(torch.equal(value, theirs["weights"][key]) for key, value in mine["weights"].items())


def test_gram_and_fisher_are_those_of_all_samples(two: list[dict[str, Any]]) -> None:
    teacher, _, known = networks()
    gram = collect_gate_gram(teacher.module, known["groups"], batches(24, 1), cross_entropy)
    fisher = collect_parameter_fisher(teacher.module, batches(24, 1), cross_entropy)
    for found in two:
        assert found["gram"].num_samples == found["fisher"].num_samples == 24
        for name, matrix in gram.gram.items():
            torch.testing.assert_close(found["gram"].gram[name], matrix, rtol=1e-11, atol=1e-15)
        for name, values in fisher.fisher.items():
            torch.testing.assert_close(found["fisher"].fisher[name], values, rtol=1e-10, atol=1e-15)


def test_moments_and_filters_gradients_are_those_of_all_samples(two: list[dict[str, Any]]) -> None:
    teacher, _, known = networks()
    # Gradients are those of whole batches, which are therefore the same here.
    wanted = moments(teacher.module, known["groups"], batches(24, 4))
    for found in two:
        assert found["moments"]["counts"] == wanted["counts"]
        for kind in set(wanted) - {"counts"}:
            for name, values in wanted[kind].items():
                torch.testing.assert_close(found["moments"][kind][name], values, rtol=1e-10, atol=1e-14)


def test_a_loss_that_one_process_cannot_compute_ends_all(two: list[dict[str, Any]]) -> None:
    assert two[0]["broken"] == two[1]["broken"]
    assert "epoch 0" in two[0]["broken"] or "loss that is not finite" in two[0]["broken"]


def test_a_training_that_was_cut_off_is_taken_up_bit_for_bit_by_both(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["stopped"]
        whole = found["trainings"]["soft, averaged"]
        assert all(torch.equal(value, whole["weights"][key]) for key, value in found["resumed"]["weights"].items())
    assert 1 < two[0]["steps"][0] < two[0]["steps"][-1]
    assert two[1]["steps"] == []


def test_sums_means_and_batches_are_those_of_all_and_send_gradients_home(two: list[dict[str, Any]]) -> None:
    own = torch.arange(3.0, dtype=torch.float64)
    for number, found in enumerate(two):
        summed, averaged, stacked, by_mean, by_stack = found["collectives"]
        torch.testing.assert_close(summed, 2 * own + 1)
        torch.testing.assert_close(averaged, own + 0.5)
        torch.testing.assert_close(stacked, torch.cat([own, own + 1]))
        # d/dx of (1 + 4) ((x0 + x1) / 2)^2, and twice that of the stacked squares, which both processes computed.
        torch.testing.assert_close(by_mean, 5 * (own + 0.5))
        factors = torch.arange(1, 7).double()[3 * number : 3 * number + 3]
        torch.testing.assert_close(by_stack, 4 * factors.square() * (own + number))


def test_a_process_that_is_alone_has_nothing_to_share() -> None:
    x = torch.randn(3, 2)
    assert (num_processes(), rank()) == (1, 0)
    assert all(function(x) is x for function in (total, mean, gathered))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
