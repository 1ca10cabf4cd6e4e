"""Time the gaze measures against pysaliency's on the same maps, and compare their values.

    python benchmarks/gaze_metrics.py DATA [--repeats 5] [--results FILE]

DATA holds gaze_osie. The maps are the packaged network's densities on test pictures of OSIE, at the size the viewers
saw them, 600 x 800, 20 of them, and on the grid that evaluations use, 48 x 64, all 140; the reference of map measures
is their fixations blurred by 0.03 of the width; areas under ROC curves are of the log-densities. Two comparisons:

- ``calls``: what users of either call on the set, from fixations as each keeps them to the mean over the pictures.
  pysaliency's models are as they are by default: they know the pictures by a hash of their pixels and keep the maps in
  memory, where they are after the first call; its AUC-Judd adds no noise, so that values can be equal.
- ``kernels``: the functions of arrays beneath, which pysaliency calls picture by picture, one value a picture. Fixated
  and other values are picked out beforehand for pysaliency's ROC curves, and counted into cells for ours.

The gold standard's score, at one bandwidth and mixture, has no maps. One thread; times are the process's own (a busy
machine stretches the clock on the wall, not these), the least of the repeats. pysaliency 0.2.22 calls a function by a
name that NumPy 2.4 no longer has; the script gives it that name.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pysaliency
import torch
from pysaliency import metrics
from pysaliency.roc import general_roc
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from secateur.backends.machine import machine_facts
from secateur.workloads.gaze import teacher
from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.kernel_density import KernelDensity, leave_viewers_out
from secateur.workloads.gaze.metrics import (
    information_gain,
    map_correlation,
    map_divergence,
    map_nss,
    map_similarity,
)
from secateur.workloads.gaze.npz_set import read_npz_set
from secateur.workloads.gaze.recording import read_picture, split_pictures
from secateur.workloads.gaze.roc import auc, auc_judd, shuffled_auc

SIZES = {(48, 64): 140, (600, 800): 20}
"""How many pictures are looked at with maps of how many rows and columns."""
MIT = {"floor": 0.0, "epsilon": 2.2204e-16}
THEIR_MIT = {"minimum_value": 0, "log_regularization": 2.2204e-16, "quotient_regularization": 2.2204e-16}
Measures = dict[str, tuple[Callable, Callable]]
"""Ours and pysaliency's as functions without arguments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gaze_metrics.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vars(np).setdefault("trapz", np.trapezoid)
    found: dict[str, dict] = {"calls": {}, "kernels": {}}
    for size, num_pictures in SIZES.items():
        maps = Maps.of(arguments.data / "gaze_osie", num_pictures, size)
        title = f"{size[0]}x{size[1]}, {len(maps.pictures)} pictures"
        for kind, measures in (("calls", calls(maps)), ("kernels", kernels(maps))):
            found[kind][title] = measured(measures, len(maps.pictures), arguments.repeats, f"{kind} {title}")
    large, num_pictures = max(SIZES.items())
    gold = {"gold_standard": gold_standard(arguments.data / "gaze_osie", num_pictures, large)}
    viewers = measured(gold, num_pictures, arguments.repeats, "viewers left out")
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "pysaliency")}
    result = {
        "machine": machine_facts().model_dump(), "threads": 1, **versions,
        "unit": "processor ms a picture", **found, "viewers left out": viewers,
    }  # fmt: skip
    arguments.results.write_text(json.dumps(result, indent=1) + "\n")


