"""What the stages hand to each other: networks, data, tasks, groups of channels, engines' files and results.

Tensor-carrying artefacts are frozen dataclasses; results that end up in JSON are frozen pydantic records.
"""

import importlib
from typing import TYPE_CHECKING, Any

from secateur.artifacts.channels import Group, Pinned, Reader, Root, Slice
from secateur.artifacts.interface import LARGEST_ONNX_BYTES, FileFacts, OpenSize, Pictures
from secateur.artifacts.layers import LatencyGrid, Layer, LayerShape
from secateur.artifacts.measurement import BenchCell, Clients, Cold, Measurement, OnDevice
from secateur.artifacts.packing import PackedTensor, PackResult
from secateur.artifacts.practice import Finding, LayerPractice, NetworkPractice, Practice, Roofline
from secateur.artifacts.quantization import (
    QUANTIZED,
    HalveResult,
    LayerPrecision,
    QuantizedActivation,
    QuantizedLayer,
    QuantizeResult,
    Unfused,
)
from secateur.artifacts.record import Record
from secateur.artifacts.redundancy import (
    Covering,
    DeadChannels,
    DeadRemoval,
    GroupRedundancy,
    Redundancy,
    TauCalibration,
    TauProbe,
)
from secateur.artifacts.results import (
    Comparison,
    EngineResult,
    Evaluation,
    Exported,
    ExportResult,
    FinetuneEpoch,
    FinetuneResult,
    GateResult,
    Interval,
    LatencySummary,
    Machine,
    Parity,
    PruneResult,
    PruneRound,
    Verdict,
    realised_fraction,
)
from secateur.artifacts.summary import Findings, Summary

if TYPE_CHECKING:
    from secateur.artifacts.networks import Batch, Data, Metric, Model, Task, as_tuple

_NETWORKS = frozenset({"Batch", "Data", "Metric", "Model", "Task", "as_tuple"})

__all__ = [
    "LARGEST_ONNX_BYTES",
    "QUANTIZED",
    "Batch",
    "BenchCell",
    "Clients",
    "Cold",
    "Comparison",
    "Covering",
    "Data",
    "DeadChannels",
    "DeadRemoval",
    "EngineResult",
    "Evaluation",
    "ExportResult",
    "Exported",
    "FileFacts",
    "Finding",
    "Findings",
    "FinetuneEpoch",
    "FinetuneResult",
    "GateResult",
    "Group",
    "GroupRedundancy",
    "HalveResult",
    "Interval",
    "LatencyGrid",
    "LatencySummary",
    "Layer",
    "LayerPractice",
    "LayerPrecision",
    "LayerShape",
    "Machine",
    "Measurement",
    "Metric",
    "Model",
    "NetworkPractice",
    "OnDevice",
    "OpenSize",
    "PackResult",
    "PackedTensor",
    "Parity",
    "Pictures",
    "Pinned",
    "Practice",
    "PruneResult",
    "PruneRound",
    "QuantizeResult",
    "QuantizedActivation",
    "QuantizedLayer",
    "Reader",
    "Record",
    "Redundancy",
    "Roofline",
    "Root",
    "Slice",
    "Summary",
    "Task",
    "TauCalibration",
    "TauProbe",
    "Unfused",
    "Verdict",
    "as_tuple",
    "realised_fraction",
]


def __getattr__(name: str) -> Any:
    """Import what holds tensors when it is first used: engines run on machines without torch."""
    if name not in _NETWORKS:
        raise AttributeError(f"module 'secateur.artifacts' has no attribute {name!r}")
    return getattr(importlib.import_module("secateur.artifacts.networks"), name)
