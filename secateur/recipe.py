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
    """Redundancy estimation: calibration passes collect gradients and activations into matrices of channels."""

    samples: Annotated[int, Field(ge=2)] = 256
    """Calibration samples; ten times the width of the widest group is plenty."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples a forward and backward pass."""
    labels: Literal["auto", "sampled", "true"] = "auto"
    """Labels of the gradients: drawn from the network's predictions, or the data's own; auto draws where it can."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Softening of the predictions that labels are drawn from."""
    matrix: Literal["gate", "weight-gradient", "activation"] = "gate"
    """Whose spectrum is counted: gates' gradients (in nats), filters' gradients, or activations."""
    estimator: Literal[
        "tail", "energy", "entropy", "stable-rank", "participation", "gavish-donoho", "marchenko-pastur"
    ] = "tail"
    """How many directions of a spectrum count; tail, the only one in nats, goes with the gate matrix alone."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """Parameter of the other estimators: the share left out (energy, 0.01), a factor on the published rule (1)."""
    tau: Annotated[float, Field(gt=0)] | Literal["auto"] = 0.001
    """Tail of the spectrum, in nats, below which the directions of a group count as superfluous; auto measures it."""
    loss_increase: Annotated[float, Field(gt=0)] = 0.05
    """For tau auto: what cutting to the floors, without training, may add to the loss on held-out samples, in nats."""

    @model_validator(mode="after")
    def _units(self) -> "EstimateSettings":
        if self.estimator == "tail" and self.matrix != "gate":
            raise ValueError("the tail is in nats: give matrix gate, or another estimator, for example energy")
        if self.estimator == "tail" and self.threshold is not None:
            raise ValueError("the tail's threshold is tau: leave threshold out")
        return self


class AllocatorSettings(Section):
    """How much to take from where."""

    name: Literal["uniform", "ranked", "theis", "automatic", "hierarchical", "knapsack"] = "hierarchical"
    """One share of all groups (uniform); channels by saliency alone (ranked), less beta times cost (theis), for their
    cost (automatic), the same level by level (hierarchical); the most saliency within the budget (knapsack)."""
    beta: Annotated[float, Field(ge=0)] | None = None
    """Of theis: saliency for 1e9 units of the cost; its paper's 3e-4 to 3e-1 nats a GFLOP are 6e-4 to 6e-1 for macs."""
    by_class: bool = False
    """Of ranked, theis and hierarchical: let classes of groups of equal topology lose channels in equal shares."""

    @model_validator(mode="after")
    def _parameters(self) -> "AllocatorSettings":
        if (self.name == "theis") != (self.beta is not None):
            raise ValueError("theis, and no other allocator, needs beta; as in {name: theis, beta: 0.02}")
        if self.by_class and self.name not in {"ranked", "theis", "hierarchical"}:
            raise ValueError("by_class belongs to ranked, theis and hierarchical")
        return self


def _allocator(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


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
    """Structured pruning. Exactly one of macs, parameters, bytes and latency, or allowed_loss without them."""

    macs: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the multiply-adds that may stay, in (0, 1]."""
    parameters: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the parameters that may stay, in (0, 1]."""
    bytes: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the bytes of the parameters that may stay, in (0, 1]; each counts its own precision."""
    latency: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the time of the layers that may stay, in (0, 1]: convolutions and linear layers are timed one by one, in
    steps of multiple channels, on measure.backend, and kept for later runs on the same machine."""
    allowed_loss: Annotated[float, Field(ge=0)] | None = None
    """Stop where the task's loss on the samples would rise by more, in nats, after a cut and before recovery; without
    a share as above everything down to the floors may go until then."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Rounds in which the budget is approached exponentially; saliency is measured anew in each."""
    schedule: Literal["exponential", "one-at-a-time"] = "exponential"
    """Rounds as above, or as many as it takes with one step of one group each, as Fisher pruning was published."""
    allocator: Annotated[AllocatorSettings, BeforeValidator(_allocator)] = AllocatorSettings()
    """How much to take from where: a name, or a mapping with it and its parameters."""
    signal: Signal_ = "fisher"
    """What a channel is worth: the loss that its removal adds (fisher), after that of others (joint), while these are
    re-scaled (obs), to first order (taylor) or with its mean left in place (mean-replacement); how often it is positive
    (apoz), the rank of its maps (hrank), whether others can rebuild what reads it (i-spasp); its filter's norm (l1, l2)
    or distance to other filters, its scale in batch norm; chance. Or input, pointwise, reduction and scaling."""
    compensation: Literal["none", "gates", "least-squares"] = "none"
    """How what stays makes up for what goes, kept where it lowers the loss: readers at other scales (gates), every
    layer fitted to the uncut network's outputs (least-squares)."""
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
        if len(self._shares) != 1 and (self._shares or self.allowed_loss is None):
            raise ValueError("give exactly one budget: macs, parameters, bytes or latency; or allowed_loss alone")
        return self

    @property
    def _shares(self) -> dict[Literal["macs", "parameters", "bytes", "latency"], float]:
        found: dict[Literal["macs", "parameters", "bytes", "latency"], float | None] = {
            "macs": self.macs, "parameters": self.parameters, "bytes": self.bytes, "latency": self.latency,
        }  # fmt: skip
        return {kind: share for kind, share in found.items() if share is not None}

    @property
    def budget(self) -> tuple[Literal["macs", "parameters", "bytes", "latency"], float | None]:
        """The kind of cost that is limited, and the share of it that may stay; None where only the loss limits it."""
        return next(iter(self._shares.items()), ("macs", None))


class DistillationSettings(Section):
    """The fine-tuning loss: its parts' weights, and how outputs are compared."""

    task: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the task's own loss."""
    output: Annotated[float, Field(ge=0)] = 0.9
    """Weight of the distance to the teacher's outputs."""
    feature: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the distance to the teacher's features, channel by channel, each weighted by its Fisher saliency."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Softening of both networks' outputs in the distillation."""
    parameter: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the distance to the teacher's weights, each weighted by its Fisher information; 0 computes none."""
    method: Literal["kd", "dist"] = "kd"
    """How outputs are compared: kd by the task's own distance (softened Kullback-Leibler divergence where it predicts
    chances), dist by correlations between outcomes and between samples."""
    teachers: list[Callable_] = []
    """Functions that return further networks, whose predictions are averaged with the uncut network's."""


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
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises to its peak."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0
    """Longest gradient; null for no limit."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of every label that is spread evenly over all outcomes, in the task's part of the loss."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """a of the Beta(a, a) from which each step draws how much of another sample is mixed into each; 0 for none."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of a running average of the weights, which then is what is evaluated and kept; absent for none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the training; bf16 and fp16 are mixed precision."""
    device: Literal["auto", "cpu"] = "auto"
    """Where it trains; auto is the fastest device there is."""
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
