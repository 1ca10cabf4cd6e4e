"""Say where a promise was lost, in words that a person can act on."""

import math
from collections.abc import Sequence

from secateur.artifacts import Finding, NetworkPractice, Roofline
from secateur.backends.practice.alignment import Trial
from secateur.backends.protocol import Backend

WORTH = 0.05
"""The share of a call from which on a loss is told."""
FREE = 1.02
"""How much longer a wider layer may take and still be free."""
SAME = 0.98
"""A layer that keeps this much of its multiply-adds was not pruned."""


def find(
    backend: Backend,
    roofline: Roofline,
    before: NetworkPractice,
    after: NetworkPractice,
    speedup: float,
    tried: Sequence[Trial],
) -> tuple[Finding, ...]:
    """Return the findings, the largest share of the compressed network's call first."""
    found = [
        *_slower(before, after),
        *_launch(roofline, after),
        *_memory(roofline, before, after),
        *_misaligned(backend, after, tried),
        *_reformat(after),
        *_unpruned(before, after, speedup),
        *_provider(backend, after),
    ]
    return tuple(sorted(found, key=lambda finding: -finding.share))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} µs"


def _slower(before: NetworkPractice, after: NetworkPractice) -> list[Finding]:
    was = {layer.name: layer for layer in before.layers}
    found = []
    for layer in after.layers:
        old = was.get(layer.name)
        if old is None or old.measured_s is None or layer.measured_s is None or layer.macs > SAME * old.macs:
            continue
        lost = (layer.measured_s - old.measured_s) / after.profiled_s
        if layer.measured_s > 1.05 * old.measured_s and lost > WORTH / 5:
            found.append(Finding(
                kind="slower", layer=layer.name, share=lost,
                told=f"{layer.name} takes {_us(layer.measured_s)} at {layer.inputs} x {layer.outputs} channels, not "
                f"{_us(old.measured_s)} at {old.inputs} x {old.outputs}: the runtime has no good kernel for the new "
                "widths; widths on the hardware's steps (prune.multiple) or a latency budget (prune.latency) avoid it",
            ))  # fmt: skip
    return found


def _launch(roofline: Roofline, after: NetworkPractice) -> list[Finding]:
    nodes_s = roofline.node_s * after.num_nodes  # what they take even with nothing to compute
    share = min(1.0, (max(roofline.call_s, after.overhead_s) + nodes_s) / after.profiled_s)
    if share < 2 * WORTH:
        return []
    return [Finding(
        kind="launch bound", layer="", share=share,
        told=f"{_percent(share)} of a call of {_us(after.profiled_s)} goes to calling {after.num_nodes} kernels, not "
        "to computing: narrower layers cannot shorten that; a larger batch, fewer layers (removing whole branches) or "
        "a runtime that fuses more would",
    )]  # fmt: skip


def _memory(roofline: Roofline, before: NetworkPractice, after: NetworkPractice) -> list[Finding]:
    bound = [layer for layer in after.layers if layer.bound == "memory"]
    share = sum(layer.seconds for layer in bound) / after.profiled_s
    if share < WORTH:
        return []
    worst = max(bound, key=lambda layer: layer.seconds)
    was = next((layer for layer in before.layers if layer.name == worst.name), worst)
    macs, num_bytes = was.macs / max(1, worst.macs), was.num_bytes / max(1, worst.num_bytes)
    return [Finding(
        kind="memory bound", layer=worst.name, share=share,
        told=f"{len(bound)} layers with {_percent(share)} of the call move more than they compute (fewer than "
        f"{roofline.ridge(after.working_set):.0f} multiply-adds a byte); the longest is {worst.name} with "
        f"{worst.intensity:.1f}, whose multiply-adds fell {macs:.1f}x and whose bytes {num_bytes:.1f}x: budget "
        "bytes or latency instead of multiply-adds, or quantise to eight bits",
    )]  # fmt: skip


def _misaligned(backend: Backend, after: NetworkPractice, tried: Sequence[Trial]) -> list[Finding]:
    seconds = {layer.name: layer.seconds for layer in after.layers}
    found = []
    for trial in tried:
        steps = (
            f"{trial.layer} went from {trial.before} to {trial.width} channels; {backend.name} works in steps of "
            f"{trial.step} here"
        )
        below = trial.down < trial.width and trial.down_s < SAME * trial.width_s
        if trial.up_s <= FREE * trial.width_s:
            up = f"{trial.up}, as before," if trial.up == trial.before else str(trial.up)
            advice = f"{up} is free ({_us(trial.up_s)} instead of {_us(trial.width_s)})"
            if below:
                advice += f" and {trial.down} would take {_percent(1 - trial.down_s / trial.width_s)} less"
        elif below:
            advice = (
                f"{trial.down} would take {_us(trial.down_s)} instead of {_us(trial.width_s)}, {trial.up} takes "
                f"{_us(trial.up_s)}"
            )
        else:
            continue
        faster = 1 - min(trial.width_s, trial.up_s, trial.down_s) / trial.width_s
        found.append(Finding(
            kind="misaligned", layer=trial.layer, share=faster * seconds[trial.layer] / after.profiled_s,
            told=f"{steps}: {advice}",
        ))  # fmt: skip
    return found


def _reformat(after: NetworkPractice) -> list[Finding]:
    share = after.reformat_s / after.profiled_s
    if share < WORTH:
        return []
    return [Finding(
        kind="reformat", layer="", share=share,
        told=f"{_percent(share)} of the call changes memory layouts between layers: widths on the hardware's steps "
        "(prune.multiple) and fewer operators that the runtime has no native layout for avoid it",
    )]  # fmt: skip


def _unpruned(before: NetworkPractice, after: NetworkPractice, speedup: float) -> list[Finding]:
    was = {layer.name: layer for layer in before.layers}
    whole = [
        layer for layer in after.layers if layer.name in was and layer.macs > SAME * was[layer.name].macs
    ]  # fmt: skip
    kept_s = sum(was[layer.name].seconds for layer in whole) + min(before.other_s, after.other_s)
    share = kept_s / before.profiled_s
    if share < 2 * WORTH or before.macs <= after.macs:
        return []
    cut = max(1.0, before.macs / max(1, after.macs))
    limit = 1 / share if share > 0 else math.inf
    names = ", ".join(layer.name for layer in sorted(whole, key=lambda layer: -was[layer.name].seconds)[:3])
    told = (
        f"{_percent(share)} of the original's call is in what was never pruned (Amdahl): the speed-up cannot exceed "
        f"{limit:.1f}x however much goes elsewhere; multiply-adds fell {cut:.1f}x, measured are {speedup:.1f}x"
    )
    whole_told = f"; kept whole: {names}" if names else ""
    return [Finding(kind="never pruned", layer="", share=min(1.0, kept_s / after.profiled_s), told=told + whole_told)]


def _provider(backend: Backend, after: NetworkPractice) -> list[Finding]:
    wanted = getattr(backend, "provider", None)
    if wanted is None:
        return []
    wrong = [layer for layer in after.layers if layer.provider and layer.provider != wanted]
    if not wrong:
        return []
    share = sum(layer.seconds for layer in wrong) / after.profiled_s
    return [Finding(
        kind="provider", layer=wrong[0].name, share=share,
        told=f"{len(wrong)} layers ran on {wrong[0].provider} and not on {wanted}, beginning with {wrong[0].name}: "
        "that provider does not know the operator; export in another opset, or replace it",
    )]  # fmt: skip
