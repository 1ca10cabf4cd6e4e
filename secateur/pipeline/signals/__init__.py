from secateur.pipeline.signals.batch_norm_scale import BatchNormScale
from secateur.pipeline.signals.fisher import Fisher
from secateur.pipeline.signals.geometric_median import GeometricMedian
from secateur.pipeline.signals.joint import Joint, OptimalBrainSurgeon
from secateur.pipeline.signals.protocol import Evidence, Signal
from secateur.pipeline.signals.random import Random
from secateur.pipeline.signals.weight_norm import WeightNorm

SIGNALS: dict[str, Signal] = {
    "fisher": Fisher(),
    "joint": Joint(),
    "obs": OptimalBrainSurgeon(),
    "l2": WeightNorm(power=2),
    "l1": WeightNorm(power=1),
    "bn-scale": BatchNormScale(),
    "geometric-median": GeometricMedian(),
    "random": Random(),
}

__all__ = ["SIGNALS", "Evidence", "Signal"]
