"""Put the trained and cut gaze networks on one machine's processor, and measure what they are worth there.

    python benchmarks/gaze.py TRAINED DATA --accuracy [--peers]
    python benchmarks/gaze.py TRAINED DATA --files FILES --engines
    python benchmarks/gaze.py TRAINED DATA --files FILES --latency

TRAINED is the OUT of train_gaze_networks.py. All write into results/gaze.json and draw results/gaze.png.

``--accuracy`` compares every network with VGG-19's and with the teacher picture by picture of the held-out set, by a
bootstrap, and scores what needs no training: the centre bias, spectral residual, other people; with ``--peers``
google/attention-center as well, which needs ai-edge-litert.

``--engines`` scores ours as ONNX Runtime computes them, in single precision and in eight bits.

``--latency`` times all networks in ONNX Runtime, batch 1, one thread and all cores, in rounds over all files in
changing order, when nothing else runs; then MobileNetV2's and ours against VGG-19 in pairs. All take the same picture;
MobileNetV2's halve it first. Networks whose weights were not kept are built again with other weights, which take as
long.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gaze_baselines import attention_center, mean_by_picture, milliseconds_of, other_viewers, spectral_residual
from gaze_curve import MOBILE, family_of, rebuilt
from gaze_pool import MEASURES, Pool, Views, read_pool, whole_pictures
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from secateur import Quantize, bench
from secateur.artifacts import Model
from secateur.artifacts.results import realised_fraction
from secateur.backends.compare import Compare
from secateur.backends.machine import machine_facts
from secateur.calibration.samples import CalibrationSamples
from secateur.pipeline.export import export
from secateur.report.bootstrap import bootstrap_means, percentile_interval
from secateur.workloads.gaze.backbones import DEEP_INPUT_SIZE
from secateur.workloads.gaze.metrics import map_nss
from secateur.workloads.gaze.readers import read_set
from secateur.workloads.gaze.roc import auc, auc_judd

RESULTS = Path(__file__).parent / "results" / "gaze.json"
VGG19 = "deepgaze-vgg19"
INT8 = ", int8"


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
    parser.add_argument("--pair-s", type=float, default=240.0, help="at most so many seconds a pair")
    parser.add_argument("--limit", type=int, help="so many pictures, for rehearsals")
    parser.add_argument("--height", type=int, default=DEEP_INPUT_SIZE[0], help="of the pictures in training")
    arguments = parser.parse_args()
    trained = json.loads((arguments.trained / "gaze_networks.json").read_text())
    size = arguments.height, arguments.height * 4 // 3
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    spent = {name: facts for name, facts in trained.items() if name.startswith(("seconds of", "settings of"))}
    found |= {"size": size, "trained_on": trained["device"], "training": spent, "networks": found.get("networks", {})}
    for row, facts in rows_of(trained):
        kept = {key: facts[key] for key in ("macs", "trained", "cut_seconds", "loss_after_cut", "note") if key in facts}
        scores = {m: facts[f"held-out, {m}"] for m in MEASURES if f"held-out, {m}" in facts}
        gpu = trained.get("gpu latency, ms", {}).get(row)
        found["networks"][row] = found["networks"].get(row, {}) | kept | scores | ({"gpu_ms": gpu} if gpu else {})
    if arguments.accuracy or arguments.engines:
        held_out = trained["held_out"]
        pool = read_pool(arguments.data, held_out, None, size, torch.device("cpu"), arguments.limit)
    if arguments.accuracy:
        compared(found, trained, arguments.trained)
        found["baselines"] = baselines(arguments.data, held_out, pool, size, arguments.peers)
    if arguments.engines or arguments.latency:
        files = exported(trained, arguments.trained, arguments.files, size)
    if arguments.engines:
        engines(found, files | dict(quantised(files, pool, size, arguments.files)), pool, size)
    if arguments.latency:
        timed(found, files | int8_files(files, arguments.files), arguments.pair_s, size)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    draw(found)


def rows_of(trained: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the networks whose shapes are known, and all that is known of each."""
    for row, facts in trained.items():
        if isinstance(facts, dict) and "shapes" in facts:
            yield row, facts


def is_ours(row: str) -> bool:
    """Tell the networks that are compared in pairs: MobileNetV2's, and what was cut our way."""
    return family_of(row.removesuffix(INT8)) == MOBILE or ", ours, " in row


