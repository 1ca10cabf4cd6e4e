"""The numbers of each stage of a run, flat, for its manifest."""

from secateur.artifacts import QUANTIZED, Summary


def stage_numbers(summary: Summary) -> dict[str, dict[str, float]]:
    """Return what each stage came to, by stage and by name of the number; seconds and bytes where the name says so."""
    prune, finetune, comparison = summary.prune, summary.finetune, summary.comparison
    speedup, gates = comparison.speedup, summary.verdict.gates
    built = [engine for engines in summary.engines.values() for engine in engines]
    losses = {"loss": finetune.epochs[-1].loss} if finetune.epochs else {}
    metrics = {
        network: {f"{metric}_{network}": value for metric, value in found.metrics.items()}
        for network, found in summary.evaluations.items()
    }
    files = {
        network: {f"size_bytes_{network}": export.size_bytes, f"parity_{network}": export.parity.worst_relative}
        for network, export in summary.exports.items()
    }
    quantized = {**metrics.pop(QUANTIZED, {}), **files.pop(QUANTIZED, {})}
    timed = summary.quantized_comparison
    rounded = (
        {}
        if timed is None
        else {"speedup_quantized": timed.speedup.value, "latency_s_quantized": timed.candidate.p50_s}
    )
    return {
        "estimate": {f"superfluous_{name}": share for name, share in summary.redundancy.maximum_compression.items()},
        "prune": {
            "macs_before": prune.macs_before, "macs_after": prune.macs_after,
            "parameters_before": prune.parameters_before, "parameters_after": prune.parameters_after,
            "cut_error": max((done.cut_error for done in prune.rounds), default=0.0),
        },
        "finetune": {"epochs": len(finetune.epochs), "best_epoch": finetune.best_epoch, **losses},
        "evaluate": {name: value for found in metrics.values() for name, value in found.items()},
        "export": {name: value for found in files.values() for name, value in found.items()},
        **({"quantize": quantized} if quantized else {}),
        "build": {status: sum(e.status == status for e in built) for status in ("built", "skipped", "failed")},
        "measure": {
            "speedup": speedup.value, "speedup_low": speedup.low, "speedup_high": speedup.high,
            "latency_s_original": comparison.baseline.p50_s, "latency_s_compressed": comparison.candidate.p50_s,
            "p99_s_compressed": comparison.candidate.p99_s, **rounded,
        },
        "gate": {v: sum(gate.verdict == v for gate in gates) for v in ("pass", "fail", "undecided")},
    }  # fmt: skip
