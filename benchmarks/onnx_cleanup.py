"""What onnxslim still finds to clean up in exported networks; write results/onnx_cleanup.json.

The exporter has run onnxscript's optimizer. Nodes are counted before and after onnxslim, and in what ONNX Runtime makes
of either file when it opens it, which is what is computed.

    pip install onnxslim
    python benchmarks/onnx_cleanup.py resnet18 mobilenet_v3_small densenet121 shufflenet_v2_x1_0 vit_b_16
"""

import argparse
import json
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxslim
import torch
import torchvision

from secateur.artifacts import Model
from secateur.pipeline.export import export

RESULTS = Path(__file__).parent / "results" / "onnx_cleanup.json"
NETWORKS = ("resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x1_0", "vit_b_16")


def run_by_onnxruntime(proto: onnx.ModelProto) -> int:
    """Count the nodes that ONNX Runtime is left with on the processor."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.optimized_model_filepath = f"{scratch}/optimised.onnx"
        onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        return len(onnx.load(settings.optimized_model_filepath).graph.node)


def row(name: str) -> dict[str, Any]:
    """Export a torchvision network with random weights and have it cleaned up again."""
    torch.manual_seed(0)
    side = 224 if name.startswith(("vit", "swin")) else 64
    model = Model(
        module=getattr(torchvision.models, name)(weights=None), example_inputs=(torch.rand(2, 3, side, side),)
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = export(model, Path(scratch), name=name).path
        before, after = onnx.load(path), onnxslim.slim(onnx.load(path))
    kinds = [Counter(node.op_type for node in proto.graph.node) for proto in (before, after)]
    return {
        "network": name, "nodes": len(before.graph.node), "slimmed": len(after.graph.node),
        "gone": dict(kinds[0] - kinds[1]), "new": dict(kinds[1] - kinds[0]), "bytes": before.ByteSize(),
        "slimmed_bytes": after.ByteSize(), "run": run_by_onnxruntime(before), "slimmed_run": run_by_onnxruntime(after),
    }  # fmt: skip


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("networks", nargs="*", default=list(NETWORKS))
    wanted.add_argument("--results", type=Path, default=RESULTS)
    arguments = wanted.parse_args()
    versions = {name: version(name) for name in ("torch", "onnxscript", "onnxslim", "onnxruntime")}
    rows = []
    for name in arguments.networks:
        rows.append(row(name))
        print(rows[-1], flush=True)
    arguments.results.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
