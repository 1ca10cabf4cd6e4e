"""PyTorch itself, the reference that the other runtimes are held to: eager, compiled, or replayed as a CUDA graph."""

import importlib.util
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from secateur.artifacts import EngineResult
from secateur.backends.cuda import described
from secateur.backends.engine_parity import engine_parity
from secateur.backends.machine import processor
from secateur.backends.onnx_file import read_inputs
from secateur.backends.protocol import BuildOptions, Engine, Missing, engine_file, require, write_engine
from secateur.backends.setting import TF32, Setting
from secateur.errors import BackendError
from secateur.storage import read

if TYPE_CHECKING:
    from secateur.backends.torch_engine import TorchEngine

Mode = Literal["eager", "compile", "cuda_graph"]
COMPILERS = ("c++", "g++", "clang++")


def on_gpu(backend: "Torch") -> bool:
    """Say whether it runs on a CUDA device."""
    return backend.device == "cuda"


@dataclass(frozen=True, kw_only=True)
class Torch:
    """PyTorch on the processor or on the first CUDA device.

    The engine's file is the exported program (``.pt2``) that `secateur.export` leaves beside the ONNX file when it is
    asked to: the network's own operators, one by one. ``mode`` says how they are called: ``eager``; ``compile``, by
    torch.compile, anew for the first shapes that an engine meets; ``cuda_graph``, recorded once for each shape and
    replayed. Types are those of the program.
    """

    name: str = "torch"
    device: Literal["cpu", "cuda"] = "cpu"
    mode: Mode = "eager"
    tf32: Annotated[bool, Setting(TF32, on_gpu)] = False

    def unavailable(self) -> Missing | None:
        """Say why the program cannot be run here, or None."""
        try:
            import torch
        except ImportError as error:
            return Missing(found=f"no torch ({error})", remedy="Install it: pip install torch.")
        if self.device == "cuda" and not torch.cuda.is_available():
            return Missing(
                found=f"a torch {torch.__version__} without a CUDA device",
                remedy="Use a machine with an NVIDIA GPU and a build of torch for CUDA.",
            )
        if self.mode == "compile" and self.device == "cpu" and not any(map(shutil.which, COMPILERS)):
            return Missing(
                found="no C++ compiler, which torch.compile calls", remedy="Install one: g++ or clang++, on the PATH."
            )
        if self.mode == "compile" and self.device == "cuda" and importlib.util.find_spec("triton") is None:
            return Missing(found="no triton, which torch.compile calls", remedy="Install it: pip install triton.")
        return None

    def unable_to_run(self) -> Missing | None:
        """Say the same: what builds here runs here."""
        return self.unavailable()

    def version(self) -> str:
        """Name the installed version."""
        try:
            import torch
        except ImportError:
            return ""
        return torch.__version__

    def devices(self) -> tuple[str, ...]:
        """Name the processor or the CUDA devices."""
        if self.device == "cpu":
            return (processor(),)
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = [torch.cuda.get_device_properties(index) for index in range(count)]
        return tuple(described(p.name, p.major, p.minor) for p in found)

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Copy the exported program that lies beside the ONNX file, and prove that it computes the same."""
        require(self.name, self.unavailable(), f"PyTorch on {self.device}")
        read_inputs(onnx_file)
        options.progress("load", 0, 2)
        program = onnx_file.with_suffix(".pt2")
        if not program.is_file():
            raise BackendError(
                f"{self.name}, {program}", "no exported program beside the ONNX file", "the file that torch runs",
                "Export with program=True; a run whose recipe builds or measures with torch does.",
            )  # fmt: skip
        content = read(program)
        started = time.perf_counter()
        with self._open(content, str(program), options.num_threads) as engine:
            build_s = time.perf_counter() - started
            options.progress("prove", 1, 2)
            parity = engine_parity(f"{self.name} {self.version()}", engine, onnx_file, options)
        result = write_engine(
            self, folder / f"{onnx_file.stem}.{self.name}.pt2", content,
            options={"device": self.device, "mode": self.mode, "tf32": str(self.tf32)}, build_s=build_s, parity=parity,
        )  # fmt: skip
        options.progress(f"{self.name} built and proved", 2, 2)
        return result

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Load the program onto the device; the number of threads is the whole process's."""
        require(self.name, self.unable_to_run(), f"PyTorch on {self.device}")
        content = engine_file(self, result, folder)
        return self._open(content, str(folder / str(result.path)), num_threads)

    def _open(self, content: bytes, where: str, num_threads: int) -> "TorchEngine":
        from secateur.backends.torch_engine import TorchEngine, load_program
        from secateur.backends.torch_memory import given_back

        with given_back():
            return TorchEngine(
                load_program(content, where),
                name=self.name, device=self.device, mode=self.mode, tf32=self.tf32, num_threads=num_threads,
            )  # fmt: skip
