"""Tables of what pruning leaves of networks, at once and after fine-tuning; `readme_tables` writes them."""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BASELINES = ("Torch-Pruning", "uniform width")
OURS = "Ours (Fisher signal, hierarchical allocation, least squares) with one part exchanged:"


def pruning_quality() -> list[str]:
    """Return the table of what is left of networks that are cut at once, in our ways and in the peer's."""
    found = json.loads((RESULTS / "pruning_quality.json").read_text())
    rows = found["rows"]
    seen = {
        f"{r['network']} {r['num_test']:,} test and {r['num_calibration']:,} calibration images": None for r in rows
    }
    return [
        "Trained networks cut at once, without fine-tuning (`benchmarks/pruning_quality.py`): accuracy in per cent,"
        f" mean and half the range over seeds, each with calibration images of its own; {', '.join(seen)}. Uncut:"
        f" {uncut(rows)}. Torch-Pruning {found['torch_pruning']} stands there twice: as it leaves the network, with the"
        " uncut one's batch statistics, and, as all of ours do, with these measured again on the calibration images"
        " where that lowers the loss on them. It does not follow the padded shortcuts of CIFAR's ResNets and cuts"
        " inside the blocks only, as `inner` does. Its GroupHessian importance is left out as broken: gradients are"
        " looked up by name and kept by parameter, so that only the last sample counts.",
        "",
        *accuracies(rows),
        "",
        *margins(rows, "fisher + least squares"),
        "![Accuracy against the share of multiply-adds left](../benchmarks/results/pruning_quality.png)",
    ]


def healed_picture() -> list[str]:
    """Return the picture of cut networks after equal fine-tuning, once it was drawn; the README has the table."""
    if not (RESULTS / "pruning_healed.png").exists():
        return []
    return [
        "## After the same fine-tuning",
        "",
        "The networks of the README's table (`benchmarks/pruning_healed.py`, `benchmarks/pruning_latency.py`):",
        "",
        "![Accuracy against the share of multiply-adds left and against milliseconds in ONNX Runtime]"
        "(../benchmarks/results/pruning_healed.png)",
        "",
    ]


def uncut(rows: list[dict[str, Any]]) -> str:
    """Return the mean accuracy of each network as it is."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["way"] == "uncut":
            found.setdefault(row["network"], []).append(row["accuracy"])
    return ", ".join(f"{name} {100 * sum(own) / len(own):.1f} %" for name, own in found.items())


def accuracies(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table of accuracies, a way a row and a network and budget a column."""
    cells: dict[str, dict[tuple[str, float], list[float]]] = {}
    for row in rows:
        if row["way"] != "uncut" and "accuracy" in row:
            cells.setdefault(row["way"], {}).setdefault((row["network"], row["ratio"]), []).append(row["accuracy"])
    columns = sorted({key for values in cells.values() for key in values})
    best = {key: max(sum(v[key]) / len(v[key]) for v in cells.values() if key in v) for key in columns}

    def cell(values: dict[tuple[str, float], list[float]], key: tuple[str, float]) -> str:
        if key not in values:
            return ""
        own = values[key]
        mean = sum(own) / len(own)
        text = f"{100 * mean:.1f}" + (f" ± {50 * (max(own) - min(own)):.1f}" if len(own) > 1 else "")
        return f"**{text}**" if mean == best[key] else text

    return [
        "| way | " + " | ".join(f"{network}, 1/{ratio:g} of the MACs" for network, ratio in columns) + " |",
        "|---|" + "---|" * len(columns),
        *(f"| {way} | " + " | ".join(cell(values, key) for key in columns) + " |" for way, values in cells.items()),
    ]


