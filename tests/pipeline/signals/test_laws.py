"""Laws that every signal keeps, the named ones and all combinations of the four tables."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.artifacts import Batch
from secateur.errors import DataError, LoadError
from secateur.pipeline.signals import SIGNALS, TABLES, Combination, Evidence, Signal, collect_evidence, saliency
from secateur.pipeline.signals.evidence import Needs
from secateur.pipeline.structure import trace

COMBINATIONS = {
    combination.name: combination
    for names in itertools.product(*TABLES.values())
    for combination in [Combination(**dict(zip(TABLES, names, strict=True)))]
}
ALL: dict[str, Signal] = {**SIGNALS, **COMBINATIONS}
NEED_DATA = [name for name, signal in ALL.items() if signal.needs]
# One entry a named signal, and one an input for all combinations of it.
SETS = {
    **{name: {name: signal} for name, signal in SIGNALS.items()},
    **{i: {name: c for name, c in COMBINATIONS.items() if c.input == i} for i in TABLES["input"]},
}


# What is off its mean adds up to nothing but rounding, which a layer's norm may blow up.
EMPTY = {name for name in ALL if name.startswith(("centred/identity/sum", "centred/identity/mean"))}


def signed(signal: Signal) -> bool:
    return isinstance(signal, Combination) and signal.signed


@pytest.fixture(params=SETS)
def signals(request: pytest.FixtureRequest) -> dict[str, Signal]:
    return SETS[request.param]


def permuted(module: nn.Module, order: Tensor) -> nn.Module:
    """Reorder the channels of the first convolution, in place."""
    module.first.weight.data = module.first.weight.data[order]
    state = module.norm.state_dict()
    module.norm.load_state_dict({key: value[order] if value.ndim else value for key, value in state.items()})
    module.second.weight.data = module.second.weight.data[:, order]
    return module


ORDER = torch.randperm(8, generator=torch.Generator().manual_seed(3))


def dead(module: nn.Module) -> nn.Module:
    module.first.weight.data[5] = 0
    module.norm.weight.data[5], module.norm.bias.data[5], module.norm.running_mean[5] = 0, -1, 0
    return module


@pytest.fixture(scope="module")
def variants(network: Any, batch: Batch, collect: Any) -> Callable[[str], Evidence]:
    """Returns what all signals together need of a network, collected in one go."""
    split = list(zip(batch[0].split(7), batch[1].split(7), strict=True))

    @cache
    def collected(variant: str) -> Evidence:
        module = network()
        if variant in ("permuted", "dead"):
            module = permuted(module, ORDER) if variant == "permuted" else dead(module)
        batches = {"twice": [batch, batch], "split": split}.get(variant)
        return collect(module, ALL.values(), batches, seed=int(variant == "other seed"))

    return collected


def test_scores_are_finite_one_a_channel_and_not_negative_unless_signed(
    signals: dict[str, Signal], variants: Any, scores: Any
) -> None:
    evidence = variants("plain")
    for name, signal in signals.items():
        found = scores(evidence, signal)
        assert {group: len(score) for group, score in found.items()} == {"first": 8, "second": 6}, name
        for score in found.values():
            assert score.dtype == torch.float64, name
            assert torch.isfinite(score).all(), name
            assert signed(signal) or (score >= 0).all(), name


def test_scores_depend_on_the_seed_only_where_the_signal_is_random(
    signals: dict[str, Signal], variants: Any, scores: Any
) -> None:
    for name, signal in signals.items():
        one, same, new = (scores(variants(variant), signal) for variant in ("plain", "again", "other seed"))
        assert all(torch.equal(one[group], same[group]) for group in one), name
        assert all(torch.equal(one[group], new[group]) for group in one) == (name != "random"), name


def test_scores_follow_their_channels_when_those_are_permuted(
    signals: dict[str, Signal], variants: Any, scores: Any
) -> None:
    for name, signal in signals.items():
        if name != "random" and name not in EMPTY:
            before, after = scores(variants("plain"), signal), scores(variants("permuted"), signal)
            torch.testing.assert_close(after["first"], before["first"][ORDER], rtol=1e-6, atol=1e-12, msg=name)
            torch.testing.assert_close(after["second"], before["second"], rtol=1e-6, atol=1e-12, msg=name)


def test_samples_count_equally_however_often_they_come_and_are_batched(
    signals: dict[str, Signal], variants: Any, scores: Any
) -> None:
    for name, signal in signals.items():
        if name not in EMPTY:
            wanted = scores(variants("plain"), signal)
            for variant in ("twice", "split"):
                found = scores(variants(variant), signal)
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12, msg=name)


# The distance to others does not tell that a channel is dead, nor does what the loss would like it to be; signed scores
# have others below.
@pytest.mark.parametrize("name", sorted(SETS.keys() - {"random", "geometric-median", "gradient"}))
def test_a_dead_channel_is_worth_least(name: str, variants: Any, scores: Any) -> None:
    for each, signal in SETS[name].items():
        found = scores(variants("dead"), signal)["first"]
        if signed(signal):
            assert found[5] == 0, each
        else:
            assert found[5] == found.min(), each
            assert found[5] <= 1e-2 * found.mean(), each  # optimal brain surgery sees the damping


def test_the_network_is_left_as_it_was(network: Any, collect: Any, scores: Any) -> None:
    module = network().train()
    module.second.weight.requires_grad_(False)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    required = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    random = torch.get_rng_state()
    evidence = collect(module, ALL.values())
    for signal in ALL.values():
        scores(evidence, signal)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in module.named_parameters()} == required
    assert all(part.training for part in module.modules())
    assert [name for name, parameter in module.named_parameters() if parameter.grad is not None] == ["head.weight"]
    assert torch.equal(module.head.weight.grad, torch.ones_like(module.head.weight))
    assert not any(part._forward_hooks or part._backward_hooks for part in module.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_what_was_not_collected_is_told(network: Any, batch: Batch) -> None:
    (group, _) = trace(network(), (batch[0][:2],)).groups
    assert {"fisher", "taylor", "hrank", "i-spasp"} <= set(NEED_DATA)
    assert not {"l1", "bn-scale", "random", "weight/absolute/sum/none"} & set(NEED_DATA)
    for name in NEED_DATA:
        with pytest.raises(DataError, match=r"group first: found no (gate|statistics|weight|second moments)"):
            ALL[name](Evidence(module=network()), group)
    with pytest.raises(DataError, match="group first: found no costs"):
        Combination(input="weight", scaling="macs")(Evidence(module=network()), group)


def test_a_signal_that_needs_no_gradient_never_asks_for_the_loss(network: Any, batch: Batch) -> None:
    def loss(*_: Any) -> Tensor:
        raise AssertionError

    module = network()
    structure = trace(module, (batch[0][:2],))
    for name in ("apoz", "hrank", "i-spasp", "l1"):
        collect_evidence(SIGNALS[name].needs, module, structure, [batch], loss)
    assert not Needs()
    assert SIGNALS["apoz"].needs | SIGNALS["l1"].needs


@pytest.mark.parametrize("field", TABLES)
def test_an_unknown_component_is_told_with_the_known_ones(field: str) -> None:
    known = ", ".join(TABLES[field]).replace("*", r"\*")
    with pytest.raises(LoadError, match=rf"signal, {field}: found 'nothing'; wanted one of {known}"):
        Combination(**{"input": "weight", field: "nothing"})


def test_signed_scores_keep_their_order_when_they_are_made_saliency(
    network: Any, collect: Callable[..., Evidence], scores: Any
) -> None:
    signal = Combination(input="activation*gradient")
    evidence = collect(network(), [signal])
    before = torch.cat(list(scores(evidence, signal).values()))
    after = torch.cat(list(saliency(signal, evidence, evidence.structure.groups).values()))
    assert before.min() < 0
    torch.testing.assert_close(after, before - before.min())
