"""What the stages of training and cutting gaze networks share: the pictures, and the results so far."""

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gaze_family import single_precision
from gaze_pool import Pool, Views, draw_views, log_densities, read_pool, scores, whole_pictures
from gaze_training import fixation_term
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LARGEST_FILE = 15 * 2**20


@dataclass(kw_only=True)
class Run:
    """The results so far, and where they are written. What earlier runs left is there from the beginning."""

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

    def restored(self, name: str, network: nn.Module) -> nn.Module:
        """Return a network with the weights that were kept under a name."""
        network.load_state_dict(single_precision(self.weights[name]))
        return network.to(self.device).eval()

    def tried(self, row: str, attempt: Callable[[], nn.Module]) -> nn.Module | None:
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


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for without the places on this machine."""
    return {name: value for name, value in vars(given).items() if name not in ("data", "out", "unlabelled", "resume")}
