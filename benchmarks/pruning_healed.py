"""Cut trained CIFAR-10 networks to a half, a quarter and a tenth, train all of them equally, and compare.

Each way of `cifar_ways` that is compared makes its networks of the same calibration images; all settle, and then take
the same few steps of the same fine-tuning, with distillation from the uncut network, on the same batches in the same
order. A way that cannot reach a budget, as in steps of eight channels, has no row there. Every seed draws the
calibration images and the batches anew. The ablation takes away or exchanges one part of ``ours`` at a time. Accuracy
is that on ``--test`` images of the test set. The networks of the first seed are kept as ONNX files in ``--files``, and
with ``--latency`` these are timed by ONNX Runtime, one thread and one image, in rounds over all files, when nothing
else runs. Writes results/pruning_healed.json and .png.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_healed.py --weights cifar10_resnet_akamaster --data cifar10 --files /tmp/healed
    python benchmarks/pruning_healed.py --latency --files /tmp/healed
"""

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from cifar_ways import NETWORKS, TASK, Evidences, Ours, accuracy, ours, peer, peers, settled
from networks import macs
from torch import nn

from secateur.artifacts import Batch, Data, Model
from secateur.backends.machine import machine_facts
from secateur.calibration.batches import batches
from secateur.errors import BudgetError
from secateur.pipeline.export import export
from secateur.pipeline.finetune import DistillationWeights, Finetune
from secateur.workloads.classification import CifarResNet, cifar10

RESULTS = Path(__file__).parent / "results" / "pruning_healed.json"
RATIOS = (2.0, 4.0, 10.0)
OURS = Ours(compensation="least-squares")
COMPARED = {
    "ours": OURS,
    "ours, widths in eights": replace(OURS, multiple=8),
    "uniform width, l2": Ours(signal="l2", allocator="uniform"),
}
ABLATION_RATIO = 4.0
ABLATION = {
    "joint signal": replace(OURS, signal="joint"),
    "obs signal": replace(OURS, signal="obs"),
    "l2 signal": replace(OURS, signal="l2"),
    "no cost term": replace(OURS, allocator="ranked"),
    "no compensation": Ours(),
    "four rounds": replace(OURS, rounds=4),
    "effective filters as floors": replace(OURS, floors=True),
}
FINETUNE = Finetune(
    learning_rate=0.002, batch_size=128, temperature=4.0, validation_share=0.0,
    weights=DistillationWeights(task=0.1, output=0.9, feature=0.0),
)  # fmt: skip
WITHOUT_TEACHER = replace(FINETUNE, weights=DistillationWeights(task=1.0, output=0.0, feature=0.0))
"""The same with labels alone."""


def file_name(network: str, way: str, ratio: float) -> str:
    """Return what the ONNX file of a network is called, without its ending."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{network}-{way}-{ratio:g}".lower())


def cut_networks(
    network: CifarResNet, ratio: float, samples: list[Batch], evidence: Evidences
) -> Iterator[tuple[str, nn.Module, Finetune]]:
    """Yield the name of each way, what it makes of the network, and the fine-tuning that follows."""
    budget = math.floor(macs(network, (torch.zeros(1, 3, 32, 32),)) / ratio)
    for name, way in COMPARED.items():
        try:
            small = ours(way, network, budget, samples, evidence)
        except BudgetError as error:
            print(f"{name} at 1/{ratio:g}: {error}", flush=True)
            continue
        yield name, small, FINETUNE
        if way is OURS and ratio == ABLATION_RATIO:
            yield "no distillation", small, WITHOUT_TEACHER
    for name, importance in peers().items():
        left = peer(importance, network, budget, samples)
        if left is not None:
            yield name, settled(left, samples), FINETUNE
    if ratio == ABLATION_RATIO:
        for name, way in ABLATION.items():
            yield name, ours(way, network, budget, samples, evidence), FINETUNE


def measure(name: str, weights: Path, data: Data, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Cut one network in all ways, train, and tell what came of it, one way after the other."""
    build, file = NETWORKS[name]
    network = build(weights / file).eval()
    test = list(batches(data.test, 250, limit=arguments.test, seed=0))
    example = (torch.zeros(1, 3, 32, 32),)
    whole = macs(network, example)
    facts = {"network": name, "seed": 0, "ratio": 1.0}
    export(Model(module=network, example_inputs=example), arguments.files, name=file_name(name, "uncut", 1))
    yield {**facts, "way": "uncut", "macs": whole, "accuracy": accuracy(network, test)}
    teacher = Model(module=network, example_inputs=example)
    for seed in range(arguments.seeds):
        samples = list(batches(data.calibration, 32, limit=512, seed=seed))
        evidence = Evidences(network, samples, seed)
        for ratio in RATIOS:
            for way, small, finetune in cut_networks(network, ratio, samples, evidence):
                before, start = accuracy(small, test), time.perf_counter()
                student = Model(module=small, example_inputs=example)
                short = replace(finetune, num_steps=arguments.steps, seed=seed)
                healed, _ = short(student, teacher, TASK, data)
                if seed == 0:
                    export(healed, arguments.files, name=file_name(name, way, ratio))
                yield {
                    "network": name, "way": way, "ratio": ratio, "seed": seed, "macs": macs(small, example),
                    "accuracy_before": before, "accuracy": accuracy(healed.module, test),
                    "finetune_s": time.perf_counter() - start,
                }  # fmt: skip


