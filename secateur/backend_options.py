"""What may be set of each backend of the table, by names of its own fields, and a backend with some of it set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from secateur.backends import BACKENDS, Backend
from secateur.backends.cuda_driver import DRIVERS, DriverName
from secateur.backends.onnxruntime import Optimisation, Search
from secateur.backends.openvino import Device, Hint, Precision
from secateur.backends.protocol import first_line
from secateur.errors import BackendError
from secateur.recipe_section import Section


class TorchOptions(Section):
    """PyTorch on a CUDA device."""

    tf32: bool = False
    """Allow float32 convolutions and products the 10-bit mantissa of tensor cores."""


class OnnxRuntimeOptions(Section):
    """ONNX Runtime on the processor."""

    optimisation: Optimisation = "all"
    """How far the graph is rewritten."""
    keep_optimised: bool = False
    """Rewrite the graph once, when the engine is built, for this machine."""
    spinning: bool = False
    """Let idle threads wait actively."""
    arena: bool = True
    """Keep freed memory for the next call."""


class OnnxRuntimeGpuOptions(OnnxRuntimeOptions):
    """ONNX Runtime on a CUDA device."""

    cuda_graph: bool = False
    """Record the kernels once for each shape and replay them."""
    tf32: bool = False
    """Allow float32 convolutions and products the 10-bit mantissa of tensor cores."""
    search: Search = "exhaustive"
    """Choose convolutions' kernels by trying all, or foretell them."""
    fallback: bool = False
    """Let the processor do it where the provider cannot be had; otherwise that is an error."""


class OpenVinoOptions(Section):
    """OpenVINO."""

    device: Device = "CPU"
    """Where it runs."""
    precision: Precision = "f32"
    """The arithmetic of what the file has in float32; coarser ones need a wider build.tolerance."""
    hint: Hint = "latency"
    """What it is tuned for."""
    compiled: bool = False
    """Keep the compiled blob, which loads faster, on this device and version alone."""


class TensorRtOptions(Section):
    """TensorRT."""

    tf32: bool = False
    """Allow float32 convolutions and products the 10-bit mantissa of tensor cores; needs a wider build.tolerance."""
    level: Annotated[int, Field(ge=0, le=5)] | None = None
    """How hard the compiler searches; its own default where absent."""
    workspace_bytes: Annotated[int, Field(ge=1)] | None = None
    """What a layer may take beside its tensors; its own default where absent."""
    timing_cache: Path | None = None
    """A file of what was timed, read and written at every build."""
    version_compatible: bool = False
    """Let later releases run the engine."""
    hardware_compatible: bool = False
    """Let every GPU from Ampere on run the engine."""
    refittable: bool = False
    """Let the engine take other weights."""
    stripped: bool = False
    """Write the engine without weights, which it gets from the ONNX file."""
    cuda_graph: bool = False
    """Record the kernels once for each shape and replay them; cuda.bindings only."""
    driver: DriverName = "cuda.bindings"
    """The package that gives device memory, streams and events."""

    @model_validator(mode="after")
    def _recorded(self) -> "TensorRtOptions":
        if self.cuda_graph and not DRIVERS[self.driver].records:
            raise ValueError("cuda_graph with the driver cuda.bindings, which records graphs, or neither")
        return self


class TensorRtRtxOptions(TensorRtOptions):
    """TensorRT for RTX."""

    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^\d+\.\d+$")], ...] = ("8.6", "8.9", "12.0")
    """The GPUs that it compiles for; [] leaves a portable engine that is finished when it is loaded."""


class BackendOptions(Section):
    """Settings of backends, by their names in the table; what is left out keeps the backend's own default."""

    torch_cuda: TorchOptions | None = None
    """PyTorch on a CUDA device, operator by operator."""
    torch_cuda_compile: TorchOptions | None = None
    """PyTorch on a CUDA device, compiled."""
    torch_cuda_graph: TorchOptions | None = None
    """PyTorch on a CUDA device, recorded and replayed."""
    onnxruntime: OnnxRuntimeOptions | None = None
    """ONNX Runtime on the processor."""
    onnxruntime_cuda: OnnxRuntimeGpuOptions | None = None
    """ONNX Runtime's own kernels on a CUDA device."""
    onnxruntime_tensorrt: OnnxRuntimeGpuOptions | None = None
    """ONNX Runtime by way of TensorRT."""
    openvino: OpenVinoOptions | None = None
    """OpenVINO."""
    tensorrt: TensorRtOptions | None = None
    """TensorRT."""
    tensorrt_rtx: TensorRtRtxOptions | None = None
    """TensorRT for RTX."""

    def given(self, name: str) -> dict[str, Any]:
        """Return what is set of a backend otherwise than the table has it."""
        wanted = getattr(self, name, None)
        return {} if wanted is None else wanted.model_dump(exclude_defaults=True)

    def backend(self, name: str) -> Backend:
        """Return a backend of the table with what is set of it."""
        given = self.given(name)
        return replace(BACKENDS[name], **given) if given else BACKENDS[name]  # type: ignore[type-var]


def configured(name: str, settings: Mapping[str, Any], where: str) -> Backend:
    """Return a backend of the table with settings as a file keeps them.

    Raises:
        BackendError: there is no such backend, or it has no such setting.
    """
    if name not in BACKENDS:
        raise BackendError(
            where, f"an engine of {name!r}", f"one of {', '.join(BACKENDS)}",
            "Install the package that brings this backend.",
        )  # fmt: skip
    if not settings:
        return BACKENDS[name]
    try:
        return BackendOptions.model_validate({name: settings}).backend(name)
    except ValidationError as error:
        raise BackendError(
            where, f"settings of {name} that do not fit ({first_line(error)})", "those of a recipe's build.options",
            "Build and deploy it again.",
        ) from error  # fmt: skip
