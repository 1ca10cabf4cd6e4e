"""The recipe: what a run does, in full, as frozen objects; all but network, data, task and budget has a default."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from secateur.report.gates import Gate


class Section(BaseModel):
    """A part of a recipe: closed, immutable, and documented field by field for the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Call(Section):
    """A function of the user's or ours, named ``package.module:function``, and the arguments it is called with."""

    function: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    """Where the function is: package.module:function. Modules beside the recipe and in the working folder are found."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the call."""


def _call(value: Any) -> Any:
    return {"function": value} if isinstance(value, str) else value


Callable_ = Annotated[Call, BeforeValidator(_call)]


class CustomTask(Section):
    """A task made of the user's own functions."""

    loss: Callable_
    """(outputs, targets) -> one loss a sample, shape [batch]; a scalar is taken as the mean over the batch."""
    metrics: Annotated[dict[str, Callable_], Field(min_length=1)]
    """Name -> (outputs, targets) -> one value a sample, shape [batch]; the mean is reported."""
    primary: str | None = None
    """The metric that chooses the best epoch; the first one where absent."""
    lower_is_better: list[str] = []
    """The metrics of which less is better."""
    distill: Literal["squared-error", "kullback-leibler"] | Callable_ = "squared-error"
    """The distance of a student's outputs to its teacher's: a name, or (outputs, teacher's, temperature) -> [batch]."""


def _task(value: Any) -> Any:
    return {"function": value} if isinstance(value, str) and ":" in value else value


Task_ = Annotated[Literal["gaze", "classification"] | Call | CustomTask, BeforeValidator(_task)]


class EstimateSettings(Section):
    """Redundancy estimation: one calibration pass collects gate gradients into Gram matrices."""

    samples: Annotated[int, Field(ge=2)] = 256
    """Calibration samples; ten times the width of the widest group is plenty."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples a forward and backward pass."""
    labels: Literal["auto", "sampled", "true"] = "auto"
    """Labels of the gradients: drawn from the network's predictions, or the data's own; auto draws where it can."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Softening of the predictions that labels are drawn from."""
    tau: Annotated[float, Field(gt=0)] = 0.001
    """Tail of the spectrum, in nats, below which the directions of a group count as superfluous."""


SignalName = Literal[
    "fisher", "joint", "obs", "taylor", "mean-replacement", "apoz", "hrank", "i-spasp", "l1", "l2", "bn-scale",
    "geometric-median", "random",
]  # fmt: skip


class CombinedSignal(Section):
    """A signal put together from four tables: scaling(mean over samples of reduction(pointwise(input)))."""

    input: Literal[
        "weight", "weight-gradient", "weight*gradient", "activation", "gradient", "activation*gradient", "centred",
        "centred*gradient",
    ]  # fmt: skip
    """What is looked at: filters that write the channel, what layers read of it, what of this is off its mean."""
    pointwise: Literal["identity", "absolute", "square", "second-order", "positive"] = "identity"
    """What is done to each entry; second-order is u^2 / 2 - u, positive is 1 above zero."""
    reduction: Literal["sum", "mean", "absolute", "square", "absolute-sum", "square-sum"] = "sum"
    """How a sample's entries become one number: their sum or mean, the sum of their absolute values or squares, the
    absolute value or square of their sum."""
    scaling: Literal["none", "places", "layer-l1", "layer-l2", "parameters", "macs"] = "none"
    """What scores are divided by: the number of entries, a norm of the group's scores, what one channel saves."""


Signal_ = Annotated[
    Annotated[SignalName, Tag("SignalName")] | Annotated[CombinedSignal, Tag("CombinedSignal")],
    Discriminator(lambda value: "SignalName" if isinstance(value, str) else "CombinedSignal"),
]


