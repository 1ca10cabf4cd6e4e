"""The part of a recipe behind the network: how it is exported, which engines are built, what is timed."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from secateur.artifacts import OpenSize
from secateur.backend_options import BackendOptions
from secateur.backends import BACKENDS, Backend
from secateur.recipe_section import Section


class SizeSettings(Section):
    """A size that stays open in the ONNX file."""

    axis: Annotated[int, Field(ge=1)]
    """The axis of the input, counted from 0, which is the batch's; of pictures, 2 is the height and 3 the width."""
    least: Annotated[int, Field(ge=1)]
    """Smallest size; the file is proved there, and engines that fix limits take it."""
    most: Annotated[int, Field(ge=2)]
    """Largest size; likewise."""
    multiple: Annotated[int, Field(ge=1)] = 1
    """The size comes in steps of this; what strides and upsampling ask for, often 32."""
    inputs: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    """The inputs that have it, counted from 0."""

    @model_validator(mode="after")
    def _bounds(self) -> "SizeSettings":
        if self.least >= self.most or self.least % self.multiple or self.most % self.multiple:
            raise ValueError("least below most, both multiples of multiple")
        return self


class PictureSettings(Section):
    """How pictures become the network's input: (value * scale - mean) / std, channels first."""

    size: tuple[int, int]
    """Rows and columns that pictures are resized to."""
    scale: float = 1 / 255
    """What values are multiplied with before."""
    mean: list[float] = [0.0]
    """What is taken away: one number, or one a channel."""
    std: list[Annotated[float, Field(gt=0)]] = [1.0]
    """What is divided by: one number, or one a channel."""
    shorter_side: int | None = None
    """Scale pictures until this is their shorter side and cut out the middle; absent for stretching the whole."""


class ExportSettings(Section):
    """ONNX export."""

    opset: Annotated[int, Field(ge=18)] = 20
    """ONNX operator set."""
    dynamic_batch: bool = True
    """Leave the batch size open."""
    batch_name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "batch"
    """What the open batch size is called in the file."""
    sizes: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], SizeSettings] = {}
    """Other sizes that stay open, by the names they get: {height: {axis: 2, least: 64, most: 512, multiple: 32}}."""
    input_names: list[str] | None = None
    """Names of the file's inputs; the forward's argument names where absent."""
    output_names: list[str] | None = None
    """Names of the file's outputs; output, or output_0 and so on, where absent."""
    slim: bool = False
    """Have onnxslim clean the file up once more: attention leaves arithmetic on shapes behind, convolutions nothing."""
    classes: list[str] = []
    """Names of the network's scores, kept in the file; the data's own where empty."""
    pictures: PictureSettings | None = None
    """How pictures become inputs, kept in the file and done by deployed engines; the data's own where absent."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference between the network and its ONNX file, relative to the output's largest value."""

    @property
    def open_sizes(self) -> dict[str, OpenSize]:
        """Return the open sizes as the export takes them."""
        return {name: OpenSize(**size.model_dump()) for name, size in self.sizes.items()}


def _backend(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"one of {', '.join(BACKENDS)}")
    return name


BackendName = Annotated[str, AfterValidator(_backend)]


class BuildSettings(Section):
    """Engines."""

    backends: list[BackendName] = ["onnxruntime", "tensorrt_rtx"]
    """Runtimes an engine is built for; one that is absent is reported and skipped, unless it is measured."""
    options: Annotated[BackendOptions, BeforeValidator(lambda given: {} if given is None else given)] = BackendOptions()
    """Settings of backends, by their names."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference of an engine's outputs to the ONNX file's, relative to their largest value."""

    def backend(self, name: str) -> Backend:
        """Return a backend with what the recipe sets of it."""
        return self.options.backend(name)


class MeasureSettings(Section):
    """The latency comparison: paired, interleaved, on fresh engine instances."""

    backend: BackendName = "onnxruntime"
    """The runtime that is timed."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    """Samples a call."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """Threads of the runtime."""
    instances: Annotated[int, Field(ge=3)] = 5
    """Fresh engine instances of each side."""
    max_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time the comparison may take."""
    resolution: bool = True
    """Also time the original against itself; what that shows is the limit of resolution."""
    layers: bool = True
    """Also hold theory against practice: the layers' own times, the machine's roofline, and where a gain was lost."""
