"""TensorRT 10.13 or later, 11, and TensorRT for RTX: one code, since the three share their strongly typed interface."""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from secateur.artifacts import EngineResult, Parity
from secateur.backends.cuda_driver import DRIVERS, DriverName
from secateur.backends.engine_parity import engine_parity
from secateur.backends.onnx_file import OnnxInput, read_inputs, read_whole
from secateur.backends.protocol import BuildOptions, Engine, Missing, engine_file, require, write_engine
from secateur.backends.setting import TF32, Setting
from secateur.backends.tensorrt_engine import TensorRtEngine
from secateur.backends.tensorrt_layers import summary
from secateur.backends.tensorrt_log import Log, log_of
from secateur.backends.tensorrt_progress import build_monitor
from secateur.errors import BackendError
from secateur.storage import read, write

Package = Literal["tensorrt", "tensorrt_rtx"]

FLAGS = {"version_compatible": "VERSION_COMPATIBLE", "refittable": "REFIT", "stripped": "STRIP_PLAN"}
"""Fields that are flags of the builder."""
EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}


def is_rtx(backend: "TensorRt") -> bool:
    """Say whether it is TensorRT for RTX."""
    return backend.package == "tensorrt_rtx"


@dataclass(frozen=True, kw_only=True)
class TensorRt:
    """An NVIDIA compiler, ``package`` says which.

    The types of the ONNX file are the types of the engine (strongly typed): a half precision engine comes from a half
    precision file. TensorRT for RTX compiles for ``compute_capabilities``, which needs no GPU; full TensorRT for the
    GPU at hand. ``refittable`` engines take other weights by `TensorRtEngine.refit`; ``stripped`` ones get theirs when
    they are loaded, from the ONNX file that is copied beside them. Where the installed release cannot do what is asked,
    the build is refused.
    """

    package: Package
    compute_capabilities: Annotated[
        tuple[Annotated[str, Field(pattern=r"^\d+\.\d+$")], ...],
        Setting("GPUs that it compiles for; [] for an engine that is finished when it is loaded.", is_rtx),
    ] = ()
    tf32: Annotated[bool, Setting(TF32)] = False
    level: Annotated[
        Annotated[int, Field(ge=0, le=5)] | None, Setting("How hard the compiler searches; absent for its own default.")
    ] = None
    workspace_bytes: Annotated[
        Annotated[int, Field(ge=1)] | None, Setting("What a layer may take beside its tensors; absent for all.")
    ] = None
    timing_cache: Annotated[Path | None, Setting("A file of what was timed, read and written at every build.")] = None
    version_compatible: Annotated[bool, Setting("Let later releases run the engine.")] = False
    hardware_compatible: Annotated[bool, Setting("Let every GPU from Ampere on run the engine.")] = False
    refittable: Annotated[bool, Setting("Let the engine take other weights.")] = False
    stripped: Annotated[
        bool, Setting("Write the engine without weights, which it gets from the ONNX file beside it.")
    ] = False
    cuda_graph: Annotated[
        bool, Setting("Record the kernels once for each shape and replay them; cuda.bindings only.")
    ] = False
    driver: Annotated[DriverName, Setting("The package that gives device memory, streams and events.")] = (
        "cuda.bindings"
    )

    def __post_init__(self) -> None:
        if self.cuda_graph and not DRIVERS[self.driver].records:
            raise BackendError(
                self.name, f"CUDA graphs by {self.driver}", "cuda.bindings, which records them",
                "Leave cuda_graph out, or choose the driver cuda.bindings.",
            )  # fmt: skip

    @property
    def name(self) -> str:
        """The package's name."""
        return self.package

    def unavailable(self) -> Missing | None:
        """Say why no engine can be built here: no package, or no GPU for full TensorRT, whose builder needs one."""
        try:
            importlib.import_module(self.package)
        except ImportError as error:
            extra = EXTRAS[self.package]
            return Missing(found=f"no {self.package} ({error})", remedy=f"Install it: pip install 'secateur[{extra}]'.")
        return DRIVERS[self.driver].missing() if self.package == "tensorrt" else None

    def unable_to_run(self) -> Missing | None:
        """Say why no engine can be loaded here: as above, or no GPU."""
        return self.unavailable() or DRIVERS[self.driver].missing()

    def version(self) -> str:
        """Name the installed version."""
        try:
            return importlib.import_module(self.package).__version__
        except ImportError:
            return ""

    def devices(self) -> tuple[str, ...]:
        """Name the CUDA devices."""
        return DRIVERS[self.driver].devices()

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Compile an ONNX file; beside the engine a JSON file says what it is.

        Where a GPU is at hand the engine's outputs are proved as well. An interruption of the build asks TensorRT to
        stop, and is raised when it has.
        """
        require(self.name, self.unavailable(), f"{self.package}, able to build")
        inputs, whole = read_inputs(onnx_file), read_whole(onnx_file)
        trt = importlib.import_module(self.package)
        log = log_of(self.package)
        log.clear()
        started = time.perf_counter()
        content = self._compile(trt, log, onnx_file, inputs, options)
        build_s = time.perf_counter() - started
        missing = self.unable_to_run()
        result = write_engine(
            self, folder / f"{onnx_file.stem}.{self.name}.engine", content,
            options=self._settings(whole.sha256, log, options), build_s=build_s,
            parity=None if missing else self._parity(trt, log, content, onnx_file, options),
            reason="" if missing is None else f"built, not run: {missing}",
            weights=(onnx_file, *whole.weights) if self.stripped else (),
        )  # fmt: skip
        write(folder / f"{result.path}.json", result.model_dump_json(indent=1).encode())
        return result

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Load an engine onto the first GPU; the number of threads has no meaning there."""
        require(self.name, self.unable_to_run(), f"{self.package} and a GPU")
        content = engine_file(self, result, folder)
        self._require_gpu(result, str(folder / str(result.path)))
        onnx_files = [folder / name for name in result.weights if name.endswith(".onnx")]
        return self._open(importlib.import_module(self.package), log_of(self.package), content, *onnx_files)

    def _open(self, trt: Any, log: Log, content: bytes, weights: Path | None = None) -> TensorRtEngine:
        return TensorRtEngine(
            trt, log, content, driver=DRIVERS[self.driver], cuda_graph=self.cuda_graph, weights=weights
        )

    def _require_gpu(self, result: EngineResult, where: str) -> None:
        """Refuse an engine that was compiled for another GPU than the first one here."""
        here = self.devices()[0]
        if result.options.get("hardware_compatible") == "True":
            return
        named = result.options.get("compute_capabilities", "default")
        fits = named == "default" if self.package == "tensorrt_rtx" else result.device.split(", ")[0] == here
        if not fits and not any(here.endswith(f"(compute capability {one})") for one in named.split()):
            wanted = result.device if self.package == "tensorrt" else f"the compute capabilities {named}"
            raise BackendError(
                where, f"the GPU {here}", f"one it was compiled for: {wanted}",
                "Build the engine on this machine, or with hardware_compatible.",
            )  # fmt: skip

    def _parity(self, trt: Any, log: Log, content: bytes, onnx_file: Path, options: BuildOptions) -> Parity:
        with self._open(trt, log, content, onnx_file if self.stripped else None) as engine:
            return engine_parity(f"{self.name} {self.version()}", engine, onnx_file, options)

    def _settings(self, onnx_sha256: str, log: Log, options: BuildOptions) -> dict[str, str]:
        settings = {
            "onnx_sha256": onnx_sha256,
            "batch_sizes": f"1 to {options.max_batch_size}, tuned for {options.batch_size}",
            **{
                name: f"{low} to {high}, tuned for {options.sizes.get(name)}"
                for name, (low, high) in options.ranges.items()
            },
            "tf32": str(self.tf32),
            "compute_capabilities": " ".join(self.compute_capabilities) or "default",
            "driver": self.driver,
        }
        asked = {flag: "True" for flag in FLAGS if getattr(self, flag)}
        if self.level is not None:
            asked["level"] = str(self.level)
        if self.workspace_bytes is not None:
            asked["workspace_bytes"] = str(self.workspace_bytes)
        if self.hardware_compatible:
            asked["hardware_compatible"] = "True"
        layers = log.layers()
        told = {} if layers is None else {"num_layers": str(len(layers)), "layers": summary(layers)}
        return {**settings, **asked, **told}

    def _compile(
        self, trt: Any, log: Log, onnx_file: Path, inputs: tuple[OnnxInput, ...], options: BuildOptions
    ) -> bytes:
        # TensorRT's Python objects do not keep the objects they were made from alive, and crash without them: they are
        # given up one by one, the last made first, before an error can carry this frame away.
        builder = network = parser = config = profile = monitor = plan = None
        try:
            builder = trt.Builder(log)
            flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
            network = builder.create_network(0 if flag is None else 1 << int(flag))
            parser = trt.OnnxParser(network, log)
            if not parser.parse_from_file(str(onnx_file)):
                raise self._parse_error(parser, onnx_file)
            config = builder.create_builder_config()
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
            if not self.tf32:
                config.clear_flag(trt.BuilderFlag.TF32)
            self._set_compute_capabilities(trt, config)
            self._set_options(trt, config)
            profile = builder.create_optimization_profile()
            if any(isinstance(size, str) for entry in inputs for size in entry.shape):
                for entry in inputs:
                    profile.set_shape(entry.name, *profile_shapes(entry, options))
                config.add_optimization_profile(profile)
            monitor = build_monitor(trt, options.progress)
            config.progress_monitor = monitor
            plan = builder.build_serialized_network(network, config)
            if monitor.interruption is not None:
                raise monitor.interruption
            if plan is None:
                raise BackendError(
                    f"{self.name}, {onnx_file}", f"a failed build ({log.last_error()})", "an engine",
                    "Replace the layer it names, or update the runtime.",
                )  # fmt: skip
            self._keep_timings(config)
            return bytes(plan)
        finally:
            plan = None
            config = None
            monitor = None
            profile = None
            parser = None
            network = None
            builder = None

    def _set_options(self, trt: Any, config: Any) -> None:
        for field, flag in FLAGS.items():
            if getattr(self, field):
                config.set_flag(self._member(trt.BuilderFlag, flag, field))
        if self.hardware_compatible:
            levels = getattr(trt, "HardwareCompatibilityLevel", None)
            config.hardware_compatibility_level = self._member(levels, "AMPERE_PLUS", "hardware_compatible")
        if self.level is not None:
            config.builder_optimization_level = self.level
        if self.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_bytes)
        if self.timing_cache is not None:
            if self.package == "tensorrt_rtx":
                raise self._cannot("timing_cache")
            known = read(self.timing_cache) if self.timing_cache.is_file() else b""
            config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)

    def _keep_timings(self, config: Any) -> None:
        if self.timing_cache is not None:
            write(self.timing_cache, bytes(config.get_timing_cache().serialize()))

    def _member(self, table: Any, name: str, field: str) -> Any:
        members = getattr(table, "__members__", {})
        if name not in members:
            raise self._cannot(field)
        return members[name]

    def _cannot(self, field: str) -> BackendError:
        return BackendError(
            self.name, f"{field}, which {self.package} {self.version()} cannot do", "options that it has",
            f"Leave {field} out, or install another release.",
        )  # fmt: skip

    def _parse_error(self, parser: Any, onnx_file: Path) -> BackendError:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [
            f"{error.code().name} at node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"
            for error in errors
        ]
        return BackendError(
            f"{self.name}, {onnx_file}", "; ".join(reasons[:3]) or "a refusal", "operators that its parser knows",
            "Replace the operator it names, or export in another opset.",
        )  # fmt: skip

    def _set_compute_capabilities(self, trt: Any, config: Any) -> None:
        if not self.compute_capabilities:
            return
        known = getattr(trt, "ComputeCapability", None)
        members = {} if known is None else known.__members__
        names = [f"SM{capability.replace('.', '')}" for capability in self.compute_capabilities]
        absent = [name for name in names if name not in members]
        if absent:
            raise BackendError(
                self.name, f"the compute capabilities {absent}", f"some of {sorted(members)}",
                "Choose among those that the installed version compiles for.",
            )  # fmt: skip
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(members[name], index)


def profile_shapes(entry: OnnxInput, options: BuildOptions) -> tuple[tuple[int, ...], ...]:
    """Return an input's least, usual and largest shape."""
    batch, usual = entry.shape[0] if entry.shape else 1, options.batch_size
    is_open = isinstance(batch, str)
    batches = (1, usual, max(usual, options.max_batch_size)) if is_open else (int(batch),) * 3
    ends = (options.least(), options.sizes, options.most())
    return tuple(entry.sized(size, sizes) for size, sizes in zip(batches, ends, strict=True))
