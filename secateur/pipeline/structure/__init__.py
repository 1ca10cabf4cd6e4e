from secateur.pipeline.structure.cut import cut
from secateur.pipeline.structure.mask import Masked, mask
from secateur.pipeline.structure.optimizer import cut_optimizer
from secateur.pipeline.structure.plan import Plan
from secateur.pipeline.structure.regrow import regrow
from secateur.pipeline.structure.storage import load, load_model, save, save_model
from secateur.pipeline.structure.structure import Structure
from secateur.pipeline.structure.trace import trace

__all__ = [
    "Masked",
    "Plan",
    "Structure",
    "cut",
    "cut_optimizer",
    "load",
    "load_model",
    "mask",
    "regrow",
    "save",
    "save_model",
    "trace",
]
