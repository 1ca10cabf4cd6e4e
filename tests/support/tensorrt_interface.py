"""Read the names that TensorRT's Python bindings offer out of their wheels, without TensorRT and without a GPU.

The bindings are linked to libraries of other, larger packages. Empty libraries of the same names are enough to
import them, since functions are looked up when they are called. What the classes offer is written beside the tests:

    pip download --no-deps --only-binary=:all: tensorrt-cu13-bindings==10.13.3.9 tensorrt-cu13-bindings==...
    python tests/support/tensorrt_interface.py *.whl > tests/backends/tensorrt_interface.json
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CLASSES = (
    "Builder", "BuilderFlag", "DataType", "EngineInspector", "HardwareCompatibilityLevel", "IBuilderConfig",
    "ICudaEngine", "IExecutionContext", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProfiler",
    "IProgressMonitor", "ITimingCache", "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "OnnxParserRefitter", "ParserError", "ProfilingVerbosity", "Refitter", "Runtime", "TensorIOMode",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
ASK = """
import json, sys
import tensorrt_bindings as trt
def names(thing): return sorted(name for name in dir(thing) if not name.startswith("_"))
print(json.dumps({"": names(trt), **{name: names(getattr(trt, name)) for name in sys.argv[1:]}}))
"""


def interface(wheel: Path) -> tuple[str, dict[str, list[str]]]:
    """Return a wheel's version and the public names of its module (under "") and of its classes."""
    version = re.search(r"bindings-([\d.]+)-", wheel.name)[1]
    major = version.split(".")[0]
    with tempfile.TemporaryDirectory() as scratch:
        zipfile.ZipFile(wheel).extractall(scratch)
        source = Path(scratch) / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for name in LIBRARIES:
            library = f"lib{name}.so.{major}"
            command = ["cc", "-shared", "-fPIC", "-o", library, f"-Wl,-soname,{library}", source.name]
            subprocess.run(command, cwd=scratch, check=True)
        asked = subprocess.run(
            [sys.executable, "-c", ASK, *CLASSES], capture_output=True, text=True, check=True,
            env={**os.environ, "LD_LIBRARY_PATH": scratch, "PYTHONPATH": scratch},
        )  # fmt: skip
    return version, json.loads(asked.stdout)


def main() -> None:
    found = dict(interface(Path(name)) for name in sys.argv[1:])
    lines = [
        f' "{version}": {{\n' + ",\n".join(f'  "{name}": {json.dumps(" ".join(all_))}' for name, all_ in told.items())
        + "\n }"
        for version, told in sorted(found.items())
    ]  # fmt: skip
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
