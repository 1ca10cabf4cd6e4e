"""Pruning meets its budget, proves its cuts, keeps its floors, and says why it cannot where it cannot."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, LatencyGrid, Metric, Model, Redundancy, Task
from secateur.calibration.gram import collect_gate_gram
from secateur.errors import BudgetError, DataError, EqualityError, LoadError, TraceError, TrainingError
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.proof import assert_cut_equals_masked
from secateur.pipeline.prune import Prune
from secateur.pipeline.redundancy import estimate
from secateur.pipeline.signals import Combination
from secateur.pipeline.structure import cut, trace
from secateur.pipeline.structure.layer_calls import latency_cost, layers_of
from secateur.workloads.classification.cifar10 import cifar10
from secateur.workloads.classification.resnet import resnet20
from secateur.workloads.classification.task import task as classification_task

torch.set_num_threads(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def sampled_loss(outputs: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    soft = outputs / temperature
    return cross_entropy(soft, torch.multinomial(soft.softmax(1).detach(), 1, generator=generator)[:, 0])


TASK = Task(
    name="shapes",
    loss=cross_entropy,
    metrics={"accuracy": Metric(per_sample=lambda o, t: (o.argmax(1) == t).double())},
    primary="accuracy",
    distill=lambda o, t, temperature: functional.kl_div(
        (o / temperature).log_softmax(1), (t / temperature).softmax(1), reduction="none"
    ).sum(1),
    sampled_loss=sampled_loss,
)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """A stream of 16 channels with two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = block(1, 16), block(16, 24), block(16, 24)
        self.one_out, self.two_out = (
            nn.Sequential(nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)) for _ in range(2)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.one_out(self.one(x)))
        x = functional.relu(x + self.two_out(self.two(x)))
        return self.head(x.mean((2, 3)))


