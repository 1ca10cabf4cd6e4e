"""Train the deep gaze networks without pretrained weights of their own, cut one or more of them, and score everything.

    python benchmarks/train_gaze_networks.py DATA --out OUT [--unlabelled PICTURES] [--seconds-per-stage 25]

DATA holds gaze_osie, gaze_eyecrowd, gaze_scene500 and models/mobilenet_v2_imagenet_fp16.pth; for SqueezeNet's network
models/squeezenet1_1_imagenet_fp16.pth too. One set is held out: no network sees its pictures or fixations in any stage.

1. MobileNetV2's gaze network is trained from ImageNet weights on the other two sets' fixations, a few times over with
   other seeds; the mean of their densities is the teacher.
2. The VGG-19, VGG-11 and DenseNet-121 networks, whose backbones have no trained weights, learn its features and
   density at half resolution, then fixations (0.1) and the ensemble's density (0.9) at full resolution, on the
   pictures, on random parts of them, and on PICTURES without fixations where there are any. SqueezeNet's, where
   ``--networks`` names it, does so from ImageNet weights. If VGG-19's network comes out better than the ensemble on
   the validation pictures, those after it learn from it instead.
3. Students, and the best MobileNetV2 network where ``--networks`` names ``mobilenetv2``, are cut in every way of
   `gaze_curve` to falling budgets, each followed by the same number of steps.

Everything runs on a GPU where there is one. What has a result so far is always whole in OUT: gaze_networks.json, scores
of every picture in gaze_scores.npz, and the students' weights. A run goes on from what is in the folders of
``--resume``, so that parts of the work can run side by side: first what trains, then ways of cutting in processes of
their own, then ``--networks --teachers 0 --gpu-latency`` with all folders, which puts them together.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaze_curve import (
    FAMILY,
    MOBILE,
    budgets_of,
    half_precision,
    loss_on,
    multiply_adds,
    rebuilt,
    shapes_of,
    single_precision,
    ways,
)
from gaze_gpu import latencies
from gaze_pool import Pool, Views, draw_views, half, log_densities, read_pool, scores, whole_pictures
from gaze_training import Fit, Limit, distil, distil_features, fixation_term, load_squeezenet, mobile_teacher
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.workloads.gaze.backbones import BACKBONES, DEEP_INPUT_SIZE
from secateur.workloads.gaze.network import GazeNetwork

VGG19, SQUEEZE = "deepgaze-vgg19", "squeezegaze"
LARGEST_FILE = 15 * 2**20


def main() -> None:
    """Train, cut, score and write."""
    arguments = parse()
    torch.manual_seed(arguments.seed)
    run = Run(arguments=arguments, device=torch.device(arguments.device))
    if arguments.networks:
        train(run)
    if arguments.gpu_latency and run.device.type == "cuda":
        run.note("gpu latency, ms", latencies(run.results, run.size))
    run.note(f"seconds of {arguments.out.name}", time.perf_counter() - run.started)
    run.write_weights()


def train(run: "Run") -> None:
    """Go through all stages."""
    arguments = run.arguments
    run.note("read", {"pictures": len(run.pool.pictures), "parts": {n: len(p) for n, p in run.pool.parts.items()}})
    teachers = [run.mobile(number) for number in range(arguments.teachers)]
    if "mobilenetv2 ensemble" not in run.per_picture:
        run.score("mobilenetv2 ensemble", teachers, half(run.size))
    views = run.taught(teachers, run.views)
    for name in arguments.networks:
        if name == MOBILE:
            run.curve(MOBILE, run.best(teachers), views, half(run.size))
            continue
        network = run.network(name, teachers[0], views)
        if name == VGG19 and run.validation_loss([network], run.size) < run.validation_loss(teachers, half(run.size)):
            views = run.taught([network], run.views, run.size)
            run.note("teacher of all", VGG19)
        if name in arguments.curve:
            run.curve(name, network, views, run.size)


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for without the places on this machine."""
    return {name: value for name, value in vars(given).items() if name not in ("data", "out", "unlabelled", "resume")}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unlabelled", type=Path, help="a folder of pictures without fixations")
    parser.add_argument("--resume", nargs="*", type=Path, default=[], help="the OUT of earlier runs")
    parser.add_argument("--without", nargs="*", default=[], help="networks whose weights are not written")
    parser.add_argument("--gpu-latency", action="store_true", help="time all networks on the GPU")
    parser.add_argument("--held-out", default="scene500")
    parser.add_argument("--networks", nargs="*", default=[VGG19, "fastgaze-vgg11", "densegaze"], choices=FAMILY)
    parser.add_argument("--curve", nargs="*", default=["fastgaze-vgg11"], help="the networks that are cut")
    parser.add_argument("--ways", nargs="*", default=list(ways()), choices=list(ways()))
    parser.add_argument("--ratios", nargs="*", type=float, default=[2, 5, 10, 20, 30])
    parser.add_argument("--seconds-per-stage", type=float, default=20.0, help="two stages a network")
    parser.add_argument("--total-seconds", type=float, default=500.0, help="no further cut begins after these")
    parser.add_argument("--teachers", type=int, default=3)
    parser.add_argument("--teacher-steps", type=int, default=400)
    parser.add_argument("--teacher-batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100, help="of distillation after each cut")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--crops", type=int, default=6, help="random parts a picture")
    parser.add_argument("--samples", type=int, default=128, help="pictures that cuts are decided on")
    parser.add_argument("--height", type=int, default=DEEP_INPUT_SIZE[0], help="the width is four thirds of it")
    parser.add_argument("--limit", type=int, help="so many pictures a part, for rehearsals")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@dataclass(kw_only=True)
