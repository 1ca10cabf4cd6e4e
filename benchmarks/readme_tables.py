"""Write the tables of README.md and docs/benchmarks.md from results/*.json: python benchmarks/readme_tables.py."""

import json
import re
from pathlib import Path
from typing import Any

from detail_tables import details
from gaze_tables import gaze
from pruning_tables import RESULTS, pruning_healed

ROOT = Path(__file__).parents[1]
MARKERS = re.compile(r"(<!-- results -->\n).*(<!-- /results -->)", re.DOTALL)
METRICS = {"auc": "AUC", "top1": "top-1"}
SETS = {"osie": "OSIE", "eyecrowd": "EyeCrowd", "scene500": "Scene500", "rendered": "rendered scenes"}


def tables() -> str:
    """Return the tables that stand between the README's markers."""
    recipes = json.loads((RESULTS / "recipes.json").read_text())
    teacher = json.loads((RESULTS / "gaze_teacher.json").read_text())
    lines = [
        "| recipe | samples | MACs | parameters | latency | speed-up (95 % interval) | quality | verdict | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in recipes.items():
        speedup, metric = run["speedup"], METRICS.get(run["primary"], run["primary"])
        lines.append(
            f"| `{name}` | {run['num_test_samples']:,} "
            f"| {run['macs_before'] / 1e6:.1f} M → {run['macs_after'] / 1e6:.1f} M "
            f"| {run['parameters_before'] / 1e3:,.0f} k → {run['parameters_after'] / 1e3:,.0f} k "
            f"| {run['latency_before_s'] * 1e3:.2f} → {run['latency_after_s'] * 1e3:.2f} ms "
            f"| {speedup['value']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f}) "
            f"| {metric} {run['metric_before']:.4f} → {run['metric_after']:.4f} | {run['verdict']} "
            f"| {run['machine']['cpu']}, {run['machine']['num_cores']} cores |"
        )
    lines += [
        "",
        "Measured with ONNX Runtime, one thread, batch 1, by `benchmarks/bench_recipes.py`.",
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
    return "\n".join([*lines, "", *gaze(), "", *structure(), "", *pruning_healed()]) + "\n"


def structure() -> list[str]:
    """Return the table of networks cut by this project and by Torch-Pruning, with what it says in words."""
    found, laws = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("structure", "structure_laws"))
    rows, machine = found["networks"], found["machine"]
    ours = {name: row["secateur"] for name, row in rows.items()}
    theirs = {name: row["torch-pruning"] for name, row in rows.items()}
    both = [row for row in rows.values() if all(tool["status"] == "cut" for tool in row.values())]
    total = {tool: sum(row[tool]["seconds"] for row in both) for tool in ("secateur", "torch-pruning")}
    export = sum(row["secateur"]["export_s"] for row in both)
    lines = [
        f"Half of all channels cut from {len(rows)} networks of torchvision, each in a process of its own"
        f" (`benchmarks/structure.py`, {machine['cpu']}, {machine['num_cores']} cores):",
        "",
        "| | Secateur | Torch-Pruning 1.6.1 |",
        "|---|---|---|",
        f"| networks cut | {len(_cut(ours))} | {len(_cut(theirs))} |",
        f"| at most 0.35 of the MACs left | {len(_far(ours))} | {len(_far(theirs))} |",
        f"| within twice the memory of the network and a forward | {len(_lean(ours))} | {len(_lean(theirs))} |",
        f"| the {len(both)} that both cut, together | {total['secateur']:.0f} s; torch.export alone {export:.0f} s "
        f"| {total['torch-pruning']:.0f} s |",
        *(f"| {name} | {_seconds(ours[name])}; torch.export alone {ours[name]['export_s']:.1f} s "
          f"| {_seconds(theirs[name])} |" for name in ("resnet50", "densenet201", "swin_t")),
        "",
    ]  # fmt: skip
    for name in sorted(_cut(ours) - _far(ours)):
        reasons = {r: n for r, n in ours[name]["pinned_channels"].items() if r != "output of the network"}
        why = max(reasons, key=lambda r: reasons[r]) if reasons else "only its outputs"
        lines += [f"- `{name}` keeps {ours[name]['macs_kept']:.2f} of its MACs. What stays whole there: {why}."]
    proved = {name: row for name, row in laws["networks"].items() if "masked_error" in row}
    worst = max(max(row["masked_error"].values()) for row in proved.values())
    others = [row["macs"][1] / row["macs"][0] for name, row in proved.items() if name.startswith("timm:")]
    lines += [
        "",
        f"{len(proved)} networks have gone through the laws of a cut (`benchmarks/structure_laws.py`): cut and masked"
        f" network differ by {worst:.0e} of the largest output at most, in double precision. {len(others)} of these"
        f" networks are timm's, each of another family; {sum(kept <= 0.35 for kept in others)} of them keep at most"
        " 0.35 of their MACs at half the channels.",
    ]
    return lines


def _cut(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in rows.items() if row["status"] == "cut"}


def _far(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name in _cut(rows) if rows[name]["macs_kept"] <= 0.35}


def _lean(rows: dict[str, dict[str, Any]]) -> set[str]:
    """Name the networks for which the process held less than twice the network and what a forward takes."""
    return {
        name for name in _cut(rows)
        if rows[name]["peak_bytes"] < rows[name]["network_bytes"] + 2 * rows[name]["forward_bytes"]
    }  # fmt: skip


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.1f} s" if row["status"] == "cut" else str(row["status"])


PAGES = {"README.md": tables, "docs/benchmarks.md": details}


def current(page: str) -> str:
    """Return a page with its tables as the results say."""
    return MARKERS.sub(lambda found: found[1] + PAGES[page]() + found[2], (ROOT / page).read_text())


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(current(page))
