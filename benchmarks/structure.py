"""Halve all groups of published networks, by this project and by Torch-Pruning; write results/structure.json.

Each network and tool has a process of its own with a time limit. Networks have random weights; what is timed is the
whole way from the network to the cut one that runs: capture, groups, choice of channels, cut. Peak memory is what that
way takes beyond the network itself, beside what one forward takes. What torch.export alone would take is beside it.

    pip install torch-pruning==1.6.1 timm
    python benchmarks/structure.py                                   # all of torchvision
    python benchmarks/structure.py resnet50 swin_t                   # these anew, the others as they are
    python benchmarks/structure.py --one timm:levit_128s secateur    # shows one, writes nothing
"""

import argparse
import importlib.util
import json
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from published import build, in_a_process, macs, pinned_channels, relative_error, torchvision_names
from torch import Tensor, nn

from secateur.backends.machine import machine_facts

RESULTS = Path(__file__).parent / "results" / "structure.json"
TOOLS = ("secateur", "torch-pruning")
FAMILIES = ("vgg", "resnet", "densenet")


@contextmanager
def peak_bytes(found: dict[str, object], key: str) -> Iterator[None]:
    """Write how much more memory than before the process held at most within the context (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    yield
    found[key] = _status("VmHWM") - before


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", text)
    if found is None:
        raise OSError(f"/proc/self/status has no {key}")
    return 1024 * int(found[1])


def by_secateur(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, object]]:
    """Halve all groups; tell what is pinned, and how far the cut network is from the masked one."""
    from secateur.pipeline.structure import Plan, cut, mask, trace
    from secateur.pipeline.structure.capture import capture, exported

    capture(module, inputs)  # loads what PyTorch needs
    started = time.perf_counter()
    graph = capture(module, inputs).graph
    capture_s = time.perf_counter() - started
    memory: dict[str, object] = {}
    with peak_bytes(memory, "peak_bytes"):
        started = time.perf_counter()
        structure = trace(module, inputs)
        plan = Plan.random(structure, keep=0.5)
        small = cut(module, structure, plan)
        seconds = time.perf_counter() - started
    with torch.no_grad():
        error = relative_error(small(*inputs), mask(module, structure, plan)(*inputs))
    exported(module, inputs)  # loads what torch.export needs
    started = time.perf_counter()
    exported(module, inputs)
    export_s = time.perf_counter() - started
    return small, {
        "seconds": seconds, "capture_s": capture_s,
        "export_s": export_s, "operators": len(graph.nodes), "groups": len(structure.groups),
        "masked_error": error, "pinned_channels": pinned_channels(structure), **memory,
    }  # fmt: skip


def by_torch_pruning(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, object]]:
    """Halve all groups but the outputs', by weight norm, as its documentation shows."""
    import torch_pruning as tp

    heads = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features in (1000, 400)]
    heads += [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.out_channels in (1000, 21)]
    memory: dict[str, object] = {}
    importance = tp.importance.GroupMagnitudeImportance()
    with peak_bytes(memory, "peak_bytes"):
        started = time.perf_counter()
        pruner = tp.pruner.BasePruner(module, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=heads)
        pruner.step()
        seconds = time.perf_counter() - started
    return module, {"seconds": seconds, **memory}


def one(name: str, tool: str) -> dict[str, object]:
    """Cut one network and return what came of it."""
    module, inputs = build(name)
    memory: dict[str, object] = {}
    with peak_bytes(memory, "forward_bytes"), torch.no_grad():
        module(*inputs)
    before, parameters = macs(module, inputs), sum(p.numel() for p in module.parameters())
    small, found = (by_secateur if tool == "secateur" else by_torch_pruning)(module, inputs)
    return {
        **found, **memory, "status": "cut", "macs_before": before, "macs_kept": macs(small.eval(), inputs) / before,
        "parameters_kept": sum(p.numel() for p in small.parameters()) / parameters, "network_bytes": 4 * parameters,
    }  # fmt: skip


def draw(rows: dict[str, dict[str, dict[str, object]]]) -> None:
    """Draw the time of trace, plan and cut against the number of operators, over the depths of three families."""
    import matplotlib.pyplot as plt

    if not all(any(name.startswith(family) for name in rows) for family in FAMILIES):
        return

    figure, axes = plt.subplots(figsize=(6, 4))
    for family in FAMILIES:
        own = [row["secateur"] for name, row in rows.items() if re.fullmatch(rf"{family}\d+(_bn)?", name)]
        points = sorted((r["operators"], r["seconds"]) for r in own if r["status"] == "cut")
        axes.plot(*zip(*points, strict=True), marker="o", label=family)
    axes.set(xlabel="nodes in the graph", ylabel="trace, plan and cut (s)", xlim=0, ylim=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS.with_name("structure_depth.png"), dpi=120)


def main() -> None:
    """Cut every network by every tool and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--limit", type=float, default=90, help="seconds a network and tool")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "TOOL"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    if "torch-pruning" in arguments.tools and importlib.util.find_spec("torch_pruning") is None:
        parser.error("torch-pruning is not installed, and would look as if it failed: install it, or --tools secateur")
    content: dict[str, Any] = {
        "networks": {}, "limit_s": arguments.limit, "python": platform.python_version(), "torch": torch.__version__,
        "torchvision": torchvision.__version__, "machine": machine_facts().model_dump(),
    }  # fmt: skip
    if arguments.networks and RESULTS.exists():
        content["networks"] = json.loads(RESULTS.read_text())["networks"]
    for name in arguments.networks or torchvision_names():
        row = {tool: in_a_process(__file__, [name, tool], arguments.limit) for tool in arguments.tools}
        print(name, {t: (r["status"], r.get("seconds"), r.get("macs_kept")) for t, r in row.items()}, flush=True)
        content["networks"][name] = {**content["networks"].get(name, {}), **row}
        RESULTS.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    draw(content["networks"])


if __name__ == "__main__":
    main()
