"""Put the trained and cut gaze networks on one machine's processor, and measure what they are worth there.

    python benchmarks/gaze.py TRAINED DATA --accuracy [--peers]
    python benchmarks/gaze.py TRAINED DATA --files FILES --engines
    python benchmarks/gaze.py TRAINED DATA --files FILES --latency [--peers]

TRAINED is the OUT of train_gaze_networks.py. All write into results/gaze.json, row by row, and draw results/gaze.png.

``--accuracy`` compares every network with VGG-19's and with the teacher picture by picture of the held-out set, by a
bootstrap, and scores what needs no training: the centre bias, spectral residual, other people; with ``--peers`` the
trained networks of others, TinyHD and google/attention-center, which needs ai-edge-litert.

``--engines`` scores what ONNX Runtime computes of networks whose weights were kept, MobileNetV2's and ours, in single
precision and in eight bits, picture by picture as well. It goes on where an earlier run stopped.

``--latency`` times all networks in ONNX Runtime, batch 1, one thread and all cores, in rounds over all files in
changing order with fresh sessions; speed-ups are ratios by round, with Student's interval. Nothing else may run. All
take the same picture; MobileNetV2's halve it first. Networks whose weights were not kept are built again with other
weights, which take as long. The realised fraction is ln(speed-up) / ln(MACs before / MACs after) of a cut network over
the one that it was cut from.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaze_baselines import AttentionCenter, mean_by_picture, other_viewers, spectral_residual, tinyhd_maps
from gaze_family import family_of
from gaze_files import (
    INT8,
    exported,
    exported_tinyhd,
    files_by_precision,
    int8_files,
    is_ours,
    rows_of,
    weights_of,
)
from gaze_latency import milliseconds, rounds, session_of, speedup
from gaze_pool import MEASURES, Pool, read_pool, whole_pictures
from tinyhd import tinyhd
from torch import Tensor

from secateur.artifacts.results import realised_fraction
from secateur.backends.machine import machine_facts
from secateur.report.bootstrap import bootstrap_means, percentile_interval
from secateur.workloads.gaze.backbones import DEEP_INPUT_SIZE
from secateur.workloads.gaze.metrics import map_nss
from secateur.workloads.gaze.readers import read_set
from secateur.workloads.gaze.roc import auc, auc_judd

RESULTS = Path(__file__).parent / "results" / "gaze.json"
VGG19 = "deepgaze-vgg19"
TEACHERS = {"vgg19": VGG19, "ensemble": "mobilenetv2 ensemble"}
"""What networks are compared with, picture by picture."""
KEPT = ("macs", "trained", "cut_seconds", "loss_after_cut", "beta", "removals", "steps_between", "note")
"""What is told of a network's making."""
TINYHD, CENTER = "TinyHD", "attention-center"


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--files", type=Path, help="where ONNX files go")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=int, help="so many pictures, for rehearsals")
    parser.add_argument("--rows", nargs="*", help="these networks alone, for rehearsals")
    parser.add_argument("--height", type=int, default=DEEP_INPUT_SIZE[0], help="of the pictures in training")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    trained = json.loads((arguments.trained / "gaze_networks.json").read_text())
    size = arguments.height, arguments.height * 4 // 3
    found: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    spent = {name: facts for name, facts in trained.items() if name.startswith(("seconds of", "settings of"))}
    found |= {"size": size, "trained_on": trained["device"], "training": spent, "networks": found.get("networks", {})}
    for row, facts in rows_of(trained):
        kept = {key: facts[key] for key in KEPT if key in facts}
        scores = {m: facts[f"held-out, {m}"] for m in MEASURES if f"held-out, {m}" in facts}
        gpu = trained.get("gpu latency, ms", {}).get(row)
        found["networks"][row] = found["networks"].get(row, {}) | kept | scores | ({"gpu_ms": gpu} if gpu else {})

    def write() -> None:
        partial_path = arguments.results.with_suffix(".part")
        partial_path.write_text(json.dumps(found, indent=1) + "\n")
        partial_path.replace(arguments.results)

    if arguments.accuracy or arguments.engines:
        held_out = trained["held_out"]
        pool = read_pool(arguments.data, held_out, None, size, torch.device("cpu"), arguments.limit)
        with np.load(arguments.trained / "gaze_scores.npz") as kept:
            teachers = {name: kept[row][:, : len(pool.parts["held-out"])] for name, row in TEACHERS.items()}
    if arguments.accuracy:
        compared(found, trained, arguments.trained)
        pixels = whole_pictures(pool, "held-out").pixels(pool, size)
        found["baselines"] = baselines(arguments.data, held_out, pool, pixels)
        write()
        if arguments.peers:
            peers(found, arguments.data / "models", pool, pixels, teachers["vgg19"])
    if arguments.engines or arguments.latency:
        files = exported(trained, arguments.trained, arguments.files, size, arguments.rows)
    if arguments.engines:
        judged = [row for row in files if is_ours(row) and row in weights_of(arguments.trained)]
        for row, path in files_by_precision(files, judged, pool, size, arguments.files):
            engine(found["networks"].setdefault(row, {}), path, pool, size, teachers)
            print(row, found["networks"][row]["engine"], flush=True)
            write()
    if arguments.latency:
        every = files | int8_files(files, arguments.files)
        if arguments.peers:
            every[TINYHD] = exported_tinyhd(arguments.data / "models", arguments.files, size)
        timed(found, every, size, arguments.rounds, write)
        if arguments.peers:
            time_center(found, arguments.data / "models" / "gaze_attention_center" / "center.tflite", size)
    write()
    draw(found, arguments.results.with_suffix(".png"))


