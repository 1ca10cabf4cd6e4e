"""Time the networks that `pruning_healed` kept, and tell how much faster ours are at equal accuracy.

ONNX Runtime's CPU engine, one thread and one picture, in rounds over all networks in changing order, when nothing else
runs. Accuracies are those after fine-tuning, means over seeds; latencies are those of the first seed's networks.
Between ours at two budgets, or the uncut network, accuracy is taken to change in proportion to the logarithm of the
latency. The speed-up over a peer's network, for each way in `OWN`, is its latency over that which ours needs for its
accuracy, the median of all rounds with the middle 95 % of them. Writes results/pruning_healed.json and .png; what is
there of networks that are in none of the folders stays.

    python benchmarks/pruning_latency.py /tmp/healed
"""

import argparse
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from healed_jobs import ABLATION, AT_ONCE, COMPARED, EIGHTS_AND_BLOCKS, UNIFORM, Job, read_rows
from pruning_ways import SUBJECTS, peers

from secateur import load
from secateur.artifacts import Model
from secateur.backends.machine import machine_facts
from secateur.pipeline.export import export

RESULTS = Path(__file__).parent / "results" / "pruning_healed.json"
OWN = ("ours", EIGHTS_AND_BLOCKS)
"""The ways that are compared with the others at equal accuracy."""


def exported(rows: list[dict[str, Any]], tar: Path, folder: Path) -> dict[str, Path]:
    """Return the ONNX files of the networks in an archive, by name."""
    with tarfile.open(tar) as archive:
        archive.extractall(folder, filter="data")
    found: dict[str, Path] = {}
    for row in rows:
        job = Job(network=row["network"], way=row["way"], ratio=row["ratio"], seed=row["seed"])
        if job.file not in found and (folder / job.file).is_dir():
            subject = SUBJECTS[job.network]
            network = load(subject.build(None), folder / job.file).float().eval()
            model = Model(module=network, example_inputs=subject.example())
            found[job.file] = export(model, folder / "onnx", name=job.file).path
    return found


def latencies(files: Mapping[str, Path], num_rounds: int, round_s: float) -> dict[str, list[float]]:
    """Return the median milliseconds of each file in every round."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        n: onnxruntime.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for n, f in files.items()
    }
    found: dict[str, list[float]] = {name: [] for name in sessions}
    generator = np.random.default_rng(0)
    for _ in range(num_rounds):
        for name in generator.permutation(list(sessions)):
            session, samples = sessions[name], list[float]()
            given = session.get_inputs()[0]
            feed = {given.name: np.zeros([1, *given.shape[1:]], dtype=np.float32)}
            end = time.perf_counter() + round_s
            while time.perf_counter() < end or len(samples) < 3:
                start = time.perf_counter()
                session.run(None, feed)
                samples.append(time.perf_counter() - start)
            found[name].append(1e3 * statistics.median(samples))
    return found


def means(rows: list[dict[str, Any]], network: str, way: str) -> dict[float, float]:
    """Return a way's mean accuracy by budget."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if (row["network"], row["way"]) == (network, way) and "accuracy" in row:
            found.setdefault(row["ratio"], []).append(row["accuracy"])
    return {ratio: statistics.mean(values) for ratio, values in found.items()}


