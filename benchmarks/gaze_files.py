"""The ONNX files of trained and cut gaze networks, in single precision and in eight bits."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from gaze_family import MOBILE, family_of, rebuilt
from gaze_pool import Pool, Views
from safetensors.torch import load_file
from tinyhd import tinyhd
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from secateur import Quantize
from secateur.artifacts import Model
from secateur.backends.machine import sums_products_in_16_bits
from secateur.calibration.samples import CalibrationSamples
from secateur.pipeline.export import export

INT8 = ", int8"


def rows_of(trained: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the networks whose shapes are known, and all that is known of each."""
    for row, facts in trained.items():
        if isinstance(facts, dict) and "shapes" in facts:
            yield row, facts


def is_ours(row: str) -> bool:
    """Tell the networks that are looked at in eight bits: MobileNetV2's, and what was cut our way."""
    row = row.removesuffix(INT8)
    return (family_of(row) == MOBILE and "," not in row) or ", ours, " in row


def slug(row: str) -> str:
    """Return what a network's file is called, without its ending."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower())


@cache
def weights_of(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Return the weights that were kept, by row and by name."""
    found: dict[str, dict[str, Tensor]] = {}
    for file in sorted(folder.glob("gaze_weights_*.safetensors")):
        for key, tensor in load_file(file).items():
            row, _, name = key.rpartition("/")
            found.setdefault(row, {})[name] = tensor
    return found


def exported(
    trained: dict[str, Any], folder: Path, files: Path, size: tuple[int, int], wanted: list[str] | None
) -> dict[str, Path]:
    """Write every network as an ONNX file, with its weights where they were kept; return the files by row.

    The ensemble's members are of one shape: the best of them stands for all, where it has a row, or else the first.
    """
    found = {}
    members = [row for row, _ in rows_of(trained) if re.search(r" \d+$", row)]
    copies = members if MOBILE in trained else members[1:]
    for row, facts in rows_of(trained):
        if row in copies or (wanted and row not in wanted):
            continue
        path = files / f"{slug(row)}.onnx"
        found[row] = path
        if not path.exists():
            name, weights = family_of(row), weights_of(folder).get(row)
            network = rebuilt(name, facts["shapes"], weights)
            # The mean of two by two pixels is what bilinear halving gives.
            network = nn.Sequential(nn.AvgPool2d(2), network) if name == MOBILE else network
            _export(network, files, slug(row), size)
            print(f"exported {row}{' with other weights' if weights is None else ''}", flush=True)
    return found


def exported_tinyhd(models: Path, files: Path, size: tuple[int, int]) -> Path:
    """Write TinyHD as an ONNX file that takes the same pictures."""
    path = files / "tinyhd.onnx"
    if not path.exists():
        network = nn.Sequential(nn.AvgPool2d(2), tinyhd(models / "gaze_tinyhd" / "d123s_rc4_rc1T.pth"))
        _export(network, files, "tinyhd", size)
    return path


def _export(network: nn.Module, folder: Path, name: str, size: tuple[int, int]) -> None:
    example = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    export(Model(module=network, example_inputs=(example,)), folder, name=name, dynamic_batch=False)


def files_by_precision(
    files: Mapping[str, Path], rows: Sequence[str], pool: Pool, size: tuple[int, int], folder: Path
) -> Iterator[tuple[str, Path]]:
    """Yield networks in single precision and in eight bits, calibrated on training pictures."""
    train = pool.parts["train"][torch.linspace(0, len(pool.parts["train"]) - 1, 32).long()]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(train), 4)
    views = Views(picture=train, box=whole, mirrored=torch.zeros(len(train), dtype=torch.bool))
    pictures = TensorDataset(views.pixels(pool, size), torch.zeros(len(train)))
    samples = CalibrationSamples(dataset=pictures, indices=tuple(range(len(train))), batch_size=1)
    quantize = Quantize(target="cpu", weight_bits=7 if sums_products_in_16_bits() else 8)
    for row in rows:
        yield row, files[row]
        path = folder / f"{slug(row)}-int8.onnx"
        if not path.exists():
            quantize(files[row], samples, folder, name=path.stem)
        yield row + INT8, path


def int8_files(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return the eight-bit files that there are, by row."""
    made = {row + INT8: folder / f"{slug(row)}-int8.onnx" for row in files}
    return {row: path for row, path in made.items() if path.exists()}
