"""What quantisation did: how it was calibrated, what stayed in float32, how fast the result is."""

import math

from secateur.artifacts import QUANTIZED, Summary
from secateur.report.formatting import seconds, significant, size, span
from secateur.report.tables.table import Table


def quantization_table(summary: Summary) -> Table:
    """List the facts about the quantised network; empty where there is none."""
    found, comparison = summary.quantization, summary.quantized_comparison
    rows: list[tuple[str, str]] = []
    if found is not None:
        ratios = ", ".join(f"{name} {_decibels(ratio)}" for name, ratio in found.signal_to_noise_db.items())
        rows += [
            ("Rounded for", found.target),
            ("Weights", f"{found.weight_bits} bits, {len(found.layers)} layers"),
            ("Activations", f"8 bits, {len(found.activations)} tensors, ranges by {found.calibrator}"),
            ("Corrections", ", ".join(found.corrections) or "none"),
            ("Calibration", f"{found.num_samples} samples, SHA-256 {found.samples_sha256[:12]}"),
            ("Signal to noise on them", ratios),
            ("Layers left in float32", "; ".join(f"{name} ({why})" for name, why in found.left.items()) or "none"),
            ("Not fused", "; ".join(f"{entry.node}: {entry.reason}" for entry in found.unfused) or "none"),
        ]  # fmt: skip
    if QUANTIZED in summary.exports:
        rows.append(("ONNX file", size(summary.exports[QUANTIZED].size_bytes)))
    if comparison is not None:
        latencies = f"{seconds(comparison.baseline.p50_s)} to {seconds(comparison.candidate.p50_s)}"
        rows += [
            ("Latency, median, original to quantised", latencies),
            ("Speed-up over the original", span("speedup", comparison.speedup)),
            ("Outcome", comparison.outcome),
        ]
    return Table(title="Quantisation", header=("Fact", "Value"), rows=tuple(rows))


def _decibels(ratio: float) -> str:
    return f"{significant(ratio)} dB" if math.isfinite(ratio) else "without noise"