class PruneSettings(Section):
    """Hierarchical structured pruning. Exactly one of macs and parameters."""

    macs: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the multiply-adds that may stay, in (0, 1]."""
    parameters: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the parameters that may stay, in (0, 1]."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Rounds in which the budget is approached exponentially; saliency is measured anew in each."""
    signal: Signal_ = "fisher"
    """What a channel is worth: the loss that its removal adds (fisher), after that of others (joint), while these are
    re-scaled (obs), to first order (taylor) or with its mean left in place (mean-replacement); how often it is positive
    (apoz), the rank of its maps (hrank), whether others can rebuild what reads it (i-spasp); its filter's norm (l1, l2)
    or distance to other filters, its scale in batch norm; chance. Or input, pointwise, reduction and scaling."""
    samples: Annotated[int, Field(ge=2)] = 256
    """Samples the saliency of a round is measured on."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples a forward and backward pass."""
    floors: bool = True
    """Never cut a group below its effective filters."""
    multiple: Annotated[int, Field(ge=1)] = 8
    """Widths are cut in steps of this many channels, which the runtimes' kernels prefer."""
    keep: list[str] = []
    """Modules, by dotted name or class name, that are never cut."""
    recovery_steps: Annotated[int, Field(ge=0)] = 50
    """Distillation steps after each round."""

    @model_validator(mode="after")
    def _one_budget(self) -> "PruneSettings":
        if (self.macs is None) == (self.parameters is None):
            raise ValueError("give exactly one budget: macs or parameters")
        return self

    @property
    def budget(self) -> tuple[Literal["macs", "parameters"], float]:
        """The kind of cost that is limited, and the share of it that may stay."""
        return ("macs", self.macs) if self.macs is not None else ("parameters", self.parameters or 1.0)


class DistillationSettings(Section):
    """Weights of the parts of the fine-tuning loss."""

    task: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the task's own loss."""
    output: Annotated[float, Field(ge=0)] = 0.9
    """Weight of the distance to the teacher's outputs."""
    feature: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the distance to the teacher's features, channel by channel, each weighted by its Fisher saliency."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Softening of both networks' outputs in the distillation."""


class FinetuneSettings(Section):
    """Fisher-guided distillation from the uncut network."""

    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over the training set; 0 leaves the network as pruning left it."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak of the cosine schedule."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples a step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """The optimiser."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decay of weights; norms and biases are exempt."""
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training set that chooses the best epoch."""
    distillation: DistillationSettings = DistillationSettings()


class ExportSettings(Section):
    """ONNX export."""

    opset: Annotated[int, Field(ge=18)] = 20
    """ONNX operator set."""
    dynamic_batch: bool = True
    """Leave the batch size open."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference between the network and its ONNX file, relative to the output's largest value."""


BackendName = Literal["onnxruntime", "onnxruntime_cuda", "onnxruntime_tensorrt", "openvino", "tensorrt", "tensorrt_rtx"]


class BuildSettings(Section):
    """Engines."""

    backends: list[BackendName] = ["onnxruntime", "tensorrt_rtx"]
    """Runtimes an engine is built for; one that is absent is reported and skipped, unless it is measured."""


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


class MlflowSettings(Section):
    """Logging of finished runs to MLflow."""

    experiment: str = "secateur"
    """The experiment's name."""
    tracking_uri: str | None = None
    """MLflow's server or folder; the environment's MLFLOW_TRACKING_URI where absent."""


class Recipe(Section):
    """A whole run: from a trained network to judged engines."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """Names the run's folder."""
    model: Callable_
    """Returns the trained network, a torch.nn.Module."""
    data: Callable_
    """Returns secateur.Data, or a pair of data sets (train, test) whose items are (inputs, target)."""
    task: Task_
    """gaze, classification, a function that returns a secateur.Task, or one's own loss and metrics."""
    prune: PruneSettings
    seed: int = 0
    """Every random choice follows from it."""
    estimate: EstimateSettings = EstimateSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    export: ExportSettings = ExportSettings()
    build: BuildSettings = BuildSettings()
    measure: MeasureSettings = MeasureSettings()
    gates: list[Gate] = []
    """What must hold for the run to pass; the exit code says whether it does."""
    mlflow: MlflowSettings | None = None
    """Where finished runs are logged to, if anywhere."""
    pictures: Annotated[int, Field(ge=0)] = 6
    """Pictures of test samples in the report, where the task can draw them."""
    folder: Path = Path("runs")
    """Where run folders are kept, relative to the working folder."""
