"""All pictures of the gaze benchmarks on one device, the views of them that networks train on, and held-out scores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.workloads.gaze.centre_bias import fitted_centre_bias
from secateur.workloads.gaze.metrics import information_gain, nss
from secateur.workloads.gaze.readers import read_set
from secateur.workloads.gaze.recording import read_picture, split_pictures
from secateur.workloads.gaze.roc import auc, auc_judd

SETS = ("osie", "eyecrowd", "scene500")
CELL = 8
"""Pixels of the deep networks' input in a row or column of a grid cell."""
PICTURES = {".webp", ".jpg", ".jpeg", ".png"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Pictures uint8 [picture, 3, height, width] and fixation counts [picture, rows, columns], zeros where unknown.

    ``parts`` maps names to indices of pictures: ``train`` and ``validation`` of the sets that are trained on,
    ``unlabelled``, the ``held-out`` set, whole, and the test part of each set by its name.
    """

    pictures: Tensor
    counts: Tensor
    parts: dict[str, Tensor]
    centre_bias: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the densities."""
        return self.counts.shape[1], self.counts.shape[2]


def read_pool(
    data: Path, held_out: str, unlabelled: Path | None, size: tuple[int, int], device: torch.device, limit: int | None
) -> Pool:
    """Read the sets at a height and width; ``limit`` takes so many pictures a part, for rehearsals."""
    grid = size[0] // CELL, size[1] // CELL
    files: list[Path] = []
    counts, parts = [], dict[str, list[np.ndarray]]()

    def add(name: str, indices: np.ndarray, first: int) -> None:
        parts.setdefault(name, []).append(indices[:limit] + first)

    for name in SETS:
        found, first = read_set(name, data / f"gaze_{name}"), len(files)
        split = split_pictures(len(found.files))
        add(f"test {name}", split.test, first)
        if name == held_out:
            add("held-out", np.arange(len(found.files)), first)
        else:
            add("train", split.train, first)
            add("validation", split.validation, first)
        files += found.files
        counts.append(found.fixations.counts(len(found.files), grid))
    more = sorted(file for file in unlabelled.iterdir() if file.suffix in PICTURES) if unlabelled else []
    parts["unlabelled"] = [np.arange(len(more))[:limit] + len(files)]
    counts.append(np.zeros((len(more), *grid), dtype=np.float32))
    files += more
    indices = {name: np.concatenate(some) for name, some in parts.items()}
    wanted = np.unique(np.concatenate(list(indices.values())))
    with ThreadPoolExecutor() as threads:
        pictures = torch.stack(list(threads.map(partial(read_picture, size=size), [files[i] for i in wanted])))
    every = np.concatenate(counts)
    places = {name: torch.from_numpy(np.searchsorted(wanted, some)).to(device) for name, some in indices.items()}
    return Pool(
        pictures=pictures.to(device), counts=torch.from_numpy(every[wanted]).to(device), parts=places,
        centre_bias=fitted_centre_bias(every[indices["train"]]).to(device),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Parts of pictures: [view] indices of pictures, boxes (top, left, height, width) in shares, mirrored or not.

    ``plain`` views are whole pictures, to which their fixations belong. ``log_density`` is what teachers say of them.
    """

    picture: Tensor
    box: Tensor
    mirrored: Tensor
    log_density: Tensor | None = None

    def __len__(self) -> int:
        return len(self.picture)

    @property
    def plain(self) -> Tensor:
        """Tell whole pictures."""
        return self.box[:, 2] == 1

    def of(self, chosen: Tensor) -> "Views":
        """Return some of the views."""
        density = None if self.log_density is None else self.log_density[chosen]
        return Views(
            picture=self.picture[chosen], box=self.box[chosen], mirrored=self.mirrored[chosen], log_density=density
        )

    def pixels(self, pool: Pool, size: tuple[int, int]) -> Tensor:
        """Return the views' pixels, float in 0..1, [view, 3, height, width]."""
        top, left, height, width = self.box.T
        sign = torch.where(self.mirrored, -1.0, 1.0)
        zeros = torch.zeros_like(top)
        across = torch.stack([sign * width, zeros, 2 * left + width - 1], 1)
        down = torch.stack([zeros, height, 2 * top + height - 1], 1)
        shape = [len(self), 3, *size]
        # Half precision would move the places that pixels are read at.
        with torch.autocast(self.box.device.type, enabled=False):
            where = functional.affine_grid(torch.stack([across, down], 1), shape, align_corners=False)
            whole = pool.pictures[self.picture].float() / 255
            return functional.grid_sample(whole, where, mode="bilinear", padding_mode="border", align_corners=False)

    def counts(self, pool: Pool) -> Tensor:
        """Return the fixation counts of whole pictures, zeros for other views."""
        counts = pool.counts[self.picture]
        counts = torch.where(self.mirrored[:, None, None], counts.flip(-1), counts)
        return counts * self.plain[:, None, None]


def draw_views(pool: Pool, num_crops: int, generator: torch.Generator) -> Views:
    """Return every training picture plain and mirrored, and random parts of it and of the unlabelled ones.

    Parts have between a half and nine tenths of either side.
    """
    device = pool.pictures.device
    train = pool.parts["train"].cpu()
    source = torch.cat([train, pool.parts["unlabelled"].cpu()])
    unlabelled = pool.parts["unlabelled"].cpu()
    cropped = source.repeat(num_crops)
    side = 0.5 + 0.4 * torch.rand(len(cropped), 2, generator=generator)
    start = (1 - side) * torch.rand(len(cropped), 2, generator=generator)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    picture = torch.cat([train, train, unlabelled, unlabelled, cropped])
    num_whole = 2 * len(train) + 2 * len(unlabelled)
    mirrored = torch.cat(
        [
            torch.arange(2).repeat_interleave(len(train)).bool(),
            torch.arange(2).repeat_interleave(len(unlabelled)).bool(),
            torch.rand(len(cropped), generator=generator) < 0.5,
        ]
    )
    box = torch.cat([whole.expand(num_whole, 4), torch.cat([start, side], 1)])
    return Views(picture=picture.to(device), box=box.to(device), mirrored=mirrored.to(device))


def recoloured(pictures: Tensor) -> Tensor:
    """Vary brightness and contrast a little."""
    shape = (len(pictures), 1, 1, 1)
    contrast = 0.7 + 0.6 * torch.rand(shape, device=pictures.device)
    brightness = 0.2 * torch.rand(shape, device=pictures.device) - 0.1
    middle = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return (middle + contrast * (pictures - middle) + brightness).clamp(0, 1)


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that MobileNetV2's network sees of such pictures."""
    return size[0] // 2, size[1] // 2


@torch.inference_mode()
def log_densities(
    networks: Sequence[nn.Module], pool: Pool, views: Views, size: tuple[int, int], batch_size: int
) -> Tensor:
    """Return the log of the networks' mean density, [view, rows, columns], float on the views' device."""
    found = []
    if views.picture.device.type == "cpu":
        batch_size = min(batch_size, 2)  # of more, what lies between two layers leaves the cache
    for first in range(0, len(views), batch_size):
        some = views.of(torch.arange(first, min(first + batch_size, len(views)), device=views.picture.device))
        pixels = some.pixels(pool, size)
        found.append(torch.stack([network.eval()(pixels).float() for network in networks]).logsumexp(0))
    return torch.cat(found) - float(np.log(len(networks)))


def whole_pictures(pool: Pool, part: str) -> Views:
    """Return a part's pictures as they are."""
    picture = pool.parts[part]
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], device=picture.device).expand(len(picture), 4)
    return Views(picture=picture, box=box, mirrored=torch.zeros_like(picture, dtype=torch.bool))


MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "auc": lambda density, counts, _: auc(density, counts),
    "auc_judd": lambda density, counts, _: auc_judd(density, counts),
    "nss": lambda density, counts, _: nss(density, counts),
    "information_gain_bit": information_gain,
}


def scores(log_density: Tensor, pool: Pool, part: str) -> dict[str, Tensor]:
    """Return every measure for every picture of a part, on the processor."""
    density, counts = log_density.float().cpu(), pool.counts[pool.parts[part]].cpu()
    return {name: measure(density, counts, pool.centre_bias.cpu()) for name, measure in MEASURES.items()}


def shuffled_batches(num: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches of indices below ``num``, each index once before any comes again, without end."""
    size = min(batch_size, num)
    while True:
        order = torch.randperm(num, device=device)
        for first in range(0, num - size + 1, size):
            yield order[first : first + size]
