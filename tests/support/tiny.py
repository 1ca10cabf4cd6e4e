"""The smallest project that goes through every step of a run in seconds."""

from pathlib import Path

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


def build(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))


def samples(num=64, seed=2):
    inputs = torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))
    data = TensorDataset(inputs, inputs[:, :3].argmax(1))
    return data, data
"""
RECIPE = """\
name: tiny
model: {module}:build
data: {module}:samples
task: classification
estimate: {{samples: 32, batch_size: 8}}
prune: {{macs: 0.6, rounds: 2, recovery_steps: 3, multiple: 1, samples: 32, floors: false}}
finetune: {{epochs: 3, batch_size: 16, device: cpu}}
build: {{backends: [onnxruntime]}}
measure: {{instances: 3, max_s: 2.5, resolution: false, layers: false}}
pictures: 0
gates:
  - {{quantity: mac_ratio, at_least: 1.5}}
  - {{quantity: parity, at_most: 0.001}}
"""


def write_tiny(folder: Path, module: str) -> Path:
    """Write ``<module>.py`` and ``recipe.yaml`` into a folder and return the latter's path."""
    (folder / f"{module}.py").write_text(MODULE)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(module=module))
    return path


def run_tiny(folder: Path, module: str, **changes: object) -> Path:
    """Write the project, run it and return its run folder; its modules stay importable from the working folder only."""
    from secateur.chain import run
    from secateur.recipe_file import read_recipe

    recipe = read_recipe(write_tiny(folder, module), [f"folder={folder / 'runs'}"])
    return run(recipe.model_copy(update=changes), beside=folder).folder
