"""What quantisation did: how it was calibrated, what stayed in float32, how fast the result is."""

import math
from collections import Counter

from secateur.artifacts import QUANTIZED, FinetuneResult, HalveResult, QuantizeResult, Summary
from secateur.report.formatting import seconds, significant, size, span
from secateur.report.tables.table import Table


def quantization_table(summary: Summary) -> Table:
    """List the facts about the quantised network; empty where there is none."""
    found, comparison = summary.quantization, summary.quantized_comparison
    rows: list[tuple[str, str]] = []
    if isinstance(found, HalveResult):
        rows += [
            ("Nodes in half precision", f"{found.num_converted}, {found.dtype}"),
            ("Given back to float32", ", ".join(found.kept) or "none"),
            ("Change of the outputs", f"{significant(found.error)} of them, root mean square"),
        ]
    if isinstance(found, QuantizeResult):
        ratios = ", ".join(f"{name} {_decibels(ratio)}" for name, ratio in found.signal_to_noise_db.items())
        rows += [
            ("Rounded for", found.target),
            ("Weights, stored", _widths(found)),
            ("Weights, computed", "8 bits"),
            ("Activations", f"8 bits, {len(found.activations)} tensors, ranges by {found.calibrator}"),
            ("Corrections", ", ".join(found.corrections) or "none"),
            ("Training", _trained(found.training)),
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


def _widths(found: QuantizeResult) -> str:
    """Say how many layers have weights of how many bits."""
    counts = Counter(layer.weight_bits for layer in found.layers)
    return ", ".join(f"{bits} bits in {counts[bits]} layers" for bits in sorted(counts, reverse=True)) or "none"


def _trained(stages: tuple[FinetuneResult, ...]) -> str:
    told = (f"{s.num_epochs} epochs, the best {s.best_epoch}" for s in stages)
    return "; ".join(told) or "none"


def _decibels(ratio: float) -> str:
    return f"{significant(ratio)} dB" if math.isfinite(ratio) else "without noise"
