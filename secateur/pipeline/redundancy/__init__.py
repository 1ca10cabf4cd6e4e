from secateur.pipeline.redundancy.effective import effective_filters, estimate, spectrum
from secateur.pipeline.redundancy.floor import floor_width

__all__ = ["effective_filters", "estimate", "floor_width", "spectrum"]
