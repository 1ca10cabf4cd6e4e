"""Train the packaged gaze network and write its weights and held-out figures.

    python benchmarks/train_gaze_teacher.py DATA [--epochs 7] [--weights FILE] [--results FILE]

DATA holds gaze_osie, gaze_eyecrowd, gaze_scene500 and models/mobilenet_v2_imagenet_fp16.pth. The network is trained on
the training parts of the three sets and on rendered scenes together; every figure is on the test parts, which
are the ones that recipes evaluate on. About half an hour on two cores.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader

from secateur.workloads.gaze.centre_bias import fitted_centre_bias, gaussian_centre_bias
from secateur.workloads.gaze.dataset import FixatedPictures
from secateur.workloads.gaze.metrics import (
    correlation,
    divergence,
    information_gain,
    map_nss,
    nss,
    similarity,
)
from secateur.workloads.gaze.network import INPUT_SIZE, GazeNetwork
from secateur.workloads.gaze.readers import read_fixation_set
from secateur.workloads.gaze.recording import split_pictures
from secateur.workloads.gaze.roc import auc
from secateur.workloads.gaze.scenes import rendered
from secateur.workloads.gaze.task import fixation_loss
from secateur.workloads.gaze.teacher import WEIGHTS, save_teacher, teacher

SETS = ("osie", "eyecrowd", "scene500")
REFERENCES = {
    "note": "stated by the data's own notes, not measured here: centre bias and TinyHD (a trained video saliency "
    "student, still picture repeated), NSS at picture resolution on 60 pictures each; inter-observer NSS on all",
    "centre_bias_nss": {"osie": 0.84, "eyecrowd": 1.06, "scene500": 1.17},
    "tinyhd_nss": {"osie": 1.97, "eyecrowd": 1.46, "scene500": 1.37},
    "inter_observer_nss": {"osie": 3.50, "eyecrowd": 2.19, "scene500": 1.83},
}


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    parts = {name: read_parts(arguments.data / f"gaze_{name}") for name in SETS}
    scenes = rendered(num_train=arguments.scenes, num_test=100)
    counts = np.concatenate([part["train"].counts[part["train"].indices] for part in parts.values()])
    network = GazeNetwork(log_prior=fitted_centre_bias(counts))
    load_backbone(network, arguments.data / "models" / "mobilenet_v2_imagenet_fp16.pth")
    mixed = ConcatDataset([*(part["train"] for part in parts.values()), scenes.train])
    unfold_batch_norm(network, torch.stack([mixed[i][0] for i in range(0, len(mixed), max(1, len(mixed) // 128))]))
    history = train(network, mixed, {name: part["validation"] for name, part in parts.items()}, arguments)
    seconds = time.perf_counter() - started
    arguments.weights.parent.mkdir(parents=True, exist_ok=True)
    save_teacher(network.to(memory_format=torch.contiguous_format), arguments.weights)
    stored = teacher(arguments.weights)
    figures = {
        name: scores(stored, part["test"], fitted_centre_bias(part["train"].counts[part["train"].indices]))
        | picture_scores(stored, part["test"], arguments.data / f"gaze_{name}")
        for name, part in parts.items()
    }
    figures["rendered"] = scores(stored, scenes.test, gaussian_centre_bias()) | dict(scenes.facts)
    settings = {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)}
    result = {
        "test": figures, "references": REFERENCES, "settings": settings, "seconds": seconds, "history": history,
        "parameters": sum(p.numel() for p in stored.parameters()), "weights_bytes": arguments.weights.stat().st_size,
        "torch": torch.__version__,
    }  # fmt: skip
    arguments.results.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--backbone-learning-rate", type=float, default=3e-4)
    parser.add_argument("--readout-learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gaze_teacher.json")
    return parser.parse_args()


def read_parts(folder: Path) -> dict[str, FixatedPictures]:
    """Return a set's train, validation and test part, split as the readers split it."""
    fixations = read_fixation_set(folder)
    split = split_pictures(len(fixations.counts))
    return {
        part: FixatedPictures(picture=fixations.pictures, counts=fixations.counts, indices=getattr(split, part))
        for part in ("train", "validation", "test")
    }


def load_backbone(network: GazeNetwork, path: Path) -> None:
    """Copy MobileNetV2's ImageNet weights into the three stages; only the classifier's layers stay behind."""
    state = torch.load(path, weights_only=True)
    for stage, first in ((network.stride8, 0), (network.stride16, 7), (network.stride32, 14)):
        names = {
            f"{i}.{key}": f"features.{first + i}.{key}" for i, block in enumerate(stage) for key in block.state_dict()
        }
        stage.load_state_dict({own: state[theirs].float() for own, theirs in names.items()})