def pruning_healed() -> list[str]:
    """Return the tables of what equal fine-tuning makes of cut networks, in our ways and in the peer's."""
    found = json.loads((RESULTS / "pruning_healed.json").read_text())
    rows, devices = found["rows"], {run["device"]: None for run in found["runs"]}
    parts = [row for row in rows if row.get("ablation")]
    whole = {(row["network"], row["ratio"]) for row in parts}
    beside = [row for row in rows if row["way"] == "ours, at once" and (row["network"], row["ratio"]) in whole]
    tuned = {f"{r['network']} {r['steps']} steps of {r['batch_size']} images": None for r in rows if "steps" in r}
    return [
        f"Networks after the same fine-tuning ({', '.join(tuned)}), with distillation from the uncut network, each way"
        " at the learning rate that was best for it on held-out training images"
        f" (`benchmarks/pruning_healed.py`, on {', '.join(devices)}): accuracy in per cent on"
        f" {max(row.get('num_test', 0) for row in rows):,} test images, mean and half the range over seeds. Uncut:"
        f" {uncut(rows)}.",
        "",
        *accuracies([row for row in rows if not row.get("ablation")]),
        "",
        *margins(rows, "ours"),
        *equal_accuracy(found.get("at_equal_accuracy", [])),
        *([OURS, "", *accuracies([*beside, *parts]), ""] if parts else []),
        *pruning_healed_long(),
    ]


def margins(rows: list[dict[str, Any]], own: str) -> list[str]:
    """Say how far one of our ways is from the best of the peer's and uniform width, in points, seed by seed."""
    found: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
    for row in rows:
        if "accuracy" in row:
            at = found.setdefault((row["network"], row["ratio"]), {})
            at.setdefault(row["way"], {})[row["seed"]] = row["accuracy"]
    told = []
    for (network, ratio), ways in sorted(found.items()):
        mine = ways.get(own, {})
        apart = [
            [mine[seed] - theirs[seed] for seed in mine.keys() & theirs.keys()]
            for way, theirs in ways.items() if way.startswith(BASELINES) and "least squares" not in way
        ]  # fmt: skip
        if any(apart):
            least = min(filter(None, apart), key=statistics.mean)
            span = "one seed" if len(least) == 1 else f"{100 * min(least):+.1f} to {100 * max(least):+.1f}"
            told.append(f"{network} 1/{ratio:g} {100 * statistics.mean(least):+.1f} ({span})")
    best = "the best of Torch-Pruning's and uniform width"
    return [f"`{own}` less {best}, in points, seed by seed: {'; '.join(told)}.", ""] if told else []


def equal_accuracy(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of speed-ups over other ways' networks at their accuracy, where that was measured."""
    if not rows:
        return []
    columns = sorted({(row["network"], row["ratio"]) for row in rows})
    cells = {
        (r["own"], r["way"], r["network"], r["ratio"]): f"{r['speedup']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
        for r in rows
    }
    return [
        "How much faster ours are in ONNX Runtime, one thread, than another way's network of the same accuracy, where"
        " ours reach it (`benchmarks/pruning_latency.py`; the middle 95 % of rounds of timing):",
        "",
        "| | over | " + " | ".join(f"{network}, its 1/{ratio:g} of the MACs" for network, ratio in columns) + " |",
        "|---|---|" + "---|" * len(columns),
        *(f"| {own} | {way} | " + " | ".join(cells.get((own, way, *column), "") for column in columns) + " |"
          for own, way in dict.fromkeys((row["own"], row["way"]) for row in rows)),
        "",
    ]  # fmt: skip


def pruning_healed_long() -> list[str]:
    """Return what the first rows of a longer fine-tuning say, at the learning rate that was best for uniform widths."""
    found = json.loads((RESULTS / "pruning_healed_long.json").read_text())
    cut = [row for row in found["rows"] if row["way"] != "uncut"]
    uniform = {ratio: max(r["accuracy"] for r in cut if r["ratio"] == ratio and "rate" in r) for ratio in (4.0, 10.0)}
    others = {(row["way"], row["ratio"]): row["accuracy"] for row in cut if "rate" not in row}
    told = [
        f"at 1/{ratio:g} of the MACs ours {100 * others['ours', ratio]:.1f} %, uniform width {100 * best:.1f} %"
        for ratio, best in uniform.items()
    ]
    peer = 100 * others["Torch-Pruning, GroupMagnitude", 4.0]
    return [
        f"Long fine-tuning evens ways out. {cut[0]['network']} after {cut[0]['steps']} steps of {cut[0]['batch_size']}"
        f" images, one seed, uniform width at the learning rate that is best on the test images (one"
        f" {found['device']}): {told[0]},"
        f" GroupMagnitude {peer:.1f} %; {told[1]}.",
    ]
