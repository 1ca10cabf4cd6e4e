"""Backends that other packages bring along by an entry point."""

import subprocess
import sys
from pathlib import Path

from secateur.artifacts import Exported

MODULE = """
import numpy as np
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from secateur.artifacts import EngineResult
from secateur.backends.engine_parity import engine_parity
from secateur.backends.protocol import Engine, engine_file
from secateur.backends.setting import Setting
from secateur.storage import read, sha256, write


class Reference(Engine):
    def __init__(self, path):
        from onnx.reference import ReferenceEvaluator

        self.session = ReferenceEvaluator(str(path))

    def run(self, inputs):
        return tuple(self.session.run(None, dict(zip(self.session.input_names, inputs))))

    def profile(self, inputs, *, num_calls=10):
        return ()

    def close(self):
        self.session = None


@dataclass(frozen=True)
class Toy:
    name: str = "toy"
    speed: Annotated[int, Field(ge=1), Setting("How fast it plays.")] = 1

    def unavailable(self):
        return None

    def unable_to_run(self):
        return None

    def version(self):
        return "7.1"

    def devices(self):
        return ("this process",)

    def build(self, onnx_file, folder, options):
        content = read(onnx_file)
        parity = engine_parity(self.name, Reference(onnx_file), onnx_file, options)
        write(folder / "network.toy", content)
        return EngineResult(backend=self.name, backend_version="7.1", status="built", path="network.toy",
                            sha256=sha256(content), size_bytes=len(content), build_s=0.1, parity=parity)

    def load(self, result, folder, *, num_threads=1):
        engine_file(self, result, folder)
        return Reference(folder / result.path)


@dataclass(frozen=True)
class Odd(Toy):
    name: str = "odd"
    speed: "Elsewhere" = 1


toy, odd, absurd = Toy(), Odd(), 3
"""
ENTRY_POINTS = """[secateur.backends]
toy = secateur_toy:toy
absurd = secateur_toy:absurd
odd = secateur_toy:odd
missing = secateur_toy:nothing
onnxruntime = secateur_toy:toy
"""
USED = """
import sys
from pathlib import Path

from pydantic import ValidationError
from secateur.backends import BACKENDS
from secateur.backends.bench import bench
from secateur.backends.compare import Compare
from secateur.backends.doctor import doctor
from secateur.backends.measure import WarmUp
from secateur.recipe_engines import BuildSettings

rows = {row.name: row for row in doctor() if row.kind == "backend"}
assert (rows["toy"].status, rows["toy"].value, rows["toy"].devices) == ("ready", "7.1", ("this process",))
assert rows["absurd"].status == rows["missing"].status == "absent"
assert "secateur_toy:absurd is int, not a backend" in rows["absurd"].detail
assert "secateur_toy:nothing does not load (module 'secateur_toy' has no attribute 'nothing')" in rows["missing"].detail
assert "name 'Elsewhere' is not defined" in rows["odd"].detail
assert type(BACKENDS["onnxruntime"]).__name__ == "OnnxRuntime", "names of the table are not taken away"
asked = BuildSettings(backends=["toy"], options={"toy": {"speed": 3}})
assert (asked.backends, asked.backend("toy").speed) == (["toy"], 3)
try:
    BuildSettings(options={"toy": {"speed": 0}})
except ValidationError as error:
    assert "options.toy.speed" in str(error)
else:
    raise AssertionError("a speed of zero was taken")
schema = BuildSettings.model_json_schema()["$defs"]["ToyOptions"]["properties"]["speed"]
assert (schema["description"], schema["minimum"]) == ("How fast it plays.", 1)
brief = Compare(num_instances=3, num_blocks=4, block_s=0.001, target=1.0, max_s=20, null=False, num_resamples=100,
                warm_up=WarmUp(least_s=0.01, most_s=0.02, window_s=0.005))
assert bench(Path(sys.argv[1]), Path(sys.argv[1]), backend="toy", compare=brief).backend == "toy 7.1"
"""


def test_a_package_brings_its_backend(narrow: Exported, tmp_path: Path) -> None:
    information = tmp_path / "secateur_toy-7.1.dist-info"
    information.mkdir()
    (tmp_path / "secateur_toy.py").write_text(MODULE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: secateur-toy\nVersion: 7.1\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    called = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USED}"
    done = subprocess.run(
        [sys.executable, "-c", called, str(narrow.path)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
