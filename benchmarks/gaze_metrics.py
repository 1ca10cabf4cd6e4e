"""Time the gaze measures against pysaliency's on the same maps, and compare their values.

    python benchmarks/gaze_metrics.py DATA [--pictures 20] [--repeats 5] [--results FILE]

DATA holds gaze_osie. The maps are the packaged network's densities on test pictures of OSIE, at the size the viewers
saw them, 600 x 800, and on the grid that evaluations use, 48 x 64; the reference of map measures is their fixations
blurred by 0.03 of the width; areas under ROC curves are of the log-densities. Either gets fixations as it keeps them:
ours sparse counts, pysaliency its trains. The gold standard's score, at one
bandwidth and mixture, has no maps. One thread; times are the process's own (a busy machine stretches the clock on the
wall, not these), the least of the repeats. pysaliency 0.2.22 calls a function by a name that NumPy 2.4 no longer has;
the script gives it that name.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pysaliency
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from secateur.workloads.gaze import teacher
from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
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

SIZES = ((48, 64), (600, 800))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gaze_metrics.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vars(np).setdefault("trapz", np.trapezoid)
    sizes = {}
    for size in SIZES:
        measures = compared(arguments.data / "gaze_osie", arguments.pictures, size)
        sizes[f"{size[0]}x{size[1]}"] = measured(measures, arguments, str(size))
    machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
    versions = {"numpy": np.__version__, "pysaliency": metadata.version("pysaliency")}
    sizes["viewers left out"] = measured({"gold_standard": gold_standard(arguments)}, arguments, "viewers left out")
    result = {**machine, **versions, "pictures": arguments.pictures, "unit": "processor ms a picture", "sizes": sizes}
    arguments.results.write_text(json.dumps(result, indent=1) + "\n")


def measured(
    measures: dict[str, tuple[Callable, Callable]], arguments: argparse.Namespace, title: str
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return times and largest difference of every measure, and the times' sums."""
    rows = {}
    for name, (ours, theirs) in measures.items():
        (own, own_s), (other, other_s) = (timed(measure, arguments.repeats) for measure in (ours, theirs))
        rows[name] = {
            "ours_ms": 1e3 * own_s / arguments.pictures,
            "pysaliency_ms": 1e3 * other_s / arguments.pictures,
            "times_faster": other_s / own_s,
            "largest_difference": float(np.abs(np.asarray(own) - other).max()),
        }
    ours_ms, theirs_ms = (sum(row[key] for row in rows.values()) for key in ("ours_ms", "pysaliency_ms"))
    rows["together"] = {"ours_ms": ours_ms, "pysaliency_ms": theirs_ms, "times_faster": theirs_ms / ours_ms}
    for name, row in rows.items():
        print(f"{title} {name:18s} " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    return rows


def timed(measure: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float]:
    """Return the values, and the least processor time in seconds after one call to warm up."""
    values, times = measure(), []
    for _ in range(repeats):
        started = time.process_time()
        measure()
        times.append(time.process_time() - started)
    return values, min(times)


class Given(pysaliency.SaliencyMapModel):
    """A model that knows its maps and keeps nothing else."""

    def __init__(self, maps: dict[bytes, np.ndarray]) -> None:
        super().__init__(caching=False)
        self.maps = maps

    def _saliency_map(self, stimulus: np.ndarray) -> np.ndarray:
        return self.maps[stimulus.tobytes()]


class GivenDensity(pysaliency.Model):
    """A model that knows its log-densities and keeps nothing else."""

    def __init__(self, maps: dict[bytes, np.ndarray]) -> None:
        super().__init__(caching=False)
        self.maps = maps

    def _log_density(self, stimulus: np.ndarray) -> np.ndarray:
        return self.maps[stimulus.tobytes()]


def compared(folder: Path, num_pictures: int, size: tuple[int, int]) -> dict[str, tuple[Callable, Callable]]:
    """Return each measure of ours and pysaliency's as functions without arguments, one value a picture."""
    osie = read_npz_set(folder)
    chosen = split_pictures(len(osie.files)).test[:num_pictures]
    log_density = predict([osie.files[index] for index in chosen], size)
    density = log_density.exp()
    seen = osie.fixations.where(np.isin(osie.fixations.picture, chosen))
    sparse = replace(seen, picture=np.searchsorted(chosen, seen.picture)).sparse_counts(len(chosen), size)
    counts = sparse.to_dense()
    reference = torch.from_numpy(gaussian_filter(counts.numpy(), (0, 0.03 * size[1], 0.03 * size[1]), mode="constant"))
    prior = gaussian_centre_bias(grid=size).double()
    # A stimulus only tells the maps apart: one pixel's worth of bytes would do, but pysaliency checks its size.
    stimuli = pysaliency.Stimuli([np.full(size, index, dtype=np.uint8) for index in range(len(chosen))])
    keys = [stimulus.stimulus_data.tobytes() for stimulus in stimuli]
    picture, row, column = (each.repeat_interleave(counts[counts > 0].long()) for each in counts.nonzero(as_tuple=True))
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        column[:, None].double().numpy(), row[:, None].double().numpy(), np.zeros((len(row), 1)), picture.numpy(),
        np.zeros(len(row), dtype=int),
    )  # fmt: skip
    model, other, ranked = (
        Given(dict(zip(keys, maps.numpy(), strict=True))) for maps in (density, reference, log_density)
    )  # fmt: skip
    likely = GivenDensity(dict(zip(keys, log_density.numpy(), strict=True)))
    baseline = GivenDensity(dict.fromkeys(keys, prior.numpy()))

    def means(values: np.ndarray) -> np.ndarray:
        return np.bincount(picture.numpy(), values) / np.bincount(picture.numpy())

    both = (stimuli, fixations)
    return {
        "auc": (lambda: auc(log_density, sparse), lambda: ranked.AUC_per_image(*both)),
        "auc_judd": (
            lambda: auc_judd(log_density, sparse),
            lambda: ranked.AUC_per_image(*both, nonfixations="unfixated", thresholds="fixations"),
        ),
        "shuffled_auc": (
            lambda: shuffled_auc(log_density, sparse, torch.sparse.sum(sparse, 0), without_own=True),
            lambda: ranked.AUC_per_image(*both, nonfixations="shuffled"),
        ),
        "nss": (lambda: map_nss(density, sparse), lambda: means(model.NSSs(*both))),
        "correlation": (lambda: map_correlation(density, reference), lambda: model.CCs(stimuli, other)),
        "similarity": (lambda: map_similarity(density, reference), lambda: model.SIMs(stimuli, other)),
        "divergence": (lambda: map_divergence(density, reference), lambda: model.KLDivs(stimuli, other)),
        "divergence_mit": (
            lambda: map_divergence(density, reference, floor=0.0, epsilon=2.2204e-16),
            lambda: model.KLDivs(
                stimuli, other, minimum_value=0, log_regularization=2.2204e-16, quotient_regularization=2.2204e-16
            ),
        ),
        "information_gain": (
            lambda: information_gain(log_density, sparse, prior),
            lambda: means(likely.information_gains(*both, baseline)),
        ),
    }


