"""Networks of `gpu_latency`: uncut, and cut to half of every group's channels, exported in every precision."""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from secateur.artifacts import Model
from secateur.errors import SecateurError
from secateur.pipeline.export import export
from secateur.pipeline.structure import Plan, cut, trace
from secateur.storage import read, write
from secateur.workloads.gaze import teacher

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet50": (torchvision.models.resnet50, (3, 224, 224)),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, (3, 224, 224)),
    "gaze": (teacher, (3, 192, 256)),
}
VARIANTS = ("uncut", "aligned", "unaligned")
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Cut and export every network in every precision, on all cores."""
    jobs = [
        (network, variant, precision, arguments.scratch, arguments.small)
        for precision in PRECISIONS for network in arguments.networks for variant in VARIANTS
    ]  # fmt: skip
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    # Forked before CUDA is touched, so that the children need not import anything again.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        for (network, variant, precision, *_), told in zip(jobs, pool.map(prepared, jobs), strict=True):
            found["networks"].setdefault(network, {}).setdefault(variant, {"precisions": {}})
            row = found["networks"][network][variant]
            row["precisions"][precision] = told.pop("error")
            row.update(told)


def prepared(job: tuple[str, str, str, Path, bool]) -> dict[str, Any]:
    """Cut one network and write its program and, but for bfloat16, its ONNX file."""
    network, variant, precision, scratch, small = job
    build, size = NETWORKS[network]
    size = (3, 64, 64) if small and network != "gaze" else size
    folder = scratch / f"{network}_{variant}"
    done = folder / f"{precision}.json"
    if done.is_file():
        return json.loads(read(done))
    try:
        torch.manual_seed(0)
        module = build().eval().requires_grad_(False)
        inputs = (torch.rand(2, *size, generator=torch.Generator().manual_seed(1)),)
        structure = trace(module, inputs)
        whole = structure.macs()
        if variant != "uncut":
            module = cut(module, structure, halved(structure, aligned=variant == "aligned"))
            structure = trace(module, inputs)
        told: dict[str, Any] = {
            "macs": structure.macs(), "macs_uncut": whole,
            "parameters": sum(p.numel() for p in module.parameters()),
            "odd_widths": sum(group.num_channels % 2 for group in structure.groups), "groups": len(structure.groups),
        }  # fmt: skip
        kind = PRECISIONS[precision]
        lower = Model(module=module.to(kind), example_inputs=tuple(x.to(kind) for x in inputs))
        if precision == "bf16":
            write_program(lower, folder / f"{precision}.pt2")
        else:
            export(lower, folder, name=precision, program=True, tolerance=1e-3 if precision == "fp32" else 0.1)
    except SecateurError as error:
        return {"error": str(error)[:400]}
    told["error"] = ""
    write(done, json.dumps(told).encode())
    return told


def write_program(model: Model, path: Path) -> None:
    """Write what ONNX Runtime's CPU could not prove: bfloat16, for PyTorch alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model.module, model.example_inputs, dynamic_shapes=shapes), path)


def halved(structure: Any, *, aligned: bool) -> Plan:
    """Keep half of every group: a multiple of eight that is nearest, or one channel less than half."""
    generator = np.random.default_rng(0)
    drawn = {}
    for group in structure.groups:
        half = group.num_channels / 2
        width = max(8, 8 * round(half / 8)) if aligned else max(1, int(half) - 1)
        width = min(group.num_channels, group.allowed_width(width))
        drawn[group.name] = torch.from_numpy(generator.permutation(group.num_channels)[:width])
    return Plan.of(structure, drawn)


def inputs_of(network: str, batch: int, precision: str, small: bool) -> tuple[np.ndarray, ...]:
    size = (3, 64, 64) if small and network != "gaze" else NETWORKS[network][1]
    drawn = np.random.default_rng(batch).random((batch, *size), dtype=np.float32)
    if precision == "bf16":
        import ml_dtypes

        return (drawn.astype(ml_dtypes.bfloat16),)
    return (drawn.astype(np.float16 if precision == "fp16" else np.float32),)
