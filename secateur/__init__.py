"""Compress trained PyTorch networks into deployable engines and prove the gain."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from secateur.artifacts import Data, Metric, Model, Task
    from secateur.backends.bench import bench
    from secateur.backends.measure import measure
    from secateur.chain import estimate, run
    from secateur.errors import SecateurError
    from secateur.pipeline.export import export
    from secateur.pipeline.packing import Pack, pack, unpack
    from secateur.pipeline.quantize.half import Halve
    from secateur.pipeline.quantize.mixed import Mixed
    from secateur.pipeline.quantize.qat import Qat
    from secateur.pipeline.quantize.quantize import Quantize, quantize
    from secateur.pipeline.structure import Plan, cut, cut_optimizer, load, mask, regrow, save, trace
    from secateur.recipe import Recipe
    from secateur.recipe_file import read_recipe

_HOMES = {
    "Data": "secateur.artifacts",
    "Halve": "secateur.pipeline.quantize.half",
    "Metric": "secateur.artifacts",
    "Mixed": "secateur.pipeline.quantize.mixed",
    "Model": "secateur.artifacts",
    "Pack": "secateur.pipeline.packing",
    "Plan": "secateur.pipeline.structure",
    "Qat": "secateur.pipeline.quantize.qat",
    "Quantize": "secateur.pipeline.quantize.quantize",
    "Recipe": "secateur.recipe",
    "SecateurError": "secateur.errors",
    "Task": "secateur.artifacts",
    "bench": "secateur.backends.bench",
    "cut": "secateur.pipeline.structure",
    "cut_optimizer": "secateur.pipeline.structure",
    "estimate": "secateur.chain",
    "export": "secateur.pipeline.export",
    "load": "secateur.pipeline.structure",
    "mask": "secateur.pipeline.structure",
    "measure": "secateur.backends.measure",
    "pack": "secateur.pipeline.packing",
    "quantize": "secateur.pipeline.quantize.quantize",
    "read_recipe": "secateur.recipe_file",
    "regrow": "secateur.pipeline.structure",
    "run": "secateur.chain",
    "save": "secateur.pipeline.structure",
    "trace": "secateur.pipeline.structure",
    "unpack": "secateur.pipeline.packing",
}

__all__ = [
    "Data",
    "Halve",
    "Metric",
    "Mixed",
    "Model",
    "Pack",
    "Plan",
    "Qat",
    "Quantize",
    "Recipe",
    "SecateurError",
    "Task",
    "bench",
    "cut",
    "cut_optimizer",
    "estimate",
    "export",
    "load",
    "mask",
    "measure",
    "pack",
    "quantize",
    "read_recipe",
    "regrow",
    "run",
    "save",
    "trace",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
