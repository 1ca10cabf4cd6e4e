from secateur.pipeline.structure.cut import cut
from secateur.pipeline.structure.storage import load_model, save_model
from secateur.pipeline.structure.structure import Structure
from secateur.pipeline.structure.trace import trace

__all__ = ["Structure", "cut", "load_model", "save_model", "trace"]
