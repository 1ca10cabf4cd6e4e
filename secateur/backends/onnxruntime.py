"""ONNX Runtime, on the execution provider that is asked for and on no other."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from secateur.artifacts import EngineResult
from secateur.backends.cuda import cuda_devices, missing_cuda
from secateur.backends.engine_parity import engine_parity
from secateur.backends.machine import processor
from secateur.backends.onnx_file import read_whole
from secateur.backends.protocol import BuildOptions, Engine, Missing, engine_file, first_line, require
from secateur.errors import BackendError
from secateur.storage import sha256, write

Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime with all graph optimisations, operators one after the other.

    The engine's file is the ONNX file; it is optimised when a session opens. ``spinning`` lets idle threads of a
    session wait actively: a little faster alone, but two sessions that are timed in turns would disturb one another.
    Calls copy inputs from and outputs to the host, on every provider.
    """

    name: str = "onnxruntime"
    provider: Provider = "CPUExecutionProvider"
    spinning: bool = False

    def unavailable(self) -> Missing | None:
        """Say why no session can be opened here, or None."""
        package = "cpu" if self.provider == "CPUExecutionProvider" else "gpu"
        try:
            import onnxruntime
        except ImportError as error:
            return Missing(found=f"no onnxruntime ({error})", remedy=f"Install it: pip install 'secateur[{package}]'.")
        present = onnxruntime.get_available_providers()
        if self.provider not in present:
            return Missing(
                found=f"an onnxruntime with {', '.join(present)} only",
                remedy="Install onnxruntime-gpu in place of onnxruntime: pip uninstall onnxruntime; "
                "pip install 'secateur[gpu]'.",
            )
        return None if self.provider == "CPUExecutionProvider" else missing_cuda()

    def unable_to_run(self) -> Missing | None:
        """Say the same: what builds here runs here."""
        return self.unavailable()

    def version(self) -> str:
        """Name the installed version."""
        try:
            import onnxruntime
        except ImportError:
            return ""
        return onnxruntime.__version__

    def devices(self) -> tuple[str, ...]:
        """Name the processor or the CUDA devices."""
        return (processor(),) if self.provider == "CPUExecutionProvider" else cuda_devices()

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Copy the ONNX file, its weights inside, open it and prove the session's outputs."""
        require(self.name, self.unavailable(), f"ONNX Runtime with {self.provider}")
        options.progress("open", 0, 2)
        content = read_whole(onnx_file)
        started = time.perf_counter()
        with self._session(content, str(onnx_file), options.num_threads) as engine:
            build_s = time.perf_counter() - started
            options.progress("prove", 1, 2)
            parity = engine_parity(f"{self.name} {self.version()}", engine, onnx_file, options)
        path = folder / f"{onnx_file.stem}.{self.name}.onnx"
        write(path, content)
        options.progress("done", 2, 2)
        return EngineResult(
            backend=self.name,
            backend_version=self.version(),
            status="built",
            device=", ".join(self.devices()),
            options={"provider": self.provider, "spinning": str(self.spinning), "optimisation": "all"},
            path=path.name,
            sha256=sha256(content),
            size_bytes=len(content),
            build_s=build_s,
            parity=parity,
        )

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Open a session of its own on the engine's file."""
        require(self.name, self.unable_to_run(), f"ONNX Runtime with {self.provider}")
        return self._session(engine_file(self, result, folder), str(folder / str(result.path)), num_threads)

    def _session(self, content: bytes, where: str, num_threads: int) -> "OnnxRuntimeEngine":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = num_threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        if self.provider != "CPUExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(content, settings, providers=[self.provider])
        except Exception as error:
            raise BackendError(
                f"{self.name}, {where}", f"a refusal ({first_line(error)})", "a network that ONNX Runtime can open",
                "Export in another opset, or replace the operator it names.",
            ) from error  # fmt: skip
        opened = session.get_providers()
        if opened[0] != self.provider:
            raise BackendError(
                f"{self.name}, {where}", f"a fall-back to {opened[0]}", self.provider,
                "Make the provider's libraries (CUDA, cuDNN, TensorRT) of the versions it was built for loadable.",
            )  # fmt: skip
        return OnnxRuntimeEngine(session, self.name)


class OnnxRuntimeEngine(Engine):
    """An open session."""

    def __init__(self, session: Any, name: str) -> None:
        self._session = session
        self._name = name
        self._inputs = [entry.name for entry in session.get_inputs()]

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Run the session; outputs are on the host when it returns."""
        if self._session is None:
            raise BackendError(self._name, "a closed engine", "an open one", "Load the engine again.")
        try:
            return tuple(self._session.run(None, dict(zip(self._inputs, inputs, strict=True))))
        except Exception as error:
            shapes = [f"{array.dtype} {list(array.shape)}" for array in inputs]
            raise BackendError(
                self._name, f"a refusal of the inputs {shapes} ({first_line(error)})", f"the inputs {self._inputs}",
                "Give inputs of the types and shapes of the ONNX file.",
            ) from error  # fmt: skip

    def close(self) -> None:
        """Let go of the session, which frees its memory and threads."""
        self._session = None
