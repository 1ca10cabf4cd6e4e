"""A small project as a user has it: a network that nobody listed, its trained weights, and a folder of pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

NETWORK = '''
"""Tells stripes from blobs: a stem, a gated residual block, two branches, a linear head."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.wide = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.back = nn.Conv2d(2 * width, width, 1)
        self.gate = nn.Conv2d(width, width, 1)

    def forward(self, x):
        y = self.back(F.silu(self.norm(self.wide(self.deep(x)))))
        return x + y * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class Sorter(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(Gated(24), Gated(24))
        self.fine = nn.Conv2d(24, 16, 3, 2, 1)
        self.coarse = nn.Conv2d(24, 16, 5, 2, 2)
        self.head = nn.Linear(32 * 4 * 4, 3)

    def forward(self, x):
        x = self.body(self.stem(x))
        x = torch.cat([F.relu(self.fine(x)), F.relu(self.coarse(x))], 1)
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


def build(file="weights.pt", spoil=False):
    network = Sorter()
    network.load_state_dict(torch.load(Path(__file__).parent / file, weights_only=True))
    if spoil:
        with torch.no_grad():
            network.fine.weight[0, 0, 0, 0] = float("nan")
    return network


def nothing():
    return "a network"


class Moody(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = self.layer(x)
        return (y if y.mean().item() > 0 else -y).mean((2, 3))[:, :3]


def moody():
    return Moody()


class Numbers(torch.utils.data.Dataset):
    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.zeros(self.shape), index % 3


def flat():
    return Numbers((3, 32)), Numbers((3, 32))


def empty():
    return torch.utils.data.Subset(Numbers((3, 32, 32)), []), Numbers((3, 32, 32))
'''


def picture(kind: int, generator: np.random.Generator) -> np.ndarray:
    """Draw stripes across, stripes down, or a blob, RGB [32, 32, 3]."""
    rows, columns = np.mgrid[0:32, 0:32]
    wave = np.sin(((rows, columns)[kind % 2]) * generator.uniform(0.6, 1.2) + generator.uniform(0, 6))
    centre = generator.uniform(8, 24, 2)
    blob = np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 40) * 2 - 0.5
    bright = (wave if kind < 2 else blob)[..., None] * 60 + 128
    return np.clip(bright + generator.normal(0, 15, (32, 32, 3)), 0, 255).astype(np.uint8)


def write_project(folder: Path, module: str, per_class: int = 60) -> None:
    """Write ``<module>.py``, trained ``weights.pt`` and ``images/<class>/*.png``."""
    import importlib.util

    import torch

    (folder / f"{module}.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    names = ("across", "down", "blob")
    arrays, labels = [], []
    for kind, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(per_class):
            array = picture(kind, generator)
            Image.fromarray(array).save(folder / "images" / name / f"{number:03}.png")
            arrays.append(array)
            labels.append(sorted(names).index(name))
    spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    torch.manual_seed(0)
    network = code.Sorter()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = ((torch.from_numpy(np.stack(arrays)).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    targets = torch.tensor(labels)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(6):
        for part in torch.randperm(len(inputs)).split(30):
            loss = torch.nn.functional.cross_entropy(network(inputs[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(network.state_dict(), folder / "weights.pt")
