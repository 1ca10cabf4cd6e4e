"""What the tables compute is what formulas on recorded activations and gradients say."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Batch
from secateur.pipeline.signals import SIGNALS, TABLES, Combination
from secateur.pipeline.structure import cut

EACH = {
    "identity": lambda u: u,
    "absolute": torch.abs,
    "square": lambda u: u**2,
    "second-order": lambda u: 0.5 * u**2 - u,
    "positive": lambda u: torch.where(u > 0, 1.0, 0.0).double(),
}
REDUCE = {
    "sum": lambda u: u.sum(1).mean(0),
    "mean": lambda u: u.mean(1).mean(0),
    "absolute": lambda u: u.abs().sum(1).mean(0),
    "square": lambda u: (u**2).sum(1).mean(0),
    "absolute-sum": lambda u: u.sum(1).abs().mean(0),
    "square-sum": lambda u: (u.sum(1) ** 2).mean(0),
}


def recorded(module: nn.Module, layers: list[str], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Return what each layer reads and the gradient of each sample's loss there, [batch, places, channels]."""
    seen: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append(inputs[0].clone())  # what this layer alone reads
        return seen[-1]

    hooks = [module.get_submodule(layer).register_forward_pre_hook(record) for layer in layers]
    loss = functional.cross_entropy(module(batch[0]), batch[1], reduction="sum")
    gradients = torch.autograd.grad(loss, seen)
    for hook in hooks:
        hook.remove()
    # Channels are on the second axis of maps and vectors alike.
    return tuple([t.detach().flatten(2) if t.ndim > 2 else t.detach()[..., None] for t in s] for s in (seen, gradients))


@pytest.mark.parametrize("layer", ["second", "head"])
def test_every_combination_of_activations_is_its_formula(layer: str, network: Any, batch: Batch, collect: Any) -> None:
    module, group = network(), {"second": "first", "head": "second"}[layer]
    ([x], [g]) = recorded(module, [layer], batch)
    x, g = x.mT, g.mT
    centred = x - x.mean((0, 1))
    looked_at = {
        "activation": x, "gradient": g, "activation*gradient": x * g, "centred": centred,
        "centred*gradient": centred * g,
    }  # fmt: skip
    assert set(looked_at) | {"weight", "weight-gradient", "weight*gradient"} == set(TABLES["input"])
    assert set(EACH) == set(TABLES["pointwise"])
    assert set(REDUCE) == set(TABLES["reduction"])
    signals = [Combination(input=i, pointwise=p, reduction=r) for i in looked_at for p in EACH for r in REDUCE]
    evidence = collect(module, signals)
    for signal in signals:
        wanted = REDUCE[signal.reduction](EACH[signal.pointwise](looked_at[signal.input]))
        found = signal(evidence, evidence.structure.group(group))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13, msg=signal.name)


def test_every_combination_of_weights_is_its_formula(network: Any, batch: Batch, collect: Any) -> None:
    module = network()
    weight = module.first.weight
    (gradient,) = torch.autograd.grad(functional.cross_entropy(module(batch[0]), batch[1]), weight)
    w, g = weight.detach().flatten(1).mT[None], gradient.flatten(1).mT[None]
    looked_at = {"weight": w, "weight-gradient": g, "weight*gradient": w * g}
    signals = [Combination(input=i, pointwise=p, reduction=r) for i in looked_at for p in EACH for r in REDUCE]
    evidence = collect(module, signals)
    for signal in signals:
        wanted = REDUCE[signal.reduction](EACH[signal.pointwise](looked_at[signal.input]))
        found = signal(evidence, evidence.structure.group("first"))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13, msg=signal.name)


