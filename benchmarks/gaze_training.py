"""Training of gaze networks on views of pictures that all lie on one device, under a limit of steps or of seconds."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gaze_pool import Pool, Views, half, recoloured, shuffled_batches
from torch import Tensor, nn
from torch.nn import functional
from train_gaze_teacher import load_backbone, unfold_batch_norm

from secateur.workloads.gaze.backbones import DeepGaze
from secateur.workloads.gaze.network import GazeNetwork

FIXATIONS, DENSITY = 0.1, 0.9
"""What the parts of the students' loss count (Theis et al. 2018, section 2.4)."""


TRUNK_RATES = {"squeezegaze": 0.03}
"""The share of the rate at which a trained trunk without batch norms learns: at the whole, its channels die."""
WHILE_CUTTING: dict[str, Any] = {"constant": True, "learning_rate": 2.5e-3, "weight_decay": 0.0}
"""Settings of a training that goes on between removals (the same paper's)."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When training ends: after so many steps or seconds, whichever is first. Learning rates fall along a cosine."""

    steps: int | None = None
    seconds: float | None = None

    def done(self, step: int, elapsed: float) -> float:
        """Return the share of the training that is over."""
        shares = [step / self.steps] if self.steps else []
        return max([*shares, elapsed / self.seconds] if self.seconds else shares)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Settings of a training in place; ``warmup`` is in steps.

    With ``tuned``, which pays off in long trainings, cuDNN tries its algorithms for every layer. Where the rate is
    ``constant`` the optimiser is SGD with momentum 0.9, otherwise AdamW. Layers in a ``trunk`` learn at that share of
    the rate.
    """

    limit: Limit
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 20
    tuned: bool = False
    constant: bool = False
    trunk: float = 1.0
    precision: torch.dtype = torch.bfloat16

    def __call__(
        self, network: nn.Module, loss: Callable[[], Tensor], groups: list[dict[str, object]] | None = None
    ) -> dict[str, float]:
        """Minimise ``loss()``, which draws its own batches, over all or some groups of parameters; return a record."""
        torch.backends.cudnn.benchmark = self.tuned
        device = next(network.parameters()).device
        network.train().to(memory_format=torch.channels_last)
        rate = self.learning_rate
        trained = groups or _rates(network, lambda name: ".trunk." in f".{name}", self.trunk * rate, rate)
        optimiser = (
            torch.optim.SGD(trained, lr=rate, momentum=0.9, weight_decay=self.weight_decay)
            if self.constant
            else torch.optim.AdamW(trained, lr=rate, weight_decay=self.weight_decay)
        )
        peaks = [group["lr"] for group in optimiser.param_groups]
        # On the device, so that no step waits for the one before it.
        recent = torch.zeros((), device=device)
        step, started = 0, time.perf_counter()
        while (done := self.limit.done(step, time.perf_counter() - started)) < 1:
            share = min(1, (step + 1) / (self.warmup + 1)) * 0.5 * (1 + math.cos(math.pi * done))
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak if self.constant else peak * share
            with torch.autocast(device.type, self.precision, enabled=fast_in_half(device)):
                value = loss()
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            recent.lerp_(value.detach().float(), 1.0 if step == 0 else 0.05)
            step += 1
            if step % 8 == 0 and device.type == "cuda":
                torch.cuda.synchronize(device)
        network.eval()
        torch.backends.cudnn.benchmark = False
        return {"steps": step, "seconds": time.perf_counter() - started, "loss": float(recent)}


def fast_in_half(device: torch.device) -> bool:
    """Tell whether a device multiplies matrices faster in bfloat16 than in float32: GPUs, and processors with AMX."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def fixation_term(log_density: Tensor, counts: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of a fixation over the pictures that have any."""
    numbers = counts.flatten(1).sum(1)
    # Divided by one where there is none: a division by zero, masked or not, has no gradient.
    losses = -(counts * log_density.float()).flatten(1).sum(1) / numbers.clamp_min(1)
    return losses.sum() / (numbers > 0).sum().clamp_min(1)


