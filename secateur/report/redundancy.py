"""Say how redundancy was estimated, and what else was found: in sentences, and as JSON with what follows from it."""

from typing import Any

from secateur.artifacts import Redundancy
from secateur.report.formatting import percent, significant

MATRIX_NAMES = {"gate": "gate gradients", "weight-gradient": "filters' gradients", "activation": "activations"}


def rule_told(redundancy: Redundancy) -> str:
    """Say whose spectra were counted how."""
    spectra = f"the spectra of {MATRIX_NAMES.get(redundancy.matrix, redundancy.matrix)}"
    if redundancy.tau is not None:
        return f"a tail of tau = {redundancy.tau:.3g} nats in {spectra}"
    threshold = "" if redundancy.threshold is None else f" (threshold {redundancy.threshold:g})"
    return f"{redundancy.estimator}{threshold} of {spectra}"


def found_told(redundancy: Redundancy) -> tuple[str, ...]:
    """Say how tau was found, which channels are dead and what R is, where there is something to say."""
    told = (_calibration(redundancy), _dead(redundancy), _removal(redundancy), _covering(redundancy))
    return tuple(line for line in told if line)


def redundancy_json(redundancy: Redundancy) -> dict[str, Any]:
    """Return all of an estimate with the superfluous share of every group and the network's largest compression."""
    found = redundancy.model_dump(mode="json")
    groups = [told | {"redundancy": g.redundancy} for told, g in zip(found["groups"], redundancy.groups, strict=True)]
    return found | {"groups": groups, "maximum_compression": redundancy.maximum_compression}


def _calibration(redundancy: Redundancy) -> str:
    done = redundancy.calibration
    if done is None:
        return ""
    return (
        f"tau was found by {len(done.probes)} measurements: cut to its floors, without training, the network's loss on "
        f"{done.num_samples:,} held-out samples goes from {significant(done.loss_before)} to {significant(done.loss)}; "
        f"an increase of {significant(done.loss_increase, trim=True)} was allowed."
    )


def _dead(redundancy: Redundancy) -> str:
    dead = [group.dead for group in redundancy.groups if group.dead is not None]
    total = sum(len(found.all) for found in dead)
    if not total:
        return ""
    zero, constant, unread = (sum(len(getattr(d, kind)) for d in dead) for kind in ("zero", "constant", "unread"))
    verb = "channel is" if total == 1 else "channels are"
    return f"{total:,} {verb} dead: {zero:,} always zero, {constant:,} otherwise constant, {unread:,} with no reader."


def _removal(redundancy: Redundancy) -> str:
    done = redundancy.removal
    if done is None:
        return ""
    macs, parameters = percent(1 - done.macs / redundancy.macs), percent(1 - done.parameters / redundancy.parameters)
    return (
        f"Without {done.num_channels:,} of them, as many as the step of widths allows, {macs} of the MACs and "
        f"{parameters} of the parameters go; outputs then move by {significant(done.residual, 2)} of the largest with "
        f"the means carried on by biases, by {significant(done.residual_zero, 2)} without."
    )


def _covering(redundancy: Redundancy) -> str:
    known = {group.name: group.covering.redundancy for group in redundancy.groups if group.covering is not None}
    if not known:
        return ""
    name = max(known, key=lambda group: known[group])
    return (
        f"R tells how many filters there are for each that is needed to be near all others, by their directions; it is "
        f"1 where none is near another. The greatest is {significant(known[name])}, in {name}."
    )
