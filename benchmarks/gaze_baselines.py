"""What gaze networks are measured against: classical saliency, published peers, and other people."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, uniform_filter
from tinyhd import HEIGHT, WIDTH
from torch import Tensor, nn
from torch.nn import functional

from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.recording import Recording

Maps = Float[Tensor, "picture rows columns"]
BLUR_SHARE = 0.03
"""The width of a fixation's blur as a share of the picture's: about a degree of visual angle."""


def spectral_residual(pictures: Float[Tensor, "picture 3 height width"], grid: tuple[int, int]) -> Maps:
    """Return the saliency of Hou and Zhang 2007: what a picture's log spectrum has beyond its local mean.

    Pictures are taken to the grid's size, brightness alone; the squared map is blurred by 2.5 cells, as 64 pixels wide.
    """
    small = functional.interpolate(pictures.mean(1, keepdim=True), size=grid, mode="bilinear", antialias=True)[:, 0]
    spectrum = np.fft.fft2(small.double().numpy())
    amplitude = np.log(np.abs(spectrum) + 1e-12)
    residual = amplitude - uniform_filter(amplitude, (0, 3, 3), mode="nearest")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return torch.from_numpy(gaussian_filter(saliency, (0, 2.5, 2.5))).float()


def other_viewers(recording: Recording, grid: tuple[int, int]) -> tuple[Maps, Maps, Tensor]:
    """Return, for every viewer of every picture, the others' blurred fixations, the own ones, and the picture.

    Pictures with a single viewer are left out. It is how well people predict one another: the ceiling of what a
    network can know that does not know who looks.
    """
    found = recording.fixations
    viewers, viewer = np.unique(found.viewer, return_inverse=True)
    pairs = Fixations(
        picture=found.picture * len(viewers) + viewer, viewer=found.viewer, across=found.across, down=found.down
    )
    counts = pairs.counts(len(recording.files) * len(viewers), grid).reshape(-1, len(viewers), *grid)
    others = counts.sum(1, keepdims=True) - counts
    picture, who = np.nonzero((counts.sum((2, 3)) > 0) & (others.sum((2, 3)) > 0))
    sigma = BLUR_SHARE * grid[1]
    blurred = gaussian_filter(others[picture, who], (0, sigma, sigma), mode="constant")
    return torch.from_numpy(blurred), torch.from_numpy(counts[picture, who]), torch.from_numpy(picture)


def mean_by_picture(values: Tensor, picture: Tensor) -> Tensor:
    """Return the mean of values over each picture's entries, of the pictures that have any."""
    sums = torch.zeros(2, int(picture.max()) + 1, dtype=torch.float64)
    sums.index_add_(1, picture, torch.stack([values.double(), torch.ones_like(values, dtype=torch.float64)]))
    return (sums[0] / sums[1])[sums[1] > 0]


@dataclass(frozen=True, eq=False)
class AttentionCenter:
    """google/attention-center on one or more threads. ImportError without ai-edge-litert.

    Its file gives a point only; the map that the point is the centre of is a tensor inside, which is kept only where
    ``map_kept``.
    """

    file: Path
    num_threads: int = 1
    map_kept: bool = False

    @cached_property
    def interpreter(self) -> Any:
        """The runtime, with its memory allocated."""
        from ai_edge_litert.interpreter import Interpreter

        found = Interpreter(
            model_path=str(self.file), num_threads=self.num_threads, experimental_preserve_all_tensors=self.map_kept
        )
        found.allocate_tensors()
        return found

    def give(self, pictures: Float[Tensor, "1 3 height width"]) -> None:
        """Set the next picture, in 0..1."""
        name, picture = sorted(self.interpreter.get_input_details(), key=lambda detail: detail["shape"].size)
        size = tuple(picture["shape"][1:3])
        (one,) = functional.interpolate(pictures, size=size, mode="bilinear", antialias=True)
        given = np.ascontiguousarray(255 * one.permute(1, 2, 0).numpy())[None].astype(np.float32)
        self.interpreter.set_tensor(name["index"], np.array(b"picture", dtype=object))
        self.interpreter.set_tensor(picture["index"], given)

    def maps(self, pictures: Float[Tensor, "picture 3 height width"], grid: tuple[int, int]) -> Maps:
        """Return saliency on a grid."""
        details = self.interpreter.get_tensor_details()
        (summed,) = (detail["index"] for detail in details if detail["name"] == "AddN")
        found = []
        for one in pictures:
            self.give(one[None])
            self.interpreter.invoke()
            found.append(torch.from_numpy(self.interpreter.get_tensor(summed)[0, :, :, 0].copy()))
        stacked = torch.stack(found)[:, None].float()
        return functional.interpolate(stacked, size=grid, mode="bilinear", antialias=True)[:, 0]


@torch.inference_mode()
def tinyhd_maps(
    network: nn.Module, pictures: Float[Tensor, "picture 3 height width"], grid: tuple[int, int]
) -> Maps:  # fmt: skip
    """Return what TinyHD says of still pictures, on a grid."""
    small = functional.interpolate(pictures, size=(HEIGHT, WIDTH), mode="bilinear", antialias=True)
    found = torch.cat([network(one[None]) for one in small])
    return functional.interpolate(found[:, None], size=grid, mode="bilinear", antialias=True)[:, 0]
