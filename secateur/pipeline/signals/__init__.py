from secateur.pipeline.signals.fisher import Fisher
from secateur.pipeline.signals.protocol import Evidence, Signal
from secateur.pipeline.signals.random import Random
from secateur.pipeline.signals.weight_norm import WeightNorm

SIGNALS: dict[str, Signal] = {
    "fisher": Fisher(),
    "l2": WeightNorm(power=2),
    "l1": WeightNorm(power=1),
    "random": Random(),
}

__all__ = ["SIGNALS", "Evidence", "Signal"]
