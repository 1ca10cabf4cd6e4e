"""Write the README's tables from benchmarks/results/*.json: python benchmarks/readme_tables.py."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARKERS = re.compile(r"(<!-- results -->\n).*(<!-- /results -->)", re.DOTALL)
METRICS = {"auc": "AUC", "top1": "top-1"}
SETS = {"osie": "OSIE", "eyecrowd": "EyeCrowd", "scene500": "Scene500", "rendered": "rendered scenes"}


def tables() -> str:
    """Return the tables that stand between the README's markers."""
    recipes = json.loads((ROOT / "benchmarks" / "results" / "recipes.json").read_text())
    teacher = json.loads((ROOT / "benchmarks" / "results" / "gaze_teacher.json").read_text())
    lines = [
        "| recipe | test samples | MACs | parameters | latency | speed-up (95 % interval) | quality | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in recipes.items():
        speedup, metric = run["speedup"], METRICS.get(run["primary"], run["primary"])
        lines.append(
            f"| `{name}` | {run['num_test_samples']:,} "
            f"| {run['macs_before'] / 1e6:.1f} M → {run['macs_after'] / 1e6:.1f} M "
            f"| {run['parameters_before'] / 1e3:,.0f} k → {run['parameters_after'] / 1e3:,.0f} k "
            f"| {run['latency_before_s'] * 1e3:.2f} → {run['latency_after_s'] * 1e3:.2f} ms "
            f"| {speedup['value']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f}) "
            f"| {metric} {run['metric_before']:.4f} → {run['metric_after']:.4f} | {run['verdict']} |"
        )
    machines = {(run["machine"]["cpu"], run["machine"]["num_cores"]) for run in recipes.values()}
    told = "; ".join(f"{cpu}, {cores} cores" for cpu, cores in sorted(machines))
    lines += [
        "",
        f"Measured with ONNX Runtime, one thread, batch 1 ({told}) by `benchmarks/bench_recipes.py`.",
        "",
        "The gaze network that both gaze recipes start from, on pictures that it was not trained on"
        " (`benchmarks/train_gaze_teacher.py`):",
        "",
        "| test set | pictures | AUC | NSS | centre bias AUC | centre bias NSS |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in SETS.items():
        row = teacher["test"][name]
        prefix = "fitted_centre_bias" if "fitted_centre_bias_auc" in row else "centre_bias"
        lines.append(
            f"| {title} | {row['num_pictures']:.0f} | {row['auc']:.3f} | {row['nss']:.2f} "
            f"| {row[f'{prefix}_auc']:.3f} | {row[f'{prefix}_nss']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def current(readme: str) -> str:
    """Return the README with its tables as the results say."""
    return MARKERS.sub(lambda found: found[1] + tables() + found[2], readme)


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