class Run:
    """What all stages share: the pictures, and the results so far."""

    arguments: argparse.Namespace
    device: torch.device
    started: float = field(default_factory=time.perf_counter)
    results: dict[str, Any] = field(default_factory=dict)
    per_picture: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what earlier runs left."""
        given = self.arguments
        given.out.mkdir(parents=True, exist_ok=True)
        self.size = given.height, given.height * 4 // 3
        for folder in given.resume:
            self.results |= json.loads((folder / "gaze_networks.json").read_text())
            self.per_picture |= np.load(folder / "gaze_scores.npz")
            for file in sorted(folder.glob("gaze_weights_*.safetensors")):
                for key, tensor in load_file(file).items():
                    network, _, name = key.rpartition("/")
                    self.weights.setdefault(network, {})[name] = tensor
        cuda = self.device.type == "cuda"
        self.results |= {
            f"settings of {given.out.name}": settings_of(given), "held_out": given.held_out, "torch": torch.__version__,
        }  # fmt: skip
        self.results.setdefault("device", torch.cuda.get_device_name(self.device) if cuda else "cpu")

    @cached_property
    def pool(self) -> Pool:
        """All pictures, on the device."""
        given = self.arguments
        return read_pool(given.data, given.held_out, given.unlabelled, self.size, self.device, given.limit)

    @cached_property
    def views(self) -> Views:
        """The views that networks train on."""
        return draw_views(self.pool, self.arguments.crops, torch.Generator().manual_seed(self.arguments.seed))

    def note(self, name: str, fact: Any) -> None:
        """Keep a fact, say it and write the results so far."""
        self.results[name] = fact
        print(f"{time.perf_counter() - self.started:7.1f} s  {name}: {fact}", flush=True)
        path = self.arguments.out / "gaze_networks.json"
        partial_path = path.with_suffix(".part")
        partial_path.write_text(json.dumps(self.results, indent=1, default=str) + "\n")
        partial_path.replace(path)
        np.savez_compressed(self.arguments.out / "gaze_scores.npz", **self.per_picture)

    def score(self, name: str, networks: list[nn.Module], size: tuple[int, int], **facts: Any) -> dict[str, float]:
        """Score a network, or the mean density of several, on every part with fixations, and keep that with facts."""
        means = {}
        for part in self.pool.parts:
            if part not in ("train", "unlabelled"):
                views = whole_pictures(self.pool, part)
                found = scores(log_densities(networks, self.pool, views, size, 32), self.pool, part)
                means |= {f"{part}, {measure}": float(values.mean()) for measure, values in found.items()}
                if part == "held-out":
                    self.per_picture[name] = torch.stack(list(found.values())).float().numpy()
                    self.results["measures"] = list(found)
        self.note(name, {**facts, **means})
        return means

    def validation_loss(self, networks: list[nn.Module], size: tuple[int, int]) -> float:
        """Return the mean negative log-likelihood of a fixation in the validation pictures, nats."""
        density = log_densities(networks, self.pool, whole_pictures(self.pool, "validation"), size, 32)
        return float(fixation_term(density, self.pool.counts[self.pool.parts["validation"]]))

    def mobile(self, number: int) -> nn.Module:
        """Train one MobileNetV2 network of the ensemble."""
        given, name = self.arguments, f"mobilenetv2 {number}"
        if name in self.weights:
            return self._restored(name, GazeNetwork(log_prior=self.pool.centre_bias.cpu()))
        torch.manual_seed(given.seed + number)
        weights = given.data / "models" / "mobilenet_v2_imagenet_fp16.pth"
        fit = Fit(limit=Limit(steps=given.teacher_steps, seconds=2 * given.seconds_per_stage), learning_rate=3e-3)
        network, record = mobile_teacher(self.pool, weights, self.size, given.teacher_batch_size, fit, 3e-4)
        self.weights[name] = half_precision(network)
        facts = {"macs": multiply_adds(network, half(self.size)), "shapes": shapes_of(network)}
        self.score(name, [network], half(self.size), trained=record, **facts)
        return network

    def best(self, teachers: list[nn.Module]) -> nn.Module:
        """Return the teacher that is best on the validation pictures, under a name of its own from now on."""
        if MOBILE in self.weights:
            return self._restored(MOBILE, GazeNetwork(log_prior=self.pool.centre_bias.cpu()))
        best = min(teachers, key=lambda teacher: self.validation_loss([teacher], half(self.size)))
        facts = {"macs": multiply_adds(best, half(self.size)), "shapes": shapes_of(best)}
        self.weights[MOBILE] = half_precision(best)
        self.score(MOBILE, [best], half(self.size), **facts)
        return best

    def taught(self, teachers: list[nn.Module], views: Views, size: tuple[int, int] | None = None) -> Views:
        """Return the views with what teachers say of them, from an earlier run if it left that."""
        started, file = time.perf_counter(), self.arguments.out / "teachers_densities.safetensors"
        entries = {"picture": views.picture, "box": views.box, "mirrored": views.mirrored}
        kept = load_file(file, device=str(self.device)) if file.exists() else {}
        if size is None and all(name in kept and torch.equal(kept[name], each) for name, each in entries.items()):
            return replace(views, log_density=kept["log_density"].float())
        density = log_densities(teachers, self.pool, views, size or half(self.size), 128).clone()
        if size is None:
            save_file(entries | {"log_density": density.half()}, file)
        self.note("views", {"number": len(views), "seconds": time.perf_counter() - started})
        return replace(views, log_density=density)

    def network(self, name: str, teacher: nn.Module, views: Views) -> nn.Module:
        """Train one deep network in two stages."""
        given = self.arguments
        torch.manual_seed(given.seed)
        network = BACKBONES[name](log_prior=self.pool.centre_bias.cpu())
        if name in self.weights:
            return self._restored(name, network)
        if name == SQUEEZE:
            load_squeezenet(network, given.data / "models" / "squeezenet1_1_imagenet_fp16.pth")
        network.to(self.device)
        fit = Fit(limit=Limit(seconds=given.seconds_per_stage), learning_rate=given.learning_rate, tuned=True)
        first = distil_features(network, teacher, self.pool, views, self.size, 2 * given.batch_size, fit)
        half_way = self.score(f"{name}, half resolution", [network], half(self.size), trained=first)
        second = distil(network, self.pool, views, self.size, given.batch_size, fit)
        facts = {"macs": multiply_adds(network, self.size), "shapes": shapes_of(network)}
        self.score(name, [network], self.size, trained=[first, second], half_way=half_way, **facts)
        self.weights[name] = half_precision(network)
        self.write_weights()
        return network

    def _restored(self, name: str, network: nn.Module) -> nn.Module:
        network.load_state_dict(single_precision(self.weights[name]))
        return network.to(self.device).eval()

    def curve(self, name: str, network: nn.Module, views: Views, size: tuple[int, int]) -> None:
        """Cut a network in every way to every budget, each from the one before, and train all of them equally."""
        given = self.arguments
        network.to(memory_format=torch.contiguous_format)
        train = self.pool.parts["train"]
        chosen = train[torch.linspace(0, len(train) - 1, min(given.samples, len(train))).long().to(self.device)]
        calibration = Views(
            picture=chosen, mirrored=torch.zeros_like(chosen, dtype=torch.bool),
            box=torch.tensor([0.0, 0.0, 1.0, 1.0], device=self.device).expand(len(chosen), 4),
        )  # fmt: skip
        pixels, counts = calibration.pixels(self.pool, size), calibration.counts(self.pool)
        pairs = zip(pixels.split(16), counts.split(16), strict=True)
        samples = [(pixels.contiguous(), counts) for pixels, counts in pairs if len(pixels) == min(16, len(chosen))]
        budgets = budgets_of(network, size, given.ratios)
        left = {way: (cut, network) for way, cut in ways().items() if way in given.ways}
        for ratio, budget in zip(given.ratios, budgets, strict=True):
            for way, (cut, current) in list(left.items()):
                row = f"{name}, {way}, 1/{ratio:g}"
                if row in self.weights:
                    left[way] = cut, rebuilt(name, self.results[row]["shapes"], self.weights[row]).to(self.device)
                    continue
                if time.perf_counter() - self.started > given.total_seconds:
                    self.note(row, {"skipped": f"after {given.total_seconds:g} s"})
                    continue
                found = self._tried(row, partial(self._cut, row, cut, current, budget, samples, views, size))
                if found is None:
                    del left[way]
                    continue
                left[way] = cut, found
                if name == MOBILE or (way == "ours" and ratio >= 5):
                    self.weights[row] = half_precision(found)
                    self.write_weights()

    def _cut(
        self, row: str, cut: Callable[..., nn.Module], network: nn.Module, budget: int, samples: list[Any],
        views: Views, size: tuple[int, int],
    ) -> nn.Module:  # fmt: skip
        """Cut a network, train what is left, and score it."""
        given, started = self.arguments, time.perf_counter()
        torch.manual_seed(given.seed)
        small = cut(network, budget, samples, size).requires_grad_(True)
        seconds, after_cut = time.perf_counter() - started, loss_on(small, samples)
        fit = Fit(limit=Limit(steps=given.steps), learning_rate=given.learning_rate)
        trained = distil(small, self.pool, views, size, given.batch_size, fit)
        small.to(memory_format=torch.contiguous_format)
        facts = {"macs": multiply_adds(small, size), "budget": budget, "shapes": shapes_of(small)}
        self.score(row, [small], size, trained=trained, cut_seconds=seconds, loss_after_cut=after_cut, **facts)
        return small

    def _tried(self, row: str, attempt: Callable[[], nn.Module]) -> nn.Module | None:
        """Keep what a way that fails says, so that the others have their rows."""
        try:
            return attempt()
        except Exception as error:  # whatever a peer or a device raises
            traceback.print_exc()
            self.note(row, {"error": f"{type(error).__name__}: {error}"[:400]})
            return None

    def write_weights(self) -> None:
        """Write all kept weights to files of at most `LARGEST_FILE` bytes."""
        number, size, part = 0, 0, dict[str, Tensor]()
        kept = {name: state for name, state in self.weights.items() if name not in self.arguments.without}
        entries = [(f"{name}/{key}", t) for name, state in kept.items() for key, t in state.items()]
        for key, tensor in [*entries, ("", torch.zeros(0))]:
            if part and (not key or size + tensor.nbytes > LARGEST_FILE):
                path = self.arguments.out / f"gaze_weights_{number}.safetensors"
                save_file(part, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
                number, size, part = number + 1, 0, {}
            part[key] = tensor
            size += tensor.nbytes


if __name__ == "__main__":
    main()
