"""Gates: lines that measured quantities must keep to, and the verdict over them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from secateur.artifacts import (
    QUANTIZED,
    Comparison,
    EngineResult,
    Evaluation,
    ExportResult,
    Findings,
    GateResult,
    Interval,
    PruneResult,
    Record,
    Verdict,
    realised_fraction,
)
from secateur.errors import DataError, RecipeError
from secateur.report.bootstrap import bootstrap_means, median_interval, percentile_interval

ORIGINAL = "original"
COMPRESSED = "compressed"
"""The keys of the two networks in every mapping of evaluations, exports and engines."""

FAILED_ENGINES = "failed_engines"
"""The quantity that every run is held to, be it gated or not."""

QUANTITIES: dict[str, str] = {
    "speedup": "measured latency before over after",
    "mac_ratio": "multiply-adds before over after",
    "parameter_ratio": "parameters before over after",
    "size_ratio": "bytes of the ONNX file before over after",
    "realised": "share of the multiply-adds' promise that the stopwatch confirms, ln(speedup) / ln(mac_ratio)",
    "parity": "worst absolute difference between two runtimes on the same inputs",
    FAILED_ENGINES: "engines that an installed runtime refused to build; none may, unless a gate says otherwise",
    "latency_s": "median latency after compression; the line is in seconds",
    "p99_s": "99th percentile of the latency of single calls after compression; the line is in seconds",
    "size_bytes": "bytes of the compressed network's ONNX file",
}
"""What every run measures, beside each metric ``<metric>`` and its loss ``<metric>_drop``."""

ROUNDED = f"{QUANTIZED}_"
ROUNDED_QUANTITIES = ("speedup", "size_ratio", "parity", "latency_s", "p99_s", "size_bytes")
"""What is measured of a quantised network too, beside its metrics and their losses, named ``quantized_<quantity>``."""

Line = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Gate(Record):
    """A line that a quantity must keep to: at least, at most, or between the two."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    quantity: str
    """What is held against the line: speedup, mac_ratio, parameter_ratio, size_ratio, realised, parity, latency_s,
    p99_s, size_bytes, failed_engines, a metric's name, or its name followed by _drop (how much worse it became). Where
    the recipe quantises, quantized_ before a name means the quantised network: quantized_speedup,
    quantized_size_ratio, quantized_parity, quantized_latency_s, quantized_p99_s, quantized_size_bytes, and
    the metrics."""
    at_least: Line | None = None
    """The smallest value that passes."""
    at_most: Line | None = None
    """The largest value that passes."""

    @model_validator(mode="after")
    def _bounds(self) -> "Gate":
        # ValueError, not a SecateurError: the recipe's reader collects these with their place in the file.
        if self.at_least is None and self.at_most is None:
            raise ValueError("a gate with at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least no larger than at_most (nothing lies above {self.at_least:g} and below "
                             f"{self.at_most:g})")  # fmt: skip
        return self


def with_defaults(gates: Sequence[Gate]) -> list[Gate]:
    """Return gates with the one that nobody has to ask for: no engine may have failed, unless a gate allows it."""
    asked = any(gate.quantity == FAILED_ENGINES for gate in gates)
    return [*gates] if asked else [*gates, Gate(quantity=FAILED_ENGINES, at_most=0)]


def allowed_quantities(metrics: Iterable[str], *, quantized: bool = False) -> tuple[str, ...]:
    """Return every name that a gate may use for a task with these metrics, and with a quantised network.

    Raises `RecipeError` where a metric bears the name of a quantity that every run measures.
    """
    names = list(QUANTITIES)
    for metric in metrics:
        for name in (metric, f"{metric}_drop"):
            if name in names:
                raise RecipeError(
                    f"metric {metric}", f"the name {name!r} twice",
                    "metrics that are named differently from the quantities of every run", "Rename the metric.",
                )  # fmt: skip
            names.append(name)
    measured = [name for name in names if name in ROUNDED_QUANTITIES or name not in QUANTITIES]
    return (*names, *(ROUNDED + name for name in measured)) if quantized else tuple(names)