def compared(found: dict[str, Any], trained: dict[str, Any], folder: Path) -> None:
    """Compare every network with VGG-19's and with the MobileNetV2 ensemble, picture by picture."""
    with np.load(folder / "gaze_scores.npz") as kept:
        per_picture = {row: kept[row] for row in kept.files}
    for row, values in per_picture.items():
        facts = found["networks"].setdefault(row, {})
        for name, other in TEACHERS.items():
            facts[f"minus_{name}"] = differences(values, per_picture[other], trained["measures"])
        for measure, scores in zip(trained["measures"], values, strict=True):
            facts[measure] = float(scores.mean())


def differences(values: np.ndarray, others: np.ndarray, measures: Sequence[str]) -> dict[str, list[float]]:
    """Return the mean difference of each measure with its 95 % interval over pictures."""
    paired = (values - others).T.astype(np.float64)
    draws = bootstrap_means(paired, 10_000, seed=0)
    found = {}
    for place, measure in enumerate(measures):
        interval = percentile_interval(float(paired[:, place].mean()), draws[:, place])
        found[measure] = [interval.value, interval.low, interval.high]
    return found


def engine(
    facts: dict[str, Any], path: Path, pool: Pool, size: tuple[int, int], teachers: Mapping[str, np.ndarray]
) -> None:  # fmt: skip
    """Score a file as ONNX Runtime computes it, on the held-out pictures, and compare with the teachers."""
    part, views = pool.parts["held-out"], whole_pictures(pool, "held-out")
    if facts.get("engine", {}).get("pictures") == len(part):
        return
    session = session_of(path, 0)
    name = session.get_inputs()[0].name
    pictures = (views.of(torch.tensor([number])).pixels(pool, size).numpy() for number in range(len(part)))
    density = torch.cat([torch.from_numpy(session.run(None, {name: pixels})[0]) for pixels in pictures])
    scores = {m: measure(density, pool.counts[part], pool.centre_bias) for m, measure in MEASURES.items()}
    values = np.stack([each.numpy() for each in scores.values()])
    facts["engine"] = {"pictures": len(part)} | means(scores) | {
        f"minus_{name}": differences(values, teacher, list(MEASURES)) for name, teacher in teachers.items()
    }  # fmt: skip


def baselines(data: Path, held_out: str, pool: Pool, pixels: Tensor) -> dict[str, Any]:
    """Score what needs no network, on the held-out pictures."""
    counts, found = pool.counts[pool.parts["held-out"]], dict[str, Any]()
    found["centre bias"] = means(scores_of(pool.centre_bias.exp().expand_as(counts).contiguous(), counts))
    found["spectral residual"] = means(scores_of(spectral_residual(pixels, pool.grid), counts))
    recording = read_set(held_out, data / f"gaze_{held_out}")
    others, own, picture = other_viewers(recording, pool.grid)
    found["other viewers"] = {
        name: float(mean_by_picture(values, picture).mean()) for name, values in scores_of(others, own).items()
    }
    return found


