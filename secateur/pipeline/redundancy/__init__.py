from secateur.pipeline.redundancy.effective import effective_filters, estimate, spectrum
from secateur.pipeline.redundancy.reach import tau_for_budget

__all__ = ["effective_filters", "estimate", "spectrum", "tau_for_budget"]