def density_term(log_density: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean cross-entropy of a density with the one wanted."""
    return -(wanted.float().exp() * log_density.float()).flatten(1).sum(1).mean()


def mobile_teacher(
    pool: Pool, weights: Path, size: tuple[int, int], batch_size: int, fit: Fit, backbone_rate: float
) -> tuple[GazeNetwork, dict[str, float]]:
    """Train the MobileNetV2 network from ImageNet weights on the training pictures' fixations alone."""
    device, small = pool.pictures.device, half(size)
    network = GazeNetwork(log_prior=pool.centre_bias.cpu())
    load_backbone(network, weights)
    train = pool.parts["train"]
    step = max(1, len(train) // 128)
    unfold_batch_norm(network, _plain(pool, train[::step], small).cpu())
    network.to(device)
    draws = shuffled_batches(len(train), batch_size, device)

    def loss() -> Tensor:
        picture = train[next(draws)]
        views = _whole(picture, torch.rand(len(picture), device=device) < 0.5)
        return fixation_term(network(_laid(recoloured(views.pixels(pool, small)))), views.counts(pool))

    return network, fit(
        network, loss, _rates(network, lambda name: name.startswith("stride"), backbone_rate, fit.learning_rate)
    )


def load_squeezenet(network: DeepGaze, weights: Path) -> None:
    """Copy SqueezeNet 1.1's ImageNet weights into the trunk."""
    state = torch.load(weights, weights_only=True)
    network.trunk.load_state_dict({name: state[f"features.{name}"].float() for name in network.trunk.state_dict()})


def distil_features(
    network: DeepGaze, teacher: GazeNetwork, pool: Pool, views: Views, size: tuple[int, int], batch_size: int, fit: Fit
) -> dict[str, float]:
    """Teach a network at half its resolution: the teacher's density, and its features as a linear map of its own.

    The features are those of MobileNetV2 at strides 16 and 32, each channel normalised to variance 1 over the batch.
    """
    device, small = pool.pictures.device, half(size)
    draws = shuffled_batches(len(views), batch_size, device)
    with torch.no_grad():
        few = views.of(torch.arange(2, device=device)).pixels(pool, small)
        num_own = network.eval().features(few).shape[1]
        num_theirs = _teachers(teacher.eval(), few)[0].shape[1]
    student = nn.ModuleDict({"network": network, "map": nn.Conv2d(num_own, num_theirs, 1)}).to(device)

    def loss() -> Tensor:
        some = views.of(next(draws))
        pixels = _laid(recoloured(some.pixels(pool, small)))
        with torch.no_grad():
            wanted, log_density = _teachers(teacher, pixels)
        own = network.features(pixels)
        mapped = functional.adaptive_avg_pool2d(student["map"](own), wanted.shape[2:])
        found = functional.mse_loss(mapped.float(), wanted.float())
        return found + density_term(network.from_features(own), log_density)

    return fit(student, loss)


def distil(
    network: nn.Module, pool: Pool, views: Views, size: tuple[int, int], batch_size: int, fit: Fit
) -> dict[str, float]:
    """Teach a network the fixations of whole training pictures and the densities that come with the views."""
    draw = _batches(pool, views, batch_size)

    def loss() -> Tensor:
        some = next(draw)
        log_density = network(_laid(recoloured(some.pixels(pool, size))))
        if some.log_density is None:
            raise ValueError("distillation needs views that teachers have seen")
        fixations = fixation_term(log_density, some.counts(pool))
        return FIXATIONS * fixations + DENSITY * density_term(log_density, some.log_density)

    return fit(network, loss)


def _batches(pool: Pool, views: Views, batch_size: int) -> Iterator[Views]:
    """Yield batches of which one half are whole pictures with fixations."""
    fixated = views.plain & (pool.counts.flatten(1).sum(1) > 0)[views.picture]
    known, others = (mask.nonzero().squeeze(1) for mask in (fixated, ~fixated))
    device = views.picture.device
    draws = [
        (some, shuffled_batches(len(some), max(1, batch_size // 2), device)) for some in (known, others) if len(some)
    ]
    while True:
        yield views.of(torch.cat([some[next(draw)] for some, draw in draws]))


def _teachers(teacher: GazeNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return a teacher's normalised features at stride 16 and its log-density."""
    fine, middle, coarse = teacher.features(pixels)
    both = torch.cat([middle, functional.interpolate(coarse, size=middle.shape[2:], mode="bilinear")], 1).float()
    variance, mean = torch.var_mean(both, dim=(0, 2, 3), keepdim=True)
    return (both - mean) * (variance + 1e-5).rsqrt(), teacher.from_features(fine, middle, coarse).float()


def _rates(
    network: nn.Module, is_inner: Callable[[str], bool], inner: float, outer: float
) -> list[dict[str, object]]:  # fmt: skip
    named = list(network.named_parameters())
    return [
        {"params": [p for name, p in named if is_inner(name)], "lr": inner},
        {"params": [p for name, p in named if not is_inner(name)], "lr": outer},
    ]


def _whole(picture: Tensor, mirrored: Tensor) -> Views:
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], device=picture.device).expand(len(picture), 4)
    return Views(picture=picture, box=box, mirrored=mirrored)


def _plain(pool: Pool, picture: Tensor, size: tuple[int, int]) -> Tensor:
    return _whole(picture, torch.zeros_like(picture, dtype=torch.bool)).pixels(pool, size)


def _laid(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)