def measured(measures: Measures, num_pictures: int, repeats: int, title: str) -> dict[str, dict[str, float]]:
    """Return times and largest difference of every measure, and the times' sums."""
    rows = {}
    for name, (ours, theirs) in measures.items():
        (own, own_s), (other, other_s) = (timed(measure, repeats) for measure in (ours, theirs))
        rows[name] = {
            "ours_ms": 1e3 * own_s / num_pictures,
            "pysaliency_ms": 1e3 * other_s / num_pictures,
            "times_faster": other_s / own_s,
            "largest_difference": float(np.abs(np.asarray(own) - np.asarray(other)).max()),
        }
    ours_ms, theirs_ms = (sum(row[key] for row in rows.values()) for key in ("ours_ms", "pysaliency_ms"))
    rows["together"] = {"ours_ms": ours_ms, "pysaliency_ms": theirs_ms, "times_faster": theirs_ms / ours_ms}
    for name, row in rows.items():
        print(f"{title} {name:18s} " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    return rows


def timed(measure: Callable, repeats: int) -> tuple[Tensor | np.ndarray | list[float], float]:
    """Return the values, and the least processor time in seconds after one call to warm up."""
    values, times = measure(), []
    for _ in range(repeats):
        started = time.process_time()
        measure()
        times.append(time.process_time() - started)
    return values, min(times)


class Given(pysaliency.SaliencyMapModel):
    """A model with a map for every picture."""

    def __init__(self, maps: dict[bytes, np.ndarray]) -> None:
        super().__init__()
        self.maps = maps

    def _saliency_map(self, stimulus: np.ndarray) -> np.ndarray:
        return self.maps[stimulus.tobytes()]


class GivenDensity(pysaliency.Model):
    """A model with a log-density for every picture."""

    def __init__(self, maps: dict[bytes, np.ndarray]) -> None:
        super().__init__()
        self.maps = maps

    def _log_density(self, stimulus: np.ndarray) -> np.ndarray:
        return self.maps[stimulus.tobytes()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """Pictures [picture, rows, columns, 3], maps of each and a prior [rows, columns], and who looked where."""

    pictures: np.ndarray
    log_density: Tensor
    reference: Tensor
    prior: Tensor
    seen: Fixations

    @staticmethod
    def of(folder: Path, num_pictures: int, size: tuple[int, int]) -> "Maps":
        """Read the first test pictures of a set and their fixations, and predict them."""
        dataset = read_npz_set(folder)
        chosen = split_pictures(len(dataset.files)).test[:num_pictures]
        files = [dataset.files[index] for index in chosen]
        seen = dataset.fixations.where(np.isin(dataset.fixations.picture, chosen)).inside()
        seen = replace(seen, picture=np.searchsorted(chosen, seen.picture))
        blurred = gaussian_filter(
            seen.counts(len(chosen), size).astype(float), (0, 0.03 * size[1], 0.03 * size[1]), mode="constant"
        )
        return Maps(
            pictures=torch.stack([read_picture(file, size) for file in files]).permute(0, 2, 3, 1).numpy(),
            log_density=predict(files, size),
            reference=torch.from_numpy(blurred),
            prior=gaussian_centre_bias(grid=size).double(),
            seen=seen,
        )

    def cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the picture, the row and the column of every fixation."""
        rows, columns = self.prior.shape
        down, across = (self.seen.down * rows).astype(int), (self.seen.across * columns).astype(int)
        return self.seen.picture, down, across


def calls(maps: Maps) -> Measures:
    """Return what users call, one value a set."""
    picture, row, column = maps.cells()
    stimuli = pysaliency.Stimuli(list(maps.pictures))
    keys = [each.tobytes() for each in maps.pictures]
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        column[:, None].astype(float), row[:, None].astype(float), np.zeros((len(row), 1)), picture,
        np.zeros(len(row), dtype=int),
    )  # fmt: skip
    log_density, reference, prior, seen = maps.log_density, maps.reference, maps.prior, maps.seen
    density = log_density.exp()
    model, other, ranked = (
        Given(dict(zip(keys, each.numpy(), strict=True))) for each in (density, reference, log_density)
    )  # fmt: skip
    likely = GivenDensity(dict(zip(keys, log_density.numpy(), strict=True)))
    baseline = GivenDensity(dict.fromkeys(keys, prior.numpy()))
    both, by_picture = (stimuli, fixations), {"average": "image"}

    def counts() -> Tensor:
        return seen.sparse_counts(len(density), (prior.shape[0], prior.shape[1]))

    def shuffled() -> Tensor:
        own = counts()
        return shuffled_auc(log_density, own, torch.sparse.sum(own, 0), without_own=True).mean()

    return {
        "auc": (lambda: auc(log_density, counts()).mean(), lambda: ranked.AUC(*both, **by_picture)),
        "auc_judd": (lambda: auc_judd(log_density, counts()).mean(), lambda: ranked.AUC_Judd(*both, jitter=False)),
        "shuffled_auc": (shuffled, lambda: ranked.sAUC(*both, **by_picture)),
        "nss": (lambda: map_nss(density, counts()).mean(), lambda: model.NSS(*both, **by_picture)),
        "correlation": (lambda: map_correlation(density, reference).mean(), lambda: model.CC(stimuli, other)),
        "similarity": (lambda: map_similarity(density, reference).mean(), lambda: model.SIM(stimuli, other)),
        "divergence": (lambda: map_divergence(density, reference).mean(), lambda: model.KLDiv(stimuli, other)),
        "divergence_mit": (
            lambda: map_divergence(density, reference, **MIT).mean(),
            lambda: model.KLDiv(stimuli, other, **THEIR_MIT),
        ),
        "information_gain": (
            lambda: information_gain(log_density, counts(), prior).mean(),
            lambda: likely.information_gain(*both, baseline, **by_picture),
        ),
    }


def kernels(maps: Maps) -> Measures:
    """Return the functions of arrays, one value a picture; pysaliency has none for the information gain."""
    log_density, reference = maps.log_density, maps.reference
    density, sparse = log_density.exp(), maps.seen.sparse_counts(len(log_density), tuple(maps.prior.shape))
    picture, row, column = maps.cells()
    own = [picture == index for index in range(len(density))]
    first, second = list(density.numpy()), list(reference.numpy())
    ranked = [(each[row[at], column[at]], each) for each, at in zip(log_density.numpy(), own, strict=True)]
    every = [(fixated, values.ravel()) for fixated, values in ranked]
    nobody = [
        (fixated, values[counts == 0])
        for (fixated, values), counts in zip(ranked, sparse.to_dense().numpy(), strict=True)
    ]  # fmt: skip
    elsewhere = [
        (fixated, values[row[~at], column[~at]]) for (fixated, values), at in zip(ranked, own, strict=True)
    ]  # fmt: skip

    def areas(pairs: list[tuple[np.ndarray, np.ndarray]], judd: int = 0) -> list[float]:
        return [general_roc(fixated, others, judd=judd)[0] for fixated, others in pairs]

    def pairs(measure: Callable[..., float]) -> list[float]:
        return [measure(one, two) for one, two in zip(first, second, strict=True)]

    return {
        "auc": (lambda: auc(log_density, sparse), lambda: areas(every)),
        "auc_judd": (lambda: auc_judd(log_density, sparse), lambda: areas(nobody, judd=1)),
        "shuffled_auc": (
            lambda: shuffled_auc(log_density, sparse, torch.sparse.sum(sparse, 0), without_own=True),
            lambda: areas(elsewhere),
        ),
        "nss": (
            lambda: map_nss(density, sparse),
            lambda: [metrics.NSS(one, column[at], row[at]).mean() for one, at in zip(first, own, strict=True)],
        ),
        "correlation": (lambda: map_correlation(density, reference), lambda: pairs(metrics.CC)),
        "similarity": (lambda: map_similarity(density, reference), lambda: pairs(metrics.SIM)),
        "divergence": (
            lambda: map_divergence(density, reference), lambda: pairs(metrics.image_based_kl_divergence)
        ),
        "divergence_mit": (lambda: map_divergence(density, reference, **MIT), lambda: pairs(metrics.MIT_KLDiv)),
    }  # fmt: skip


def gold_standard(folder: Path, num_pictures: int, size: tuple[int, int]) -> tuple[Callable, Callable]:
    """Return the gold standard's score, bit a fixation, of ours and pysaliency's as functions without arguments."""
    from pysaliency import baseline_utils

    bandwidth, centre, uniform = 0.03, 0.1, 0.05
    osie = read_npz_set(folder)
    chosen = split_pictures(len(osie.files)).test[:num_pictures]
    seen = osie.fixations.where(np.isin(osie.fixations.picture, chosen))
    picture = np.searchsorted(chosen, seen.picture)
    prior = gaussian_centre_bias(grid=size).double()
    stimuli = pysaliency.Stimuli([np.full(size, index, dtype=np.uint8) for index in range(len(chosen))])
    keys = [stimulus.stimulus_data.tobytes() for stimulus in stimuli]
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        seen.across[:, None] * size[1], seen.down[:, None] * size[0], np.zeros((len(seen), 1)), picture, seen.viewer
    )
    score = baseline_utils.CrossvalMultipleRegularizations(
        stimuli, fixations,
        {"uniform": pysaliency.UniformModel(), "centre": GivenDensity(dict.fromkeys(keys, prior.numpy()))},
        baseline_utils.ScikitLearnImageSubjectCrossValidationGenerator(stimuli, fixations),
    ).score  # fmt: skip
    density = KernelDensity(bandwidth=bandwidth, centre_bias=centre, uniform=uniform)
    return (
        lambda: leave_viewers_out(seen, osie.sizes, bandwidth, prior).gain(density).mean(),
        lambda: score(*np.log10([bandwidth, uniform, centre])),
    )


def predict(files: list[Path], size: tuple[int, int]) -> torch.Tensor:
    """Return the packaged network's log-densities at the size of the pictures, float64."""
    network = teacher()
    with torch.inference_mode():
        pictures = torch.stack([read_picture(file) for file in files]).float() / 255
        coarse = torch.cat([network(part) for part in pictures.split(8)]).double()
    large = functional.interpolate(coarse[:, None], size=size, mode="bilinear", align_corners=False)
    return large.flatten(1).log_softmax(1).view(-1, *size).clone()


if __name__ == "__main__":
    main()
