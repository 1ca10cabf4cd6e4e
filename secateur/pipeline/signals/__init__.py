from secateur.pipeline.signals.batch_norm_scale import BatchNormScale
from secateur.pipeline.signals.combination import TABLES, Combination
from secateur.pipeline.signals.evidence import Evidence, Needs, collect_evidence
from secateur.pipeline.signals.fisher import Fisher
from secateur.pipeline.signals.geometric_median import GeometricMedian
from secateur.pipeline.signals.joint import Joint, OptimalBrainSurgeon
from secateur.pipeline.signals.protocol import Signal, saliency
from secateur.pipeline.signals.random import Random
from secateur.pipeline.signals.rank import MapRank
from secateur.pipeline.signals.sparse_pursuit import SparsePursuit
from secateur.pipeline.signals.weight_norm import WeightNorm

SIGNALS: dict[str, Signal] = {
    "fisher": Fisher(),
    "joint": Joint(),
    "obs": OptimalBrainSurgeon(),
    # Molchanov et al. 2017, arXiv 1611.06440: |sum of activation x gradient| of each sample; the norm of a group is 1.
    "taylor": Combination(input="activation*gradient", reduction="absolute-sum", scaling="layer-l2"),
    # Evci 2018, arXiv 1806.06068: what a channel costs whose mean stays.
    "mean-replacement": Combination(input="centred*gradient", reduction="absolute-sum", scaling="places"),
    # Hu et al. 2016, "Network trimming", arXiv 1607.03250: one less the average percentage of zeros.
    "apoz": Combination(input="activation", pointwise="positive", reduction="mean"),
    "hrank": MapRank(),
    "i-spasp": SparsePursuit(),
    "l2": WeightNorm(power=2),
    "l1": WeightNorm(power=1),
    "bn-scale": BatchNormScale(),
    "geometric-median": GeometricMedian(),
    "random": Random(),
}


def signal_of(signal: str | Combination) -> Signal:
    """Return the signal of this name, or the combination itself."""
    return SIGNALS[signal] if isinstance(signal, str) else signal


__all__ = [
    "SIGNALS",
    "TABLES",
    "Combination",
    "Evidence",
    "Needs",
    "Signal",
    "collect_evidence",
    "saliency",
    "signal_of",
]
