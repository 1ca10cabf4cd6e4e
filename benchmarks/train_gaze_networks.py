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
   `gaze_curve` to falling budgets, with the same number of steps to each. Fisher pruning as it was published, which
   trains between removals of single maps, is slow, and done where ``--ways`` names it.

Everything runs on a GPU where there is one. What has a result so far is always whole in OUT: gaze_networks.json, scores
of every picture in gaze_scores.npz, and the students' weights. A run goes on from what is in the folders of
``--resume``, so that parts of the work can run side by side: first what trains, then ways of cutting in processes of
their own, then ``--networks --teachers 0 --gpu-latency`` with all folders, which puts them together.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from gaze_curve import ONE_AT_A_TIME, curve, ways
from gaze_family import FAMILY, MOBILE, half_precision, multiply_adds, shapes_of
from gaze_gpu import latencies
from gaze_pool import Views, half, log_densities
from gaze_run import Run
from gaze_training import TRUNK_RATES, Fit, Limit, distil, distil_features, load_squeezenet, mobile_teacher
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.workloads.gaze.backbones import BACKBONES, DEEP_INPUT_SIZE
from secateur.workloads.gaze.network import GazeNetwork

VGG19, SQUEEZE = "deepgaze-vgg19", "squeezegaze"


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


def train(run: Run) -> None:
    """Go through all stages."""
    arguments = run.arguments
    run.note("read", {"pictures": len(run.pool.pictures), "parts": {n: len(p) for n, p in run.pool.parts.items()}})
    teachers = [mobile(run, number) for number in range(arguments.teachers)]
    if "mobilenetv2 ensemble" not in run.per_picture:
        run.score("mobilenetv2 ensemble", teachers, half(run.size))
    views = taught(run, teachers, run.views)
    for name in arguments.networks:
        if name == MOBILE:
            curve(run, MOBILE, best(run, teachers), views, half(run.size))
            continue
        network = deep_network(run, name, teachers[0], views)
        if name == VGG19 and run.validation_loss([network], run.size) < run.validation_loss(teachers, half(run.size)):
            views = taught(run, [network], run.views, run.size)
            run.note("teacher of all", VGG19)
        if name in arguments.curve:
            curve(run, name, network, views, run.size)


def mobile(run: Run, number: int) -> nn.Module:
    """Train one MobileNetV2 network of the ensemble."""
    given, name = run.arguments, f"mobilenetv2 {number}"
    if name in run.weights:
        return run.restored(name, GazeNetwork(log_prior=run.pool.centre_bias.cpu()))
    torch.manual_seed(given.seed + number)
    weights = given.data / "models" / "mobilenet_v2_imagenet_fp16.pth"
    fit = Fit(limit=Limit(steps=given.teacher_steps, seconds=2 * given.seconds_per_stage), learning_rate=3e-3)
    network, record = mobile_teacher(run.pool, weights, run.size, given.teacher_batch_size, fit, 3e-4)
    run.weights[name] = half_precision(network)
    facts = {"macs": multiply_adds(network, half(run.size)), "shapes": shapes_of(network)}
    run.score(name, [network], half(run.size), trained=record, **facts)
    return network


def best(run: Run, teachers: list[nn.Module]) -> nn.Module:
    """Return the teacher that is best on the validation pictures, under a name of its own from now on."""
    if MOBILE in run.weights:
        return run.restored(MOBILE, GazeNetwork(log_prior=run.pool.centre_bias.cpu()))
    chosen = min(teachers, key=lambda teacher: run.validation_loss([teacher], half(run.size)))
    facts = {"macs": multiply_adds(chosen, half(run.size)), "shapes": shapes_of(chosen)}
    run.weights[MOBILE] = half_precision(chosen)
    run.score(MOBILE, [chosen], half(run.size), **facts)
    return chosen


def taught(run: Run, teachers: list[nn.Module], views: Views, size: tuple[int, int] | None = None) -> Views:
    """Return the views with what teachers say of them, from an earlier run if it left that."""
    started, file = time.perf_counter(), run.arguments.out / "teachers_densities.safetensors"
    entries = {"picture": views.picture, "box": views.box, "mirrored": views.mirrored}
    kept = load_file(file, device=str(run.device)) if file.exists() else {}
    if size is None and all(name in kept and torch.equal(kept[name], each) for name, each in entries.items()):
        return replace(views, log_density=kept["log_density"].float())
    density = log_densities(teachers, run.pool, views, size or half(run.size), 128).clone()
    if size is None:
        save_file(entries | {"log_density": density.half()}, file)
    run.note("views", {"number": len(views), "seconds": time.perf_counter() - started})
    return replace(views, log_density=density)


def deep_network(run: Run, name: str, teacher: nn.Module, views: Views) -> nn.Module:
    """Train one deep network in two stages."""
    given = run.arguments
    torch.manual_seed(given.seed)
    network = BACKBONES[name](log_prior=run.pool.centre_bias.cpu())
    if name in run.weights:
        return run.restored(name, network)
    if name == SQUEEZE:
        load_squeezenet(network, given.data / "models" / "squeezenet1_1_imagenet_fp16.pth")
    network.to(run.device)
    fit = Fit(
        limit=Limit(seconds=given.seconds_per_stage), learning_rate=given.learning_rate, tuned=True,
        trunk=TRUNK_RATES.get(name, 1.0),
    )  # fmt: skip
    first = distil_features(network, teacher, run.pool, views, run.size, 2 * given.batch_size, fit)
    half_way = run.score(f"{name}, half resolution", [network], half(run.size), trained=first)
    second = distil(network, run.pool, views, run.size, given.batch_size, fit)
    facts = {"macs": multiply_adds(network, run.size), "shapes": shapes_of(network)}
    run.score(name, [network], run.size, trained=[first, second], half_way=half_way, **facts)
    run.weights[name] = half_precision(network)
    run.write_weights()
    return network


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
    parser.add_argument("--ways", nargs="*", default=list(ways()), choices=[*ways(), *ONE_AT_A_TIME])
    parser.add_argument("--ratios", nargs="*", type=float, default=[2, 5, 10, 20, 30])
    parser.add_argument("--seconds-per-stage", type=float, default=20.0, help="two stages a network")
    parser.add_argument("--total-seconds", type=float, default=500.0, help="no further cut begins after these")
    parser.add_argument("--teachers", type=int, default=3)
    parser.add_argument("--teacher-steps", type=int, default=400)
    parser.add_argument("--teacher-batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100, help="of distillation to each budget")
    parser.add_argument("--maps-a-removal", type=int, default=1, help="channels, in the ways that train meanwhile")
    parser.add_argument("--samples-a-removal", type=int, default=32, help="pictures that each of them is decided on")
    parser.add_argument("--steps-a-removal", type=int, help="of training after each, beyond those that all ways get")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--crops", type=int, default=6, help="random parts a picture")
    parser.add_argument("--samples", type=int, default=128, help="pictures that cuts are decided on")
    parser.add_argument("--height", type=int, default=DEEP_INPUT_SIZE[0], help="the width is four thirds of it")
    parser.add_argument("--limit", type=int, help="so many pictures a part, for rehearsals")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
