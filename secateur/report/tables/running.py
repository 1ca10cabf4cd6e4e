"""How it runs: exports, engines, latencies, and the machine they were taken on."""

from collections.abc import Mapping, Sequence

from secateur.artifacts import Comparison, EngineResult, ExportResult, Machine, Parity
from secateur.report.formatting import backend_label, percent, seconds, significant, size, span
from secateur.report.tables.table import Table


def exports_table(exports: Mapping[str, ExportResult]) -> Table:
    """List the ONNX files and how closely each agrees with its network."""
    rows = tuple(
        (name, e.path, size(e.size_bytes), str(e.opset), "yes" if e.dynamic_batch else "no", _parity(e.parity),
         e.sha256[:12])
        for name, e in exports.items()
    )  # fmt: skip
    header = ("Network", "File", "Size", "Opset", "Any batch", "Differs by (tolerance)", "SHA-256")
    return Table(title="Exports", header=header, rows=rows, right=frozenset({2, 3}), spare=(6, 4, 3))


def engines_table(engines: Mapping[str, Sequence[EngineResult]]) -> Table:
    """List every engine: how it was built and how closely it agrees, or why there is none."""
    rows = []
    for name, results in engines.items():
        for engine in results:
            built = engine.status == "built"
            options = ", ".join(f"{key}={value}" for key, value in engine.options.items())
            note = "; ".join(part for part in (engine.reason, options) if part)
            rows.append((
                name, f"{backend_label(engine.backend)} {engine.backend_version}".strip(), engine.status,
                engine.device, size(engine.size_bytes) if built and engine.size_bytes is not None else "",
                seconds(engine.build_s) if engine.build_s is not None else "", _parity(engine.parity), note,
            ))  # fmt: skip
    header = ("Network", "Backend", "Status", "Device", "Size", "Build", "Differs by (tolerance)", "Notes")
    return Table(title="Engines", header=header, rows=tuple(rows), right=frozenset({4, 5}), spare=(3, 5, 7))


def latency_table(comparison: Comparison) -> Table:
    """List the two latency distributions side by side."""
    sides = (comparison.baseline, comparison.candidate)
    fields = (
        ("mean", "mean_s"), ("median", "p50_s"), ("90th percentile", "p90_s"),
        ("95th percentile", "p95_s"), ("99th percentile", "p99_s"),
    )  # fmt: skip
    rows = [(label, *(seconds(getattr(side, name)) for side in sides)) for label, name in fields]
    rows.append(("coefficient of variation", *(percent(side.coefficient_of_variation) for side in sides)))
    rows.append(("throughput, samples a second", *(significant(side.throughput_per_s) for side in sides)))
    rows.append(("timed samples", *(f"{side.num_samples:,}" for side in sides)))
    header = ("Latency", "Before", "After")
    return Table(title="Latency", header=header, rows=tuple(rows), right=frozenset({1, 2}))


def measurement_table(comparison: Comparison) -> Table:
    """List how the latencies were measured."""
    rows = (
        ("Backend", backend_label(comparison.backend)),
        ("Batch", str(comparison.batch_size)),
        ("Threads", str(comparison.num_threads)),
        ("Design", f"{comparison.num_instances} fresh instances x {comparison.num_blocks} blocks x "
                   f"{comparison.num_iterations} iterations, paired and interleaved"),
        ("Speed-up", span("speedup", comparison.speedup)),
        ("Outcome", comparison.outcome),
        ("Resolution", percent(comparison.resolution) if comparison.resolution is not None else "not measured"),
        ("Stopped by", comparison.stopped_by),
        ("Other processes", "unknown" if comparison.others is None
                            else f"kept {significant(comparison.others, 2)} cores busy"),
        ("Warnings", "; ".join(comparison.warnings) or "none"),
    )  # fmt: skip
    return Table(title="Measurement", header=("Fact", "Value"), rows=rows)


def machine_table(machine: Machine) -> Table:
    """List the machine's facts."""
    clock = f"{machine.frequency_mhz:.0f} MHz" if machine.frequency_mhz is not None else "unknown"
    rows = (
        ("Processor", f"{machine.cpu}, {machine.num_cores} cores"),
        ("Memory", size(machine.memory_bytes)),
        ("Graphics", _graphics(machine)),
        ("Clock", f"{clock}, governor {machine.governor or 'unknown'}"),
        ("Load", f"{significant(machine.load_before, 2)} before, {significant(machine.load_after, 2)} after"),
        ("System", ", ".join(part for part in (machine.system, machine.container) if part)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("Commit", machine.commit or "unknown"),
    )
    return Table(title="Machine", header=("Fact", "Value"), rows=rows)


def _graphics(machine: Machine) -> str:
    if not machine.gpus:
        return "none"
    driver = f"driver {machine.driver}" if machine.driver else ""
    clock = f"{machine.gpu_clock_mhz:.0f} MHz" if machine.gpu_clock_mhz is not None else ""
    return ", ".join(part for part in ("; ".join(machine.gpus), driver, clock) if part)


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return ""
    return f"{significant(parity.worst_absolute, 2)} ({significant(parity.tolerance, trim=True)})"
