"""ONNX Runtime, on the execution provider that is asked for and on no other."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from secateur.artifacts import EngineResult
from secateur.backends.cuda import Stream, cuda_devices, missing_cuda
from secateur.backends.engine_inputs import ExpectedInputs
from secateur.backends.engine_parity import WEIGHTS_FOLDER, engine_parity
from secateur.backends.machine import processor
from secateur.backends.onnx_file import OnnxInput, Whole, random_inputs, read_inputs, read_whole
from secateur.backends.onnxruntime_engine import BoundOnnxRuntimeEngine, OnnxRuntimeEngine, places_of
from secateur.backends.protocol import (
    BuildOptions,
    Engine,
    Missing,
    engine_file,
    require,
    require_device,
    write_engine,
)
from secateur.backends.setting import TF32, Setting
from secateur.errors import BackendError, first_line
from secateur.storage import read

Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
Optimisation = Literal["none", "basic", "extended", "all"]
Search = Literal["exhaustive", "heuristic"]

CPU: Provider = "CPUExecutionProvider"
LEVELS: dict[str, str] = {
    "none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}  # fmt: skip


def on_gpu(backend: "OnnxRuntime") -> bool:
    """Say whether a provider on a GPU is asked for."""
    return backend.provider != CPU


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime on one execution provider, operators one after the other.

    The provider that is asked for is the one that is used: a session that falls back to another is an error unless
    ``fallback`` allows it, and single nodes that the provider leaves to the processor are counted in the engine's
    description. ``optimisation`` is how far the graph is rewritten when a session opens; with ``keep_optimised`` that
    is done once, and the engine's file is the rewritten graph, which belongs to this machine's processor. ``spinning``
    is a little faster alone, but two sessions that are timed in turns would disturb one another.

    On GPUs inputs and outputs are bound to the device's memory and copied through pinned memory on the session's
    stream. An exhaustive ``search`` takes seconds for each shape.
    """

    name: str = "onnxruntime"
    provider: Provider = CPU
    optimisation: Annotated[Optimisation, Setting("How far the graph is rewritten.")] = "all"
    keep_optimised: Annotated[bool, Setting("Rewrite the graph once, when the engine is built, for this machine.")] = (
        False
    )
    spinning: Annotated[bool, Setting("Let idle threads wait actively.")] = False
    arena: Annotated[bool, Setting("Keep freed memory for the next call.")] = True
    cuda_graph: Annotated[bool, Setting("Record the kernels once for each shape and replay them.", on_gpu)] = False
    tf32: Annotated[bool, Setting(TF32, on_gpu)] = False
    search: Annotated[Search, Setting("Choose convolutions' kernels by trying all, or foretell them.", on_gpu)] = (
        "exhaustive"
    )
    fallback: Annotated[
        bool, Setting("Let the processor do it where the provider cannot be had; otherwise that is an error.", on_gpu)
    ] = False

    def __post_init__(self) -> None:
        if self.cuda_graph and self.provider == CPU:
            raise BackendError(
                self.name, "CUDA graphs on the processor", "a provider on a GPU", "Leave cuda_graph out, or choose "
                "CUDAExecutionProvider.",
            )  # fmt: skip

    def unavailable(self) -> Missing | None:
        """Say why no session can be opened here, or None."""
        package = "cpu" if self.provider == CPU else "gpu"
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
        return None if self.provider == CPU else missing_cuda()

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
        return (processor(),) if self.provider == CPU else cuda_devices()

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Copy the ONNX file, its weights inside, or its optimised graph; open it and prove the session's outputs."""
        require(self.name, self._unable(), f"ONNX Runtime with {self.provider}")
        options.progress("open", 0, 3)
        inputs = read_inputs(onnx_file)
        whole = read_whole(onnx_file)
        started = time.perf_counter()
        if self.keep_optimised:
            whole = self._optimised(whole, options.num_threads)
        with self._engine(whole, inputs, options.num_threads) as engine:
            build_s = time.perf_counter() - started
            options.progress("prove", 1, 3)
            parity = engine_parity(f"{self.name} {self.version()}", engine, onnx_file, options)
            options.progress("place", 2, 3)
            arrays = random_inputs(inputs, options.batch_size, options.seed, options.sizes)
            places = places_of(engine.profile(arrays, num_calls=1))
        result = write_engine(
            self, folder / f"{onnx_file.stem}.{self.name}.onnx", whole.content,
            options={**self._told(), "nodes": places}, build_s=build_s, parity=parity, weights=whole.weights,
        )  # fmt: skip
        options.progress(f"{self.name} built and proved", 3, 3)
        return result

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Open a session of its own on the engine's file."""
        require(self.name, self._unable(), f"ONNX Runtime with {self.provider}")
        content = engine_file(self, result, folder)
        if self.keep_optimised:
            require_device(self, result, folder)
        path = folder / str(result.path)
        whole = Whole(path=path, content=content, weights=tuple(folder / name for name in result.weights))
        return self._engine(whole, read_inputs(path), num_threads)

    def _unable(self) -> Missing | None:
        """Say what is missing where nothing may stand in for it."""
        return None if self.fallback else self.unable_to_run()

    def _told(self) -> dict[str, str]:
        told = {
            "provider": self.provider, "optimisation": self.optimisation, "spinning": str(self.spinning),
            "arena": str(self.arena),
        }  # fmt: skip
        on_gpu = {"cuda_graph": str(self.cuda_graph), "tf32": str(self.tf32), "search": self.search}
        return told if self.provider == CPU else {**told, **on_gpu}

    def _engine(self, whole: Whole, inputs: tuple[OnnxInput, ...], num_threads: int) -> Engine:
        expected = ExpectedInputs(engine=self.name, inputs=inputs)

        def open_session(profile: Path | None, stream: Stream | None) -> Any:
            return self._session(whole, num_threads, profile=profile, stream=stream)

        if self.provider == CPU or (self.fallback and self.unable_to_run() is not None):
            return OnnxRuntimeEngine(open_session, expected)
        return BoundOnnxRuntimeEngine(open_session, expected, cuda_graph=self.cuda_graph)

    def _optimised(self, whole: Whole, num_threads: int) -> Whole:
        with tempfile.TemporaryDirectory(prefix="secateur-optimised-") as scratch:
            path = Path(scratch) / "optimised.onnx"
            self._session(whole, num_threads, optimised=path)
            return Whole(path=whole.path, content=read(path))

    def _session(
        self, whole: Whole, num_threads: int, *, profile: Path | None = None, stream: Stream | None = None,
        optimised: Path | None = None,
    ) -> Any:  # fmt: skip
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = num_threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        level = "none" if self.keep_optimised and optimised is None else self.optimisation
        settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
        settings.log_severity_level = 3
        settings.enable_cpu_mem_arena = self.arena
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        if profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(profile)
        if whole.weights:
            settings.add_session_config_entry(WEIGHTS_FOLDER, str(whole.path.parent))
        if optimised is not None:
            settings.optimized_model_filepath = str(optimised)
        if self.provider != CPU and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(
                whole.content, settings, providers=[(self.provider, self._given(stream))]
            )
        except Exception as error:
            raise BackendError(
                f"{self.name}, {whole.path}", f"a refusal ({first_line(error)})",
                "a network that ONNX Runtime can open",
                "Export in another opset, or replace the operator it names.",
            ) from error  # fmt: skip
        opened = session.get_providers()
        if opened[0] != self.provider and not self.fallback:
            raise BackendError(
                f"{self.name}, {whole.path}", f"a fall-back to {opened[0]}", self.provider,
                "Make the provider's libraries (CUDA, cuDNN, TensorRT) of the versions it was built for loadable.",
            )  # fmt: skip
        return session

    def _given(self, stream: Stream | None) -> dict[str, str]:
        """Give the provider its own options."""
        if self.provider == CPU:
            return {}
        given = {} if stream is None else {"user_compute_stream": str(stream.handle)}
        if self.provider == "TensorrtExecutionProvider":
            graph = {"trt_cuda_graph_enable": "1"} if self.cuda_graph and stream is not None else {}
            return {**given, **graph}
        # A session that is profiled runs on the host's terms: without a stream of ours there is no graph either.
        graph = {"enable_cuda_graph": "1"} if self.cuda_graph and stream is not None else {}
        return {**given, **graph, "use_tf32": str(int(self.tf32)), "cudnn_conv_algo_search": self.search.upper()}