@torch.no_grad()
def unfold_batch_norm(network: GazeNetwork, pictures: Tensor) -> None:
    """Give the backbone's batch norms real statistics without changing its function.

    The published weights have every batch norm folded into its convolution. Filters are scaled to norm 1 and the
    scale moved into the norm behind; then mean and variance of each norm's input on ``pictures`` become its running
    statistics, and weight and bias are set so that it maps as before. Training then sees normalised layers again.
    """
    network.eval()
    stages = (network.stride8, network.stride16, network.stride32)
    layers = [layer for stage in stages for layer in stage.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    before = [stage_outputs.clone() for stage_outputs in network.features(pictures[:4])]
    for convolution, norm in zip(layers[::2], layers[1::2], strict=True):
        scale = convolution.weight.flatten(1).norm(dim=1).clamp_min(1e-6)
        convolution.weight /= scale.view(-1, 1, 1, 1)
        norm.weight *= scale

    def restate(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - factor * norm.running_mean
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(factor * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + factor * mean)

    hooks = [layer.register_forward_pre_hook(restate) for layer in layers[1::2]]
    network.features(pictures)
    for hook in hooks:
        hook.remove()
    pairs = zip(network.features(pictures[:4]), before, strict=True)
    worst = max(float((after - old).abs().max() / old.abs().max()) for after, old in pairs)
    print(f"unfolding changed the features by {worst:.1e} of their largest value", flush=True)


def train(network: GazeNetwork, mixed: ConcatDataset, validation: dict, arguments: argparse.Namespace) -> list[dict]:
    """Minimise the fixations' negative log-likelihood; learning rates warm up and fall along a cosine."""
    network.to(memory_format=torch.channels_last)
    backbone = [p for name, p in network.named_parameters() if name.startswith("stride")]
    readout = [p for name, p in network.named_parameters() if not name.startswith("stride")]
    optimiser = torch.optim.AdamW(
        [
            {"params": backbone, "lr": arguments.backbone_learning_rate},
            {"params": readout, "lr": arguments.readout_learning_rate},
        ],
        weight_decay=arguments.weight_decay,
    )
    loader = DataLoader(mixed, batch_size=arguments.batch_size, shuffle=True, drop_last=True)
    total = arguments.epochs * len(loader)
    warm = min(100, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1, (step + 1) / (warm + 1)) * 0.5 * (1 + math.cos(math.pi * min(1, step / total))),
    )
    history = []
    for epoch in range(arguments.epochs):
        started = time.perf_counter()
        network.train()
        losses = []
        for pictures, counts in loader:
            log_density = network(augmented(pictures, counts).to(memory_format=torch.channels_last))
            loss = fixation_loss(log_density, counts).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        entry = {"epoch": epoch, "loss": float(np.mean(losses)), "seconds": time.perf_counter() - started}
        for name, part in validation.items():
            log_density, counts = predict(network, part)
            entry[f"{name}_validation_nss"] = float(nss(log_density, counts).mean())
            entry[f"{name}_validation_loss"] = float(fixation_loss(log_density, counts).mean())
        history.append(entry)
        print({key: round(value, 3) for key, value in entry.items()}, flush=True)
    return history


def augmented(pictures: Tensor, counts: Tensor) -> Tensor:
    """Mirror half the pictures (and, in place, their counts), and vary brightness and contrast a little."""
    mirrored = torch.rand(len(pictures)) < 0.5
    pictures = torch.where(mirrored.view(-1, 1, 1, 1), pictures.flip(-1), pictures)
    counts[mirrored] = counts[mirrored].flip(-1)
    contrast = 0.7 + 0.6 * torch.rand(len(pictures), 1, 1, 1)
    brightness = 0.2 * torch.rand(len(pictures), 1, 1, 1) - 0.1
    middle = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return (middle + contrast * (pictures - middle) + brightness).clamp(0, 1)


@torch.inference_mode()
def predict(network: GazeNetwork, part: FixatedPictures) -> tuple[Tensor, Tensor]:
    network.eval()
    batches = [(network(pictures), counts) for pictures, counts in DataLoader(part, batch_size=16)]
    return torch.cat([densities for densities, _ in batches]), torch.cat([counts for _, counts in batches])


def scores(network: GazeNetwork, part: FixatedPictures, centre_bias: Tensor) -> dict[str, float]:
    """Return every metric on the grid, of the network and of the set's own centre bias."""
    log_density, counts = predict(network, part)
    values = {
        "num_pictures": torch.tensor(float(len(part))),
        "auc": auc(log_density, counts),
        "nss": nss(log_density, counts),
        "information_gain_bit": information_gain(log_density, counts, centre_bias),
        "correlation": correlation(log_density, counts),
        "similarity": similarity(log_density, counts),
        "kl_nats": divergence(log_density, counts),
        "fitted_centre_bias_auc": auc(centre_bias.expand_as(counts), counts),
        "fitted_centre_bias_nss": nss(centre_bias.expand_as(counts), counts),
    }
    return {name: float(value.mean()) for name, value in values.items()}


def picture_scores(network: GazeNetwork, part: FixatedPictures, folder: Path) -> dict[str, float]:
    """Return AUC and NSS on 192 x 256 pixels, the density interpolated: what coarse cells do to the figures."""
    log_density, _ = predict(network, part)
    density = functional.interpolate(log_density.exp()[:, None], size=INPUT_SIZE, mode="bilinear", align_corners=False)[
        :, 0
    ]
    counts = torch.from_numpy(read_fixation_set(folder, INPUT_SIZE).counts[part.indices])
    return {
        "picture_auc": float(auc(density, counts).mean()),
        "picture_nss": float(map_nss(density, counts).mean()),
    }


if __name__ == "__main__":
    main()