def test_every_scaling_is_its_formula(network: Any, collect: Any) -> None:
    module = network()
    plain = Combination(input="activation*gradient", reduction="absolute-sum")
    signals = {s: Combination(input=plain.input, reduction=plain.reduction, scaling=s) for s in TABLES["scaling"]}
    evidence = collect(module, signals.values())
    structure = evidence.structure
    for group, width, places in (("first", 8, 36), ("second", 6, 1)):
        score = plain(evidence, structure.group(group))
        keep = {group: torch.arange(width) != 2}
        smaller = structure.widths | {group: width - 1}
        counts = [sum(p.numel() for p in each.parameters()) for each in (module, cut(module, structure, keep))]
        wanted = {
            "none": score, "places": score / places, "layer-l1": score / score.sum(),
            "layer-l2": score / (score**2).sum().sqrt(), "parameters": score / (counts[0] - counts[1]),
            "macs": score / (structure.macs() - structure.macs(smaller)),
        }  # fmt: skip
        assert set(wanted) == set(signals)
        for name, signal in signals.items():
            torch.testing.assert_close(signal(evidence, structure.group(group)), wanted[name], msg=name)


def test_what_a_stream_gets_from_its_readers_is_added_before_it_is_squared(
    residual: nn.Module, batch: Batch, collect: Any
) -> None:
    fisher, half = SIGNALS["fisher"], Combination(input="activation*gradient", reduction="square-sum")
    evidence = collect(residual, [fisher, half])
    stream = next(group for group in evidence.structure.groups if len(group.readers) == 3)
    entries, gradients = recorded(residual, [reader.weight.removesuffix(".weight") for reader in stream.readers], batch)
    products = [(x * g).sum(2) for x, g in zip(entries, gradients, strict=True)]
    together = sum(products).square().mean(0)
    torch.testing.assert_close(half(evidence, stream), together)
    torch.testing.assert_close(fisher(evidence, stream), together / 2)
    assert not torch.allclose(together, sum(product.square().mean(0) for product in products))


def test_named_signals_are_combinations(residual: nn.Module, batch: Batch, collect: Any) -> None:
    named = {name: SIGNALS[name] for name in ("taylor", "apoz", "mean-replacement", "l1")}
    norm = Combination(input="weight", pointwise="absolute", scaling="layer-l1")
    evidence = collect(residual, [*named.values(), norm])
    (inner,) = (group for group in evidence.structure.groups if group.name == "inner")
    ([x], [g]) = recorded(residual, ["back"], batch)
    taylor = (x * g).mean(2).abs().mean(0)
    found = {name: signal(evidence, inner) for name, signal in named.items()}
    torch.testing.assert_close(found["taylor"], taylor / taylor.norm())
    torch.testing.assert_close(found["apoz"], 1 - (x == 0).double().mean((0, 2)))
    wanted = ((x.mean((0, 2), keepdim=True) - x) * g).mean(2).abs().mean(0)
    torch.testing.assert_close(found["mean-replacement"], wanted)
    torch.testing.assert_close(found["l1"], 5 * norm(evidence, inner))


def test_samples_do_not_cancel_each_other(network: Any, batch: Batch, collect: Any) -> None:
    module, square = network(), Combination(input="activation*gradient", reduction="square-sum")
    ([x], [g]) = recorded(module, ["second"], batch)
    evidence = collect(module, [square])
    of_the_mean = (x * g).sum(2).mean(0).square()
    assert (square(evidence, evidence.structure.group("first")) > 1.5 * of_the_mean).all()


def test_a_constant_channel_costs_nothing_if_its_mean_stays(network: Any, batch: Batch, collect: Any) -> None:
    module = network()
    module.first.weight.data[3] = 0
    module.norm.bias.data[3], module.norm.running_mean[3] = 0.7, 0
    signals = [SIGNALS["mean-replacement"], SIGNALS["taylor"]]
    evidence = collect(module, signals)
    replaced, removed = (signal(evidence, evidence.structure.group("first")) for signal in signals)
    assert replaced[3] <= 1e-12 * replaced.max()
    assert removed[3] > 0.05 * removed.max()