def slug(row: str) -> str:
    """Return what a network's file is called, without its ending."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower())


def exported(trained: dict[str, Any], folder: Path, files: Path, size: tuple[int, int]) -> dict[str, Path]:
    """Write every network as an ONNX file, with its weights where they were kept; return the files by row."""
    weights: dict[str, dict[str, Tensor]] = {}
    for file in sorted(folder.glob("gaze_weights_*.safetensors")):
        for key, tensor in load_file(file).items():
            row, _, name = key.rpartition("/")
            weights.setdefault(row, {})[name] = tensor
    found = {}
    for row, facts in rows_of(trained):
        found[row] = files / f"{slug(row)}.onnx"
        if not found[row].exists():
            name = family_of(row)
            network = rebuilt(name, facts["shapes"], weights.get(row))
            # The mean of two by two pixels is what bilinear halving gives.
            network = nn.Sequential(nn.AvgPool2d(2), network) if name == MOBILE else network
            example = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
            export(Model(module=network, example_inputs=(example,)), files, name=slug(row), dynamic_batch=False)
            print(f"exported {row}{'' if row in weights else ' with other weights'}", flush=True)
    return found


def compared(found: dict[str, Any], trained: dict[str, Any], folder: Path) -> None:
    """Compare every network with VGG-19's and with the MobileNetV2 ensemble, picture by picture."""
    with np.load(folder / "gaze_scores.npz") as kept:
        per_picture = {row: kept[row] for row in kept.files}
    for row, values in per_picture.items():
        facts = found["networks"].setdefault(row, {})
        for name, other in (("vgg19", VGG19), ("ensemble", "mobilenetv2 ensemble")):
            facts[f"minus_{name}"] = differences(values, per_picture[other], trained["measures"])
        for measure, scores in zip(trained["measures"], values, strict=True):
            facts[measure] = float(scores.mean())


def differences(values: np.ndarray, others: np.ndarray, measures: list[str]) -> dict[str, list[float]]:
    """Return the mean difference of each measure with its 95 % interval over pictures."""
    paired = (values - others).T.astype(np.float64)
    draws = bootstrap_means(paired, 10_000, seed=0)
    found = {}
    for place, measure in enumerate(measures):
        interval = percentile_interval(float(paired[:, place].mean()), draws[:, place])
        found[measure] = [interval.value, interval.low, interval.high]
    return found


