"""Install what the image target `serve` installs into clean environments; write results/serve_size.json.

For each runtime the layers of pip are read from the Dockerfile and installed with its pins into a fresh virtual
environment; a deployed engine is then served from it, without torch. Needs the package index.

    python benchmarks/serve_size.py --runtimes onnxruntime openvino
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.artifacts import Model
from secateur.backends import BACKENDS
from secateur.backends.onnx_file import read_inputs, read_outputs
from secateur.backends.protocol import BuildOptions
from secateur.deploy import Description, Tensor, write_folder
from secateur.pipeline.export import export

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "serve_size.json"
USE = """
import sys
import numpy as np
from secateur.deploy import load
with load(sys.argv[1]) as network:
    assert network.run(np.zeros((2, 3, 16, 16), np.float32))[0].shape == (2, 5)
assert "torch" not in sys.modules
import secateur.serving
"""


def layers(runtime: str) -> list[list[str]]:
    """Return the arguments of pip that the target has, one list a layer."""
    stage = (ROOT / "Dockerfile").read_text().split("AS serve")[1].split("\nFROM")[0]
    found = [line.replace('"${RUNTIME}"', runtime) for line in re.findall(r"^RUN pip (.*)$", stage, re.MULTILINE)]
    return [line.split() for line in found]


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def deployed(folder: Path, runtime: str) -> Path:
    """Build an engine of a small network and put it into a folder."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 13, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(13, 5))
    file = export(Model(module=network, example_inputs=(torch.rand(2, 3, 16, 16),)), folder, name="small").path
    engine = BACKENDS[runtime].build(file, folder / "built", BuildOptions())
    inputs, outputs = (
        tuple(Tensor(name=t.name, dtype=t.dtype.name, shape=t.shape) for t in tensors)
        for tensors in (read_inputs(file), read_outputs(file))
    )
    description = Description(name="small", engine=engine, inputs=inputs, outputs=outputs)
    content = (folder / "built" / str(engine.path)).read_bytes()
    write_folder(folder / "deployed", description, content, folder / "built")
    return folder / "deployed"


def installed(runtime: str) -> dict[str, Any]:
    """Install the layers, serve from them, and return what they take."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        venv.create(folder / "venv", with_pip=True)
        bare = size_bytes(folder / "venv")
        python = folder / "venv" / "bin" / "python"
        for arguments in layers(runtime):
            subprocess.run([python, "-m", "pip", "-q", "--no-cache-dir", *arguments], cwd=ROOT, check=True)
        whole = size_bytes(folder / "venv")
        subprocess.run([python, "-c", USE, deployed(folder, runtime)], cwd=folder, check=True)
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
        )
        versions = {row["name"]: row["version"] for row in json.loads(listed.stdout)}
    return {"bytes": whole - bare, "packages": len(versions), "versions": versions}


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    wanted.add_argument("--results", type=Path, default=RESULTS)
    arguments = wanted.parse_args()
    found = {"python": sys.version.split()[0], "runtimes": {name: installed(name) for name in arguments.runtimes}}
    arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    for name, told in found["runtimes"].items():
        print(f"{name}: {told['bytes'] / 1e6:.0f} MB in {told['packages']} packages")


if __name__ == "__main__":
    main()