def pictures(count: int, seed: int) -> TensorDataset:
    """Noisy pictures of four textures: horizontal, vertical, diagonal and checked."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (count,), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij")
    textures = torch.stack([rows % 2, columns % 2, (rows + columns) % 4 // 2, rows // 2 % 2 ^ columns // 2 % 2]).float()
    return TensorDataset(textures[targets, None] + 0.8 * torch.randn(count, 1, 10, 10, generator=generator), targets)


DATA = Data(train=pictures(512, 0), test=pictures(8, 1), calibration=pictures(128, 2))


def train(module: nn.Module, steps: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    images, targets = DATA.train.tensors
    module.train()
    for _ in range(steps):
        choice = torch.randint(0, len(images), (64,))
        loss = functional.cross_entropy(module(images[choice]), targets[choice])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


@cache
def trained() -> Model:
    torch.manual_seed(0)
    return Model(module=train(Residual(), 60), example_inputs=(DATA.train.tensors[0][:2],))


@cache
def redundancy() -> Redundancy:
    model = trained()
    structure = trace(model.module, model.example_inputs)
    images, targets = DATA.train.tensors
    gram = collect_gate_gram(model.module, structure.groups, [(images[:256], targets[:256])], cross_entropy)
    return estimate(structure, gram, 1e-4)


def test_three_rounds_meet_the_budget_exactly_cut_and_well() -> None:
    model, said = trained(), []
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    pruned, result = Prune(keep=0.25, rounds=3)(model, TASK, DATA, progress=said.append)

    assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())
    structure = trace(pruned.module, pruned.example_inputs)
    whole = trace(model.module, model.example_inputs).macs()
    assert result.macs_before == whole
    assert result.macs_after == structure.macs() <= 0.25 * whole
    assert result.parameters_after == structure.parameters() == sum(p.numel() for p in pruned.module.parameters())
    assert result.widths_after == structure.widths
    # Within one step: no group could have kept one channel more.
    for name, width in structure.widths.items():
        if width < result.widths_before[name]:
            assert structure.macs({name: width + 1}) > int(0.25 * whole)

    assert [r.target_macs for r in result.rounds] == [int(whole * 0.25 ** (t / 3)) for t in (1, 2, 3)]
    for r in result.rounds:
        assert r.macs <= r.target_macs
        assert r.target_parameters is None
        assert 0 <= r.cut_error < 1e-5
    assert result.rounds[-1].widths == result.widths_after
    assert any("round 2 of 3: from" in line for line in said)


def test_kept_indices_compose_over_rounds_to_the_original_channels() -> None:
    model = trained()
    pruned, result = Prune(keep=0.3, rounds=2, compensation="none", batch_norm=False)(model, TASK, DATA)
    structure = trace(model.module, model.example_inputs)
    assert set(pruned.kept) == {name for name, w in result.widths_after.items() if w < result.widths_before[name]}
    assert all(indices.dtype == torch.int64 for indices in pruned.kept.values())
    at_once = cut(model.module, structure, pruned.kept)
    state = at_once.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in pruned.module.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("signal", ["fisher", "obs", "taylor", "apoz", "hrank", "i-spasp", "geometric-median"])
@pytest.mark.parametrize("compensation", ["none", "gates", "least-squares"])
def test_a_network_on_a_gpu_is_pruned_there_as_on_the_cpu(signal: str, compensation: str) -> None:
    prune = Prune(keep=0.4, rounds=1, labels="true", signal=signal, compensation=compensation)
    on_cpu = trained()
    inputs = tuple(tensor.cuda() for tensor in on_cpu.example_inputs)
    on_gpu = replace(on_cpu.clone(), example_inputs=inputs)
    on_gpu.module.cuda()
    found, result = prune(on_gpu, TASK, DATA)
    wanted = prune(on_cpu, TASK, DATA)[1]
    assert {tensor.device.type for tensor in found.module.state_dict().values()} == {"cuda"}
    assert result.widths_after == wanted.widths_after
    assert result.rounds[0].loss_after_cut == pytest.approx(wanted.rounds[0].loss_after_cut, rel=1e-2, abs=1e-3)


def test_pruning_a_pruned_network_goes_on_counting_from_the_original() -> None:
    model = trained()
    once, _ = Prune(keep=0.6, rounds=1, compensation="none", batch_norm=False)(model, TASK, DATA)
    twice, result = Prune(keep=0.5, rounds=1, compensation="none", batch_norm=False)(once, TASK, DATA)
    assert result.macs_after <= 0.5 * trace(once.module, once.example_inputs).macs()
    at_once = cut(model.module, trace(model.module, model.example_inputs), twice.kept).state_dict()
    assert all(torch.equal(tensor, at_once[name]) for name, tensor in twice.module.state_dict().items())


@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_floors_are_never_broken(kind: Any) -> None:
    model = trained()
    floors = {group.name: group.num_effective for group in redundancy().groups}
    reachable = redundancy().macs_effective / redundancy().macs
    if kind == "parameters":
        reachable = redundancy().parameters_effective / redundancy().parameters
    keep = reachable + 0.02
    assert keep < 0.9
    _, result = Prune(keep=keep, kind=kind, rounds=2)(model, TASK, DATA, redundancy=redundancy())
    assert result.floors == floors
    assert all(width >= floors[name] for name, width in result.widths_after.items())
    assert all(width >= floors[name] for r in result.rounds for name, width in r.widths.items())
    _, free = Prune(keep=keep, kind=kind, rounds=1)(model, TASK, DATA)
    assert any(width < floors[name] for name, width in free.widths_after.items())


def test_a_budget_below_the_floors_is_refused_before_anything_is_cut() -> None:
    recovered: list[Model] = []

    def recover(model: Model) -> Model:
        recovered.append(model)
        return model

    with pytest.raises(BudgetError, match=r"budget: found .* wanted at least .* the smallest that these floors allow"):
        Prune(keep=0.01, rounds=5)(trained(), TASK, DATA, redundancy=redundancy(), recover=recover)
    assert recovered == []


def test_floors_of_another_estimator_are_not_mended_with_tau() -> None:
    found = redundancy().model_copy(update={"tau": None, "estimator": "energy", "threshold": 0.01})
    with pytest.raises(BudgetError, match="choose another threshold or estimator than energy, or set floors: false"):
        Prune(keep=0.01)(trained(), TASK, DATA, redundancy=found)


def test_a_budget_that_a_larger_tau_would_reach_is_refused_with_that_tau() -> None:
    found = redundancy()
    keep = found.macs_effective / found.macs - 0.02
    remedy = rf"Keep more, raise tau from {found.tau:g} to [\d.e-]+, or set floors: false"
    with pytest.raises(BudgetError, match=remedy):
        Prune(keep=keep)(trained(), TASK, DATA, redundancy=found)
    with pytest.raises(BudgetError, match="No floor is low enough: keep more, lower the multiple, or protect fewer"):
        Prune(keep=1e-6)(trained(), TASK, DATA, redundancy=found)


def test_the_redundancy_of_another_network_is_refused() -> None:
    pruned, _ = Prune(keep=0.5, rounds=1)(trained(), TASK, DATA)
    with pytest.raises(LoadError, match=r"redundancy, group .*: found .* channels; wanted .* as in the network"):
        Prune(keep=0.5)(pruned, TASK, DATA, redundancy=redundancy())


def test_dead_channels_go_first_and_leave_their_constants_in_biases() -> None:
    model, said = trained().clone(), []
    norm = model.module.one[1]
    with torch.no_grad():  # two channels are always 0, one is always 3
        norm.weight[[1, 4, 7]] = 0
        norm.bias[[1, 4]] = -1
        norm.bias[7] = 3
    whole = trace(model.module, model.example_inputs)
    pruned, result = Prune(keep=0.99, dead=True)(model, TASK, DATA, progress=said.append)
    assert result.dead is not None
    assert result.dead.num_channels == 3
    assert set(range(24)) - set(pruned.kept["one.0"].tolist()) == {1, 4, 7}
    assert result.rounds == ()
    assert result.macs_after == whole.macs() - (result.macs_before - result.dead.macs)
    assert said == [f"3 dead channels go; outputs move by {result.dead.residual:.2g}"]
    images = DATA.test.tensors[0]
    wanted, found = model.module(images), pruned.module(images)
    # Only the borders, where the reader pads with zeros, know of the constant that went.
    assert float(((found - wanted).abs().max() / wanted.abs().max()).detach()) == pytest.approx(
        result.dead.residual, rel=2
    )
    assert result.dead.residual < result.dead.residual_zero
    assert Prune(keep=1.0, dead=True)(trained(), TASK, DATA)[1].dead is None


def test_a_network_within_its_budget_comes_back_as_a_copy() -> None:
    model = trained()
    same, result = Prune(keep=1.0)(model, TASK, DATA)
    assert result.rounds == ()
    assert same.kept == {}
    assert same.module is not model.module
    assert (result.macs_after, result.widths_after) == (result.macs_before, result.widths_before)
    assert torch.equal(same.module(model.example_inputs[0]), model.module(model.example_inputs[0]))


def test_recovery_is_given_each_cut_network_and_its_result_goes_on() -> None:
    seen: list[int] = []

    def recover(model: Model) -> Model:
        seen.append(sum(p.numel() for p in model.module.parameters()))
        return replace(model, module=train(model.module, 15))

    pruned, result = Prune(keep=0.15, rounds=2, compensation="none")(trained(), TASK, DATA, recover=recover)
    assert len(seen) == 2
    assert seen[1] < seen[0]
    assert sum(p.numel() for p in pruned.module.parameters()) == seen[1] == result.parameters_after
    first, last = result.rounds
    assert last.loss_before == pytest.approx(first.loss_after_recovery, rel=1e-4)
    assert last.loss_after_recovery < last.loss_after_cut


def test_fisher_hurts_less_than_chance() -> None:
    losses = {
        signal: [
            Prune(keep=0.4, rounds=1, signal=signal, seed=seed)(trained(), TASK, DATA)[1].rounds[0].loss_after_cut
            for seed in range(2)
        ]
        for signal in ("fisher", "random")
    }
    assert max(losses["fisher"]) < min(losses["random"])


@pytest.mark.shared_data
def test_fisher_beats_norms_and_chance_on_a_trained_network_and_real_pictures(shared_data: Path) -> None:
    data = cifar10(shared_data / "cifar10")
    data = replace(data, calibration=data.test)  # the test pictures are the ones that are quick to decode
    module = resnet20(shared_data / "models/cifar10_resnet_akamaster/resnet20-12fca82f.th").eval()
    model = Model(module=module, example_inputs=(torch.zeros(2, 3, 32, 32),))
    fisher, norm, chance = (
        Prune(keep=0.7, rounds=1, compensation="none", signal=signal, samples=64, batch_size=32)(
            model, classification_task(), data
        )[1]
        for signal in ("fisher", "l2", "random")
    )
    assert fisher.macs_after <= 0.7 * fisher.macs_before
    losses = [result.rounds[0].loss_after_cut for result in (fisher, norm, chance)]
    assert losses[0] < 0.7 * min(losses[1:]), losses


@pytest.mark.parametrize(
    "signal",
    [
        Combination(input="weight*gradient", pointwise="second-order", scaling="macs"),
        Combination(input="centred*gradient", pointwise="second-order", scaling="places"),
        "taylor",
        "hrank",
        "i-spasp",
    ],
)
def test_any_signal_meets_the_budget(signal: str | Combination) -> None:
    result = Prune(keep=0.5, rounds=1, signal=signal, samples=32)(trained(), TASK, DATA)[1]
    assert 0.4 * result.macs_before < result.macs_after <= 0.5 * result.macs_before


def test_settled_batch_statistics_never_make_the_loss_worse() -> None:
    with_norms, without = (
        Prune(keep=0.3, rounds=1, batch_norm=batch_norm)(trained(), TASK, DATA)[1].rounds[0]
        for batch_norm in (True, False)
    )
    assert with_norms.widths == without.widths
    assert with_norms.loss_after_cut < without.loss_after_cut


@pytest.mark.parametrize("labels", ["true", "teacher", "sampled"])
def test_every_kind_of_label_leads_to_the_budget(labels: Any) -> None:
    model = trained()
    teacher = model.clone()
    with torch.no_grad():
        for parameter in teacher.module.parameters():
            parameter.mul_(1.1)
    _, result = Prune(keep=0.5, rounds=1, labels=labels)(model, TASK, DATA, teachers=[teacher])
    assert len(result.rounds) == 1
    assert result.macs_after <= result.macs_before * 0.5


def test_a_network_does_not_teach_itself() -> None:
    with pytest.raises(DataError, match="the distance to a network's own outputs is least"):
        Prune(keep=0.5, rounds=1, labels="teacher")(trained(), TASK, DATA)


def test_protected_modules_and_steps_are_kept() -> None:
    _, result = Prune(keep=0.5, rounds=1, protect=("one",), multiple=4)(trained(), TASK, DATA)
    assert not any(name.startswith("one.") for name in result.widths_before)
    assert any(pin.tensor.startswith("one.") and pin.reason == "kept by the user" for pin in result.pinned)
    assert all(width % 4 == 0 for width in result.widths_after.values())


@pytest.mark.parametrize(("name", "kind", "rounds"), [("resnet18", "macs", 2), ("mobilenet_v2", "parameters", 1)])
def test_real_networks_are_cut_exactly_to_their_budgets(name: str, kind: Any, rounds: int) -> None:
    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(num_classes=10)
    images = TensorDataset(torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,)))
    model = Model(module=module, example_inputs=(images.tensors[0][:2],))
    pruned, result = Prune(keep=0.4, kind=kind, rounds=rounds, batch_size=8)(
        model, TASK, Data(train=images, test=images)
    )
    before, after = (
        (result.macs_before, result.macs_after)
        if kind == "macs"
        else (result.parameters_before, result.parameters_after)
    )
    assert 0.395 * before < after <= 0.4 * before
    assert result.parameters_after == sum(p.numel() for p in pruned.module.parameters())
    assert all(r.cut_error < 1e-4 for r in result.rounds)
    assert pruned.module.training


def test_weights_that_are_not_finite_are_named() -> None:
    model = trained().clone()
    model.module.one[0].weight.data[0, 0, 0, :2] = float("nan")
    with pytest.raises(
        LoadError, match=r"network: found 2 of \d+ values of one\.0\.weight are NaN or infinite; wanted finite weights"
    ):
        Prune(keep=0.5)(model, TASK, DATA)
    model = trained().clone()
    model.module.stem[1].running_var[3] = float("inf")
    with pytest.raises(LoadError, match=r"found 1 of 16 values of stem\.1\.running_var"):
        Prune(keep=0.5)(model, TASK, DATA)


def test_a_recovery_that_diverges_or_changes_shapes_is_named() -> None:
    def diverge(model: Model) -> Model:
        model.module.head.weight.data.fill_(float("nan"))
        return model

    with pytest.raises(
        TrainingError, match="prune, round 1 of 2, after recovery: found a loss of nan; wanted a finite loss"
    ):
        Prune(keep=0.5, rounds=2)(trained(), TASK, DATA, recover=diverge)

    def grow(model: Model) -> Model:
        return replace(model, module=trained().clone().module)

    with pytest.raises(TraceError, match=r"prune, group .*: found .* channels; wanted .* as after the last cut"):
        Prune(keep=0.5, rounds=2)(trained(), TASK, DATA, recover=grow)


def test_a_cut_that_is_not_the_masked_network_is_refused() -> None:
    model = trained()
    structure = trace(model.module, model.example_inputs)
    keep = {"one.0": torch.arange(24) % 3 > 0}
    small = cut(model.module, structure, keep)
    inputs = DATA.train.tensors[0][:8]
    assert assert_cut_equals_masked(model.module, structure.groups, keep, small, inputs) < 1e-6
    wrong = {"one.0": torch.arange(24) % 3 > 1}
    with pytest.raises(EqualityError, match=r"cut, output 0: found a relative difference of .* wanted at most 0\.0001"):
        assert_cut_equals_masked(model.module, structure.groups, wrong, small, inputs)


@pytest.mark.parametrize("name", ALLOCATORS)
def test_every_allocator_prunes_to_the_budget_and_says_how_much_it_keeps(name: str) -> None:
    said: list[str] = []
    _, result = Prune(keep=0.5, rounds=1, allocator=ALLOCATORS[name])(trained(), TASK, DATA, progress=said.append)
    assert 0.45 * result.macs_before < result.macs_after <= 0.5 * result.macs_before
    assert 0 < result.rounds[0].saliency_kept <= result.rounds[0].saliency_bound <= 1
    assert any("of the saliency stays; at most" in line for line in said)


def test_bytes_are_those_of_the_parameters() -> None:
    model = trained()
    pruned, result = Prune(keep=0.5, kind="bytes", rounds=1)(model, TASK, DATA)
    before, after = (sum(p.nbytes for p in m.module.parameters()) for m in (model, pruned))
    assert trace(model.module, model.example_inputs).cost_terms("bytes").constant < before
    assert 0.45 * before < after <= 0.5 * before
    assert result.rounds[0].target_bytes == before // 2


def test_latencies_are_a_budget_like_any_other() -> None:
    model = trained()
    layers = layers_of(model.module, model.example_inputs)
    grids = [
        (layer.weight, LatencyGrid(rows=rows, columns=columns, latency_s=1e-6 * rows[:, None] * columns))
        for layer in layers
        for rows, columns in [
            tuple(np.unique(np.append(np.arange(4, n, 4), n)) for n in (layer.rows, layer.columns))
        ]
    ]  # fmt: skip
    pruned, result = Prune(keep=0.5, kind="latency", rounds=2)(model, TASK, DATA, latencies=grids)
    costs = [latency_cost(trace(m.module, m.example_inputs), grids) for m in (model, pruned)]
    widths = [result.widths_before, result.widths_after]
    before, after = (cost.total(cost.vector(w)) for cost, w in zip(costs, widths, strict=True))
    assert after <= 0.5 * before
    assert result.rounds[-1].target_latency_s == pytest.approx(0.5e-9 * before, rel=1e-6)
    with pytest.raises(BudgetError, match="found no latencies of the network's layers"):
        Prune(keep=0.5, kind="latency")(model, TASK, DATA)


@pytest.mark.parametrize("keep", [None, 0.2])
def test_pruning_stops_where_the_loss_would_rise_too_far(keep: float | None) -> None:
    model, allowed = trained(), 0.05
    _, result = Prune(keep=keep, allowed_loss=allowed, rounds=2, compensation="none")(model, TASK, DATA)
    before = result.rounds[0].loss_before
    assert all(r.loss_after_cut <= before + allowed for r in result.rounds)
    assert [r.stopped for r in result.rounds] == [False] * (len(result.rounds) - 1) + [True]
    assert result.macs_after < 0.9 * result.macs_before
    further = Prune(keep=0.95 * result.macs_after / result.macs_before, rounds=1, compensation="none")(
        model, TASK, DATA
    )[1]
    assert further.rounds[0].loss_after_cut > before


def test_a_loss_that_allows_nothing_cuts_nothing_and_one_that_allows_all_changes_nothing() -> None:
    damaged = Prune(keep=0.5, rounds=1, allowed_loss=1e6)(trained(), TASK, DATA)[1]
    assert damaged.widths_after == Prune(keep=0.5, rounds=1)(trained(), TASK, DATA)[1].widths_after
    assert not damaged.rounds[0].stopped
    bare = Prune(keep=0.05, rounds=1, allowed_loss=0.0, compensation="none", batch_norm=False, signal="random")
    _, same = bare(trained(), TASK, DATA)
    assert same.macs_after > 0.9 * same.macs_before


def test_one_at_a_time_removes_one_step_of_one_group_a_round() -> None:
    recovered: list[int] = []

    def recover(model: Model) -> Model:
        recovered.append(sum(p.numel() for p in model.module.parameters()))
        return model

    _, result = Prune(keep=0.7, schedule="one-at-a-time", multiple=4)(trained(), TASK, DATA, recover=recover)
    assert result.macs_after <= 0.7 * result.macs_before
    assert len(result.rounds) == len(recovered) > 2
    before = result.widths_before
    for done in result.rounds:
        after = {**before, **done.widths}
        narrowed = [before[name] - after[name] for name in before if after[name] != before[name]]
        assert narrowed == [4]
        before = after
    assert result.rounds[-2].macs > 0.7 * result.macs_before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, r"prune, keep: found 0\.0; wanted a fraction in \(0, 1\]"),
        ({"keep": 1.5}, r"prune, keep: found 1\.5"),
        ({"keep": None}, "prune: found neither keep nor allowed_loss"),
        ({"keep": None, "allowed_loss": -1.0}, r"prune, allowed_loss: found -1\.0; wanted a finite number"),
        ({"keep": 0.5, "rounds": 0}, "prune, rounds: found 0; wanted at least 1"),
        (
            {"keep": 0.5, "signal": "fischer"},
            r"prune, signal: found 'fischer'; wanted one of \['apoz', 'bn-scale', 'fisher', 'geometric-median', ",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((BudgetError, LoadError), match=message):
        Prune(**settings)