def gold_standard(arguments: argparse.Namespace) -> tuple[Callable, Callable]:
    """Return the gold standard's score, bit a fixation, of ours and pysaliency's as functions without arguments."""
    from pysaliency import baseline_utils as theirs

    size, bandwidth, centre, uniform = SIZES[-1], 0.03, 0.1, 0.05
    osie = read_npz_set(arguments.data / "gaze_osie")
    chosen = split_pictures(len(osie.files)).test[: arguments.pictures]
    seen = osie.fixations.where(np.isin(osie.fixations.picture, chosen))
    picture = np.searchsorted(chosen, seen.picture)
    prior = gaussian_centre_bias(grid=size).double()
    stimuli = pysaliency.Stimuli([np.full(size, index, dtype=np.uint8) for index in range(len(chosen))])
    keys = [stimulus.stimulus_data.tobytes() for stimulus in stimuli]
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        seen.across[:, None] * size[1], seen.down[:, None] * size[0], np.zeros((len(seen), 1)), picture, seen.viewer
    )
    score = theirs.CrossvalMultipleRegularizations(
        stimuli, fixations,
        {"uniform": pysaliency.UniformModel(), "centre": GivenDensity(dict.fromkeys(keys, prior.numpy()))},
        theirs.ScikitLearnImageSubjectCrossValidationGenerator(stimuli, fixations),
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
