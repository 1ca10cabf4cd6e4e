from secateur.pipeline.redundancy.calibrate import calibrate_tau
from secateur.pipeline.redundancy.effective import effective_filters, estimate, spectrum, with_latency
from secateur.pipeline.redundancy.estimation import Estimate
from secateur.pipeline.redundancy.estimators import EFFECTIVE
from secateur.pipeline.redundancy.matrices import MATRICES
from secateur.pipeline.redundancy.reach import tau_for_budget

__all__ = [
    "EFFECTIVE",
    "MATRICES",
    "Estimate",
    "calibrate_tau",
    "effective_filters",
    "estimate",
    "spectrum",
    "tau_for_budget",
    "with_latency",
]