def at_equal_accuracy(rows: list[dict[str, Any]], times: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Return how much faster ours are than each other way's networks, where ours reach both sides of its accuracy."""
    found: list[dict[str, Any]] = []
    for network in dict.fromkeys(row["network"] for row in rows):

        def timed(way: str, name: str = network) -> list[tuple[float, float, np.ndarray]]:
            points = [(a, r, times.get(Job(network=name, way=way, ratio=r, seed=0).file))
                      for r, a in means(rows, name, way).items()]  # fmt: skip
            return sorted((a, r, np.array(t)) for a, r, t in points if t is not None)

        for own in OWN:
            curve = sorted([*timed("uncut"), *timed(own)], key=lambda point: point[0])
            if len(curve) < 2:
                continue
            accuracies, logs = [a for a, _, _ in curve], np.log(np.stack([t for _, _, t in curve]))
            for way in (AT_ONCE, UNIFORM, *peers()):
                for accuracy, ratio, theirs in timed(way):
                    if accuracies[0] <= accuracy <= accuracies[-1]:
                        needed = np.array([np.interp(accuracy, accuracies, column) for column in logs.T])
                        low, middle, high = np.quantile(theirs / np.exp(needed), [0.025, 0.5, 0.975])
                        found.append({
                            "network": network, "own": own, "way": way, "ratio": ratio, "accuracy": accuracy,
                            "speedup": float(middle), "low": float(low), "high": float(high),
                        })  # fmt: skip
    return found


def draw(found: dict[str, Any]) -> None:
    """Draw accuracy against multiply-adds and against milliseconds."""
    import matplotlib.pyplot as plt

    rows, times = found["rows"], found["latency_ms"]
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, panels = plt.subplots(len(names), 2, figsize=(10, 4 * len(names)), squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        for way in (*COMPARED, *peers()):
            points = sorted(means(rows, name, way).items())
            if points:
                left.plot([1 / ratio for ratio, _ in points], [a for _, a in points], marker="o", label=way)
            timed = [(times.get(Job(network=name, way=way, ratio=r, seed=0).file), a) for r, a in points]
            timed = [(t, a) for t, a in timed if t is not None]
            if timed:
                right.plot([t for t, _ in timed], [a for _, a in timed], marker="o", label=way)
        left.set(title=f"{name}, after equal fine-tuning", xlabel="share of multiply-adds", ylabel="accuracy")
        right.set(title="ONNX Runtime, one thread", xlabel="ms a picture")
        for panel in (left, right):
            panel.set_xscale("log")
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


def rest(networks: set[str]) -> dict[str, Any]:
    """Return the results that are there, of other networks only."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = {
        part: [row for row in found.get(part, []) if row["network"] not in networks]
        for part in ("rows", "rates", "at_equal_accuracy")
    }
    files = {Job(network=r["network"], way=r["way"], ratio=r["ratio"], seed=0).file for r in kept["rows"]}
    return kept | {
        "runs": [run for run in found.get("runs", []) if set(run["networks"]) - networks],
        "latency_ms": {name: ms for name, ms in found.get("latency_ms", {}).items() if name in files},
        "latency_machines": {n: m for n, m in found.get("latency_machines", {}).items() if n not in networks},
    }


def main() -> None:
    """Time, compare, write, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="what pruning_healed wrote")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--round-s", type=float, default=0.3)
    arguments = parser.parse_args()
    made = [(place, read_rows(place / "rows.jsonl")) for place in arguments.folders]
    found = rest({row["network"] for _, rows in made for row in rows})
    fresh: list[dict[str, Any]] = []
    times: dict[str, list[float]] = {}
    for place, rows in made:
        networks = sorted({row["network"] for row in rows})
        found["runs"].append(json.loads((place / "facts.json").read_text()) | {"networks": networks})
        found["latency_machines"] |= dict.fromkeys(networks, machine_facts().model_dump())
        fresh += [row for row in rows if "tuning" not in row and "failed" not in row]
        found["rates"] += [row for row in rows if "tuning" in row]
        with tempfile.TemporaryDirectory() as folder:
            files = exported(fresh, place / "networks.tar", Path(folder))
            times |= latencies(files, arguments.rounds, arguments.round_s)
    order = ["uncut", *COMPARED, *peers(), *ABLATION]
    found["rows"] += fresh
    found["rows"].sort(key=lambda row: (row["network"], order.index(row["way"]), row["ratio"], row["seed"]))
    found["latency_ms"] |= {name: statistics.median(values) for name, values in times.items()}
    found["at_equal_accuracy"] += at_equal_accuracy(fresh, times)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    draw(found)


if __name__ == "__main__":
    main()