def check_gates(gates: Sequence[Gate], metrics: Iterable[str], *, quantized: bool = False) -> None:
    """Refuse gates on unknown quantities before anything is computed; raises `RecipeError` with the allowed names."""
    rounded = [gate.quantity for gate in gates if gate.quantity.startswith(ROUNDED)]
    if rounded and not quantized:
        raise RecipeError(
            "gates", f"{rounded[0]!r} in a run without a quantised network", "a recipe that quantises",
            "Add `quantize: {}` to the recipe, or take the gate out.",
        )  # fmt: skip
    _refuse_unknown(gates, allowed_quantities(metrics, quantized=quantized))


def quantities(
    *,
    prune: PruneResult,
    evaluations: Mapping[str, Evaluation],
    exports: Mapping[str, ExportResult],
    engines: Mapping[str, Sequence[EngineResult]],
    comparison: Comparison,
    quantized_comparison: Comparison | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return everything that a gate can be put on, each with its interval; counts and sizes are points.

    Mappings are keyed ``original`` and ``compressed``, and ``quantized`` where there is such a network; the latter's
    quantities are there with its comparison. Parity is that of the two in float32 only: what rounding changes is no
    error of a runtime. Metrics are resampled over the test samples, see `network_intervals`. ``realised`` is an
    unbounded interval, which neither passes nor
    fails a gate, where no MACs were saved; so is ``p99_s`` where a comparison did not look at single calls.
    """
    mac_ratio = prune.macs_before / prune.macs_after
    exact = {network: exports[network] for network in (ORIGINAL, COMPRESSED)}
    whole = {network: built for network, built in engines.items() if network != QUANTIZED}
    measured = {
        "mac_ratio": _point(mac_ratio),
        "parameter_ratio": _point(prune.parameters_before / prune.parameters_after),
        "realised": _realised(mac_ratio, comparison.speedup),
        FAILED_ENGINES: _point(float(_num_failed(engines))),
        "parity": _point(_worst_parity(exact, whole)),
        **_deployed(comparison, exports[ORIGINAL], exports[COMPRESSED], num_resamples, seed),
    }
    networks = (ORIGINAL, COMPRESSED) if quantized_comparison is None else (ORIGINAL, COMPRESSED, QUANTIZED)
    metrics = network_intervals({n: evaluations[n] for n in networks}, num_resamples=num_resamples, seed=seed)
    allowed_quantities(evaluations[COMPRESSED].metrics)
    measured |= metrics[COMPRESSED]
    if quantized_comparison is not None:
        rounded = {
            **_deployed(quantized_comparison, exports[ORIGINAL], exports[QUANTIZED], num_resamples, seed),
            **metrics[QUANTIZED],
            "parity": _point(_worst_parity({}, {QUANTIZED: engines.get(QUANTIZED, ())})),
        }
        measured |= {ROUNDED + name: interval for name, interval in rounded.items()}
    return measured


def quantities_of(found: Findings, *, seed: int) -> dict[str, Interval]:
    """Return a run's quantities, drawn with the run's own seed."""
    return quantities(
        prune=found.prune, evaluations=found.evaluations, exports=found.exports, engines=found.engines,
        comparison=found.comparison, quantized_comparison=found.quantized_comparison, seed=seed,
    )  # fmt: skip


def _deployed(
    comparison: Comparison, original: ExportResult, export: ExportResult, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """Return how fast and how large a network is."""
    return {
        "speedup": comparison.speedup,
        "size_ratio": _point(original.size_bytes / export.size_bytes),
        "latency_s": median_interval(
            comparison.candidate.p50_s, comparison.samples_s["candidate"], num_resamples=num_resamples, seed=seed
        ),
        "p99_s": comparison.p99 or Interval(value=comparison.candidate.p99_s, low=-np.inf, high=np.inf),
        "size_bytes": _point(float(export.size_bytes)),
    }


def network_intervals(
    evaluations: Mapping[str, Evaluation], *, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Return ``<metric>`` and ``<metric>_drop`` of every network, [network][name], for the metrics all have in common.

    All networks share the resamples of test samples, so a hard sample is hard for every one of them. A drop is how much
    worse than the original network a network is, positive whichever way the metric points.
    """
    original = evaluations[ORIGINAL]
    names = [name for name in original.metrics if all(name in e.metrics for e in evaluations.values())]
    if not names:
        return {network: {} for network in evaluations}
    before = samples(ORIGINAL, original, names)
    sign = np.array([1.0 if original.higher_is_better.get(name, True) else -1.0 for name in names])
    columns = []
    for network, evaluation in evaluations.items():
        after = samples(network, evaluation, names)
        if before.shape != after.shape:
            raise DataError(
                "paired evaluations", f"{len(before)} samples (original) and {len(after)} ({network})",
                "the same test samples", "Evaluate all networks on the same set, in its order.",
            )  # fmt: skip
        columns += [after, sign * (before - after)]
    values = np.concatenate(columns, axis=1)
    draws = bootstrap_means(values, num_resamples, seed)
    means = values.mean(axis=0)
    found = iter([percentile_interval(float(mean), draws[:, i]) for i, mean in enumerate(means)])
    labels = [*names, *(f"{name}_drop" for name in names)]
    return {network: {label: next(found) for label in labels} for network in evaluations}


def samples(who: str, evaluation: Evaluation, names: Sequence[str]) -> np.ndarray:
    """Return an evaluation's samples as float64 [sample, metric]; `DataError` where one is missing or not finite."""
    missing = [name for name in names if not evaluation.per_sample.get(name)]
    if missing:
        raise DataError(
            f"evaluation of the {who} network", f"no samples of {', '.join(missing)}", "one value a test sample",
            "Keep the values of every sample with the mean.",
        )  # fmt: skip
    lengths = {name: len(evaluation.per_sample[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"evaluation of the {who} network", f"metrics of different lengths {lengths}", "one value a test sample",
            "Give a value for every sample and metric.",
        )  # fmt: skip
    values = np.array([evaluation.per_sample[name] for name in names], dtype=np.float64).T
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"evaluation of the {who} network", f"{names[column]} of sample {row} = {values[row, column]}",
            "finite values", "Look at that sample and at the metric's definition on it.",
        )  # fmt: skip
    return values


def judge(measured: Mapping[str, Interval], gates: Sequence[Gate]) -> Verdict:
    """Hold every gate against its interval: the whole interval on the right side passes, the whole on the wrong fails.

    An interval that straddles a line is undecided. Together: fail if one fails, else undecided if one is, else pass;
    without gates nothing was required, which passes. Raises `RecipeError` where a gate names an unknown quantity.
    """
    _refuse_unknown(gates, tuple(measured))
    results = tuple(
        GateResult(
            quantity=gate.quantity,
            at_least=gate.at_least,
            at_most=gate.at_most,
            measured=measured[gate.quantity],
            verdict=_side(measured[gate.quantity], gate),
        )
        for gate in gates
    )
    found = {result.verdict for result in results}
    if "fail" in found:
        return Verdict(verdict="fail", gates=results)
    return Verdict(verdict="undecided" if "undecided" in found else "pass", gates=results)


def _side(interval: Interval, gate: Gate) -> Literal["pass", "fail", "undecided"]:
    """Compare ends with lines; comparisons with an undefined value are all false, so it is undecided."""
    least = -np.inf if gate.at_least is None else gate.at_least
    most = np.inf if gate.at_most is None else gate.at_most
    if interval.high < least or interval.low > most:
        return "fail"
    return "pass" if interval.low >= least and interval.high <= most else "undecided"


def _point(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)


def _realised(mac_ratio: float, speedup: Interval) -> Interval:
    """Transform the speed-up's interval; the logarithm keeps the order of its ends."""
    value = realised_fraction(mac_ratio, speedup.value)
    low, high = (realised_fraction(mac_ratio, end) if end > 0 else -np.inf for end in (speedup.low, speedup.high))
    if value is None or low is None or high is None:
        return Interval(value=np.nan, low=-np.inf, high=np.inf, confidence=speedup.confidence)
    return Interval(value=value, low=low, high=high, confidence=speedup.confidence)


def _worst_parity(exports: Mapping[str, ExportResult], engines: Mapping[str, Sequence[EngineResult]]) -> float:
    built = [engine.parity for results in engines.values() for engine in results if engine.parity is not None]
    parities = [*(export.parity for export in exports.values()), *built]
    return max((parity.worst_absolute for parity in parities), default=np.nan)


def _refuse_unknown(gates: Sequence[Gate], allowed: Sequence[str]) -> None:
    for gate in gates:
        if gate.quantity not in allowed:
            raise RecipeError(
                "gates", f"the quantity {gate.quantity!r}", f"one of {', '.join(allowed)}", "Correct the gate's name."
            )


def _num_failed(engines: Mapping[str, Sequence[EngineResult]]) -> int:
    return sum(engine.status == "failed" for built in engines.values() for engine in built)
