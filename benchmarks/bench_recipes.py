"""What the recipes reach on this machine: run them and write results/recipes.json.

Finished steps are taken from the run folder, so that a run that was just made is not made again:

    python benchmarks/bench_recipes.py                       # the demo
    SECATEUR_DATA=... python benchmarks/bench_recipes.py gaze-demo gaze-osie cifar10-resnet20
"""

import argparse
import json
from pathlib import Path

from secateur import read_recipe, run
from secateur.artifacts import Summary

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"


def figures(summary: Summary) -> dict[str, object]:
    """Return what the README's table says of one run."""
    before, after = summary.evaluations["original"], summary.evaluations["compressed"]
    comparison = summary.comparison
    return {
        "data": summary.data,
        "primary": summary.primary,
        "metric_before": before.metrics[summary.primary],
        "metric_after": after.metrics[summary.primary],
        "metrics": {"original": before.metrics, "compressed": after.metrics},
        "num_test_samples": after.num_samples,
        "macs_before": summary.prune.macs_before,
        "macs_after": summary.prune.macs_after,
        "parameters_before": summary.prune.parameters_before,
        "parameters_after": summary.prune.parameters_after,
        "latency_before_s": comparison.baseline.p50_s,
        "latency_after_s": comparison.candidate.p50_s,
        "speedup": comparison.speedup.model_dump(),
        "realised": summary.realised,
        "resolution": comparison.resolution,
        "warnings": comparison.warnings,
        "backend": comparison.backend,
        "num_threads": comparison.num_threads,
        "batch_size": comparison.batch_size,
        "parity": max(export.parity.worst_absolute for export in summary.exports.values()),
        "verdict": summary.verdict.verdict,
        "durations_s": summary.durations_s,
        "machine": comparison.machine.model_dump(),
    }


def main() -> None:
    """Run the recipes that are named and merge their figures into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=["gaze-demo"])
    parser.add_argument("--folder", default="runs")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.recipes:
        recipe = read_recipe(ROOT / "recipes" / f"{name}.yaml", [f"folder={arguments.folder}"])
        found[name] = figures(run(recipe).summary)
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