def peers(found: dict[str, Any], models: Path, pool: Pool, pixels: Tensor, teacher: np.ndarray) -> None:
    """Score the trained networks of others, on the held-out pictures."""
    counts = pool.counts[pool.parts["held-out"]]
    small = tinyhd(models / "gaze_tinyhd" / "d123s_rc4_rc1T.pth")
    center = AttentionCenter(models / "gaze_attention_center" / "center.tflite", map_kept=True)
    for row, maps in ((TINYHD, tinyhd_maps(small, pixels, pool.grid)), (CENTER, center.maps(pixels, pool.grid))):
        scores = scores_of(maps, counts)
        values = np.stack([each.numpy() for each in scores.values()])
        facts = found["networks"].setdefault(row, {})
        facts |= means(scores) | {"minus_vgg19": differences(values, teacher[: len(values)], list(scores))}
        print(row, facts, flush=True)


def scores_of(saliency: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Return the measures that any map has, for every picture."""
    named = {"auc": auc, "auc_judd": auc_judd, "nss": map_nss}
    return {name: measure(saliency, counts) for name, measure in named.items()}


def means(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Return each measure's mean over the pictures."""
    return {name: float(values.mean()) for name, values in scores.items()}


def timed(
    found: dict[str, Any], files: Mapping[str, Path], size: tuple[int, int], num_rounds: int, write: Callable[[], None]
) -> None:
    """Time all files, and tell how many times faster than VGG-19's each is, and how much of its cut came true."""
    picture = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    networks = found["networks"]
    for threads, name in ((1, "one_thread"), (0, "all_cores")):
        by_round = rounds(files, picture, threads, num_rounds)
        for row, values in by_round.items():
            facts, family = networks.setdefault(row, {}), family_of(row.removesuffix(INT8))
            whole = next(each for each in by_round if family_of(each) == family)
            facts[f"{name}_ms"] = float(np.median(values))
            if VGG19 in by_round:
                facts[f"{name}_speedup_over_vgg19"] = speedup(by_round[VGG19], values)
            if "," not in whole and row != whole:
                faster = facts[f"{name}_speedup_over_uncut"] = speedup(by_round[whole], values)
                if "macs" in facts:
                    ratio = networks[whole]["macs"] / facts["macs"]
                    facts[f"{name}_realised_fraction"] = realised_fraction(ratio, faster[0])
        found["machine"], found["rounds"] = machine_facts().model_dump(), num_rounds
        write()


def time_center(found: dict[str, Any], file: Path, size: tuple[int, int]) -> None:
    """Time google/attention-center in its own runtime, its picture scaled and set beforehand."""
    networks = found["networks"]
    for threads, name in ((1, "one_thread"), (machine_facts().num_cores, "all_cores")):
        center = AttentionCenter(file, num_threads=threads)
        center.give(torch.rand(1, 3, *size))
        center.interpreter.invoke()
        networks.setdefault(CENTER, {})[f"{name}_ms"] = milliseconds(center.interpreter.invoke, 4.0)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw AUC, NSS and information gain against milliseconds, a line a way from the uncut network on."""
    import matplotlib.pyplot as plt

    measures = {"auc": "AUC", "nss": "NSS", "information_gain_bit": "information gain, bit"}
    timed = {row: facts for row, facts in found["networks"].items() if "one_thread_ms" in facts}
    lines: dict[str, list[dict[str, float]]] = {}
    for row, facts in timed.items():
        network, *cut = row.removesuffix(INT8).split(", ")
        eighth = INT8 if row.endswith(INT8) else ""
        whole = timed.get(network + eighth)
        line = lines.setdefault(", ".join([network, *cut[:-1]]) + eighth, [whole] if cut and whole else [])
        line.append(facts)
    if not lines:
        return  # nothing is timed yet
    figure, panels = plt.subplots(1, 3, figsize=(16, 6))
    for panel, (measure, title) in zip(panels, measures.items(), strict=True):
        for number, (line, points) in enumerate(lines.items()):
            scored = [(point["one_thread_ms"], point | point.get("engine", {})) for point in points]
            places = sorted((time, point[measure]) for time, point in scored if measure in point)
            style = {"marker": "osv^D*"[number % 6], "linestyle": "--" if line.endswith(INT8) else "-"}
            panel.plot(*zip(*places, strict=True), label=line, **style) if places else None
        panel.set(xscale="log", xlabel="ms a picture, one thread", ylabel=f"{title}, held-out set")
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=8)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