def latencies(folder: Path, num_rounds: int = 15, round_s: float = 0.4) -> dict[str, float]:
    """Return the median milliseconds of each file in ONNX Runtime, of rounds over all files in changing order."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    image = {"x": np.zeros((1, 3, 32, 32), dtype=np.float32)}
    sessions = {f.stem: onnxruntime.InferenceSession(f, options, providers=["CPUExecutionProvider"])
                for f in sorted(folder.glob("*.onnx"))}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in sessions}
    generator = np.random.default_rng(0)
    for _ in range(num_rounds):
        for name in generator.permutation(list(sessions)):
            session, samples = sessions[name], list[float]()
            feed = {session.get_inputs()[0].name: image["x"]}
            end = time.perf_counter() + round_s
            while time.perf_counter() < end:
                start = time.perf_counter()
                session.run(None, feed)
                samples.append(time.perf_counter() - start)
            found[name].append(1e3 * statistics.median(samples))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, write, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--test", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning, 128 images each")
    parser.add_argument("--latency", action="store_true", help="time the files that are there")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    if arguments.latency:
        found |= {"latency_ms": latencies(arguments.files), "latency_machine": machine_facts().model_dump()}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    else:
        rows = [row for row in found["rows"] if row["network"] not in arguments.networks]
        data = cifar10(arguments.data)
        for name in arguments.networks:
            for row in measure(name, arguments.weights, data, arguments):
                rows.append(row)
                print(row, flush=True)
                found |= {
                    "rows": rows, "num_test": arguments.test, "num_calibration": 512, "steps": arguments.steps,
                    "torch": torch.__version__, "torch_pruning": version("torch-pruning"),
                }  # fmt: skip
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    draw(found)


def draw(found: dict[str, Any]) -> None:
    """Draw accuracy against multiply-adds and, where they were timed, against milliseconds."""
    import matplotlib.pyplot as plt

    rows, times = found["rows"], found.get("latency_ms", {})
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, panels = plt.subplots(len(names), 2, figsize=(10, 4 * len(names)), squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        own = [row for row in rows if row["network"] == name]
        for way in (*COMPARED, *peers()):
            points = []
            for ratio in RATIOS:
                same = [row for row in own if row["way"] == way and row["ratio"] == ratio]
                if same:
                    mean = sum(row["accuracy"] for row in same) / len(same)
                    points.append((1 / ratio, times.get(file_name(name, way, ratio)), mean))
            if points:
                left.plot([p[0] for p in points], [p[2] for p in points], marker="o", label=way)
            timed = [p for p in points if p[1] is not None]
            if timed:
                right.plot([p[1] for p in timed], [p[2] for p in timed], marker="o", label=way)
        left.set(title=f"{name}, after {found['steps']} steps", xlabel="share of multiply-adds", ylabel="accuracy")
        right.set(title="ONNX Runtime, one thread", xlabel="ms an image")
        for panel in (left, right):
            panel.set_xscale("log")
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
