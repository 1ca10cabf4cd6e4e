"""Put published networks through the laws of a cut; write results/structure_laws.json.

For each network, in a process of its own: the cut network is the masked one at three shares of channels, computed in
double precision, and after a step of training, in the ``precision`` that the network's own code and the machine's
memory allow; multiply-adds and parameters are as foretold; ONNX Runtime agrees with PyTorch; nothing of the network
given has changed.

    pip install timm onnxruntime
    python benchmarks/structure_laws.py             # all networks, two at a time, the largest last
    python benchmarks/structure_laws.py --missing   # those that the results do not have yet, as after an interruption
    python benchmarks/structure_laws.py resnet50 timm:levit_128s    # these anew, the others as they are
"""

import argparse
import copy
import hashlib
import json
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from published import (
    LARGE,
    build,
    cifar_names,
    detection_names,
    in_a_process,
    pinned_channels,
    relative_error,
    timm_names,
    torchvision_names,
)
from torch import Tensor, nn

from secateur.pipeline.export_attention import FourAxes
from secateur.pipeline.structure import Plan, cut, mask, trace
from secateur.pipeline.structure.capture import flat_outputs
from secateur.pipeline.structure.subject import in_double

RESULTS = Path(__file__).parent / "results" / "structure_laws.json"
SHARES = (0.25, 0.5, 0.75)
SINGLE = {"regnet_y_128gf", "vit_h_14"}
"""Held in double precision these take more than 24 GiB: the network, its mask, its cuts and a gradient."""


def stepped(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Take one step, of length 0.01, of gradient descent on the mean square of the outputs."""
    module.requires_grad_(True)
    loss = sum(output.square().mean() for output in flat_outputs(module(*inputs)) if output.requires_grad)
    parameters = [p for name, p in module.named_parameters() if not name.startswith("gates.")]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    # Without a fixed length, networks with random weights explode, and rounding with them.
    length = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 0.01 / length * gradient
    return module


def doubled(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a network and its inputs in double precision, or as they are where its own code asks for another one."""
    exact, wide = copy.deepcopy(module).double(), tuple(x.double() for x in inputs)
    try:
        with torch.no_grad():
            exact(*wide)
    except RuntimeError:
        return module, inputs
    return exact, wide


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Run a network in double precision, also where its own code asks for another one."""
    with torch.no_grad(), in_double():
        return flat_outputs(module(*inputs))


def digests(module: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of every parameter and buffer: a copy of all would not fit beside the largest networks."""
    return {key: hashlib.sha256(value.contiguous().numpy()).hexdigest() for key, value in module.state_dict().items()}


def onnx_error(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Export a network in single precision and return how far ONNX Runtime is from PyTorch."""
    import onnxruntime

    module, inputs = module.float().eval().requires_grad_(False), tuple(x.float() for x in inputs)
    wanted = flat_outputs(module(*inputs))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        with FourAxes():
            torch.onnx.export(module, inputs, path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=False)})
    return relative_error([torch.from_numpy(array) for array in found], wanted)


def one(name: str) -> dict[str, Any]:
    """Put one network through the laws."""
    torch.set_num_threads(1)
    module, inputs = build(name) if name in SINGLE else doubled(*build(name))
    before = digests(module)
    structure = trace(module, inputs)
    rooted = any(group.roots for group in structure.groups)
    row: dict[str, Any] = {
        "groups": len(structure.groups), "masked_error": {}, "scale_follows_width": rooted,
        "precision": str(inputs[0].dtype).removeprefix("torch."),
    }  # fmt: skip
    for share in SHARES:
        plan = Plan.random(structure, keep=share, seed=0)
        small, masked = cut(module, structure, plan), mask(module, structure, plan)
        row["masked_error"][str(share)] = relative_error(outputs(small, inputs), outputs(masked, inputs))
        if share == 0.5:
            widths = plan.widths(structure)
            again = trace(small, inputs)
            row["macs"] = [structure.macs(), structure.macs(widths), again.macs()]
            row["parameters"] = [structure.parameters(), structure.parameters(widths),
                                 sum(p.numel() for p in small.parameters())]  # fmt: skip
            exported = copy.deepcopy(small)
            # On the CPU PyTorch 2.14 scrambles gradients of a batch norm for one sample of ambiguous strides.
            two = tuple(torch.cat((x, x.flip(-1))) for x in inputs)
            stepped(small, two), stepped(masked, two)
            with torch.no_grad():
                row["masked_error_after_a_step"] = relative_error(small(*inputs), masked(*inputs))
            try:
                row["onnx_error"] = onnx_error(exported, inputs)
            except Exception as problem:  # the exporter's own limits are a result
                row["onnx_error"] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}"
    row["untouched"] = digests(module) == before
    return {**row, "pinned_channels": pinned_channels(structure)}


def main() -> None:
    """Put every network through the laws and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--limit", type=float, default=600, help="seconds a network")
    parser.add_argument("--missing", action="store_true", help="keep the results there are")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return
    small = [name for name in torchvision_names() if name not in LARGE]
    names = arguments.networks or [*cifar_names(), *small, *detection_names(), *timm_names(), *sorted(LARGE)]
    rows: dict[str, dict[str, Any]] = {}
    if (arguments.networks or arguments.missing) and RESULTS.exists():
        rows = json.loads(RESULTS.read_text())["networks"]
    if arguments.missing:
        names = [name for name in names if name not in rows]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: in_a_process(__file__, [name], arguments.limit), names)
        for name, row in zip(names, found, strict=True):
            rows[name] = row
            print(name, row, flush=True)
            content = {"networks": rows, "python": platform.python_version(), "torch": torch.__version__}
            RESULTS.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