def quantised(files: dict[str, Path], pool: Pool, size: tuple[int, int], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield ours in eight bits, calibrated on training pictures."""
    train = pool.parts["train"][torch.linspace(0, len(pool.parts["train"]) - 1, 32).long()]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(train), 4)
    views = Views(picture=train, box=whole, mirrored=torch.zeros(len(train), dtype=torch.bool))
    pictures = TensorDataset(views.pixels(pool, size), torch.zeros(len(train)))
    samples = CalibrationSamples(dataset=pictures, indices=tuple(range(len(train))), batch_size=1)
    for row in [row for row in files if is_ours(row)]:
        made = Quantize(target="cpu")(files[row], samples, folder, name=f"{slug(row)}-int8")
        yield row + INT8, made.exported.path


def int8_files(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Return the eight-bit files that there are, by row."""
    made = {row + INT8: folder / f"{slug(row)}-int8.onnx" for row in files if not row.endswith(INT8)}
    return {row: path for row, path in made.items() if path.exists()}


def session_of(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the processor; 0 threads means all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def engines(found: dict[str, Any], files: dict[str, Path], pool: Pool, size: tuple[int, int]) -> None:
    """Score ours as ONNX Runtime computes them, on the held-out pictures, and compare with the training's figures."""
    part = pool.parts["held-out"]
    views = whole_pictures(pool, "held-out")
    for row, path in files.items():
        if not is_ours(row):
            continue
        session = session_of(path, 0)
        name = session.get_inputs()[0].name
        densities = []
        for number in range(len(part)):
            pixels = views.of(torch.tensor([number])).pixels(pool, size).numpy()
            densities.append(torch.from_numpy(session.run(None, {name: pixels})[0]))
        density = torch.cat(densities)
        scores = {m: measure(density, pool.counts[part], pool.centre_bias) for m, measure in MEASURES.items()}
        facts = found["networks"].setdefault(row, {})
        facts["engine"] = {measure: float(values.mean()) for measure, values in scores.items()}
        print(row, facts["engine"], flush=True)


def baselines(data: Path, held_out: str, pool: Pool, size: tuple[int, int], with_peers: bool) -> dict[str, Any]:
    """Score what needs no training here, on the held-out pictures."""
    part, found = pool.parts["held-out"], dict[str, Any]()
    counts = pool.counts[part]
    pixels = whole_pictures(pool, "held-out").pixels(pool, size)

    def of(saliency: Tensor) -> dict[str, float]:
        measured = {"auc": auc(saliency, counts), "auc_judd": auc_judd(saliency, counts)}
        return {name: float(values.mean()) for name, values in (measured | {"nss": map_nss(saliency, counts)}).items()}

    found["centre bias"] = of(pool.centre_bias.exp().expand_as(counts).contiguous())
    found["spectral residual"] = of(spectral_residual(pixels, pool.grid))
    recording = read_set(held_out, data / f"gaze_{held_out}")
    others, own, picture = other_viewers(recording, pool.grid)
    found["other viewers"] = {
        name: float(mean_by_picture(measure(others, own), picture).mean())
        for name, measure in (("auc", auc), ("auc_judd", auc_judd), ("nss", map_nss))
    }
    if with_peers:
        maps, milliseconds = attention_center(
            data / "models" / "gaze_attention_center" / "center.tflite", pool.grid, 1
        )(pixels)
        found["attention-center"] = of(maps) | {"one_thread_ms": milliseconds_of(milliseconds)}
    return found


def timed(found: dict[str, Any], files: dict[str, Path], pair_s: float, size: tuple[int, int]) -> None:
    """Time all files, then ours against VGG-19 in pairs."""
    picture = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    for threads, name in ((1, "one_thread_ms"), (0, "all_cores_ms")):
        for row, milliseconds in rounds(files, picture, threads).items():
            found["networks"].setdefault(row, {})[name] = milliseconds
    found["machine"] = machine_facts().model_dump()
    macs = found["networks"][VGG19]["macs"]
    for row, path in files.items():
        if not is_ours(row):
            continue
        compare = Compare(max_s=pair_s, num_instances=3, num_blocks=4, null=False)
        result = bench(files[VGG19], path, backend="onnxruntime", compare=compare, tolerance=1.0)
        facts = found["networks"][row]
        facts["speedup_over_vgg19"] = result.speedup.model_dump()
        facts["outcome"] = result.outcome
        if not row.endswith(INT8):
            facts["realised_fraction"] = realised_fraction(macs / facts["macs"], result.speedup.value)
        print(row, facts["speedup_over_vgg19"], flush=True)


def rounds(files: dict[str, Path], picture: np.ndarray, threads: int, num_rounds: int = 5) -> dict[str, float]:
    """Return the median milliseconds of each file, of rounds over all files in changing order."""
    generator = np.random.default_rng(0)
    sessions = {row: session_of(path, threads) for row, path in files.items()}
    found: dict[str, list[float]] = {row: [] for row in files}
    for number in range(num_rounds + 1):
        for row in generator.permutation(list(sessions)):
            session, samples = sessions[row], list[float]()
            feed, end = {session.get_inputs()[0].name: picture}, time.perf_counter() + 0.5
            while not samples or time.perf_counter() < end:
                started = time.perf_counter()
                session.run(None, feed)
                samples.append(1e3 * (time.perf_counter() - started))
            if number:  # the first round warms up
                found[row].append(statistics.median(samples))
    return {row: statistics.median(values) for row, values in found.items()}


def draw(found: dict[str, Any]) -> None:
    """Draw AUC, NSS and information gain against milliseconds, a line a way."""
    import matplotlib.pyplot as plt

    measures = {"auc": "AUC", "nss": "NSS", "information_gain_bit": "information gain, bit"}
    lines: dict[str, list[dict[str, float]]] = {}
    for row, facts in found["networks"].items():
        if "one_thread_ms" in facts and "auc" in facts:
            network, _, rest = row.partition(", ")
            lines.setdefault(f"{network}, {rest.rpartition(', ')[0]}" if rest else network, []).append(facts)
    if not lines:
        return  # nothing is timed yet
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.5))
    for panel, (measure, title) in zip(panels, measures.items(), strict=True):
        for line, points in lines.items():
            ordered = sorted(points, key=lambda facts: facts["one_thread_ms"])
            panel.plot([p["one_thread_ms"] for p in ordered], [p[measure] for p in ordered], marker="o", label=line)
        panel.set(xscale="log", xlabel="ms a picture, one thread", ylabel=f"{title}, held-out set")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
