"""The recipe: what a run does, in full, as frozen objects; all but network, data, task and budget has a default."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from secateur.recipe_pruning import PruneSettings
from secateur.recipe_section import Section
from secateur.report.gates import Gate


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


class MixedSettings(Section):
    """Mixed precision: what may stay of the cost, or what must stay of the outputs; each layer's share is measured."""

    bytes: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of the layers' float32 weight bytes that may stay; the outputs' noise is then least."""
    latency: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of the layers' float32 latency, timed on measure.backend, that may stay; the noise is then least."""
    signal_to_noise_db: float | None = None
    """Signal to noise that the outputs must keep on the calibration samples; the cost is then least."""
    cost: Literal["auto", "bytes", "latency"] = "auto"
    """What a layer costs: auto is what the budget is in, and latency where that is a signal to noise."""
    precisions: Annotated[list[Literal["float32", "float16", "int8"]], Field(min_length=1)] = [
        "float32", "float16", "int8",
    ]  # fmt: skip
    """What a layer may be computed in."""

    @model_validator(mode="after")
    def _one_budget(self) -> "MixedSettings":
        if sum(value is not None for value in (self.bytes, self.latency, self.signal_to_noise_db)) != 1:
            raise ValueError("give one of bytes, latency and signal_to_noise_db")
        if (self.bytes is not None and self.cost == "latency") or (self.latency is not None and self.cost == "bytes"):
            raise ValueError("the cost is what the budget is in: leave cost out")
        return self


class QuantizeSettings(Section):
    """Quantisation of the compressed network to eight bits after training: one more file that is built and timed."""

    precision: Literal["int8"] = "int8"
    """The integers of weights and activations."""
    target: Literal["auto", "tensorrt", "cpu"] = "auto"
    """The runtimes whose fusions tensors are rounded for; auto is that of measure.backend. What is rounded for
    tensorrt runs everywhere, what is rounded for cpu in ONNX Runtime and OpenVINO only."""
    calibrator: Literal["min-max", "moving-average", "percentile", "mse", "entropy"] = "mse"
    """How much of an activation's range is kept: all of it, the batches' average, all but the largest 0.01 %, what has
    the least mean square error, what has the least Kullback-Leibler divergence."""
    corrections: list[Literal["equalisation", "adaround", "bias"]] = ["bias"]
    """What is done for the weights, in this order: channels of adjacent layers take scales that suit both; weights are
    rounded up or down as suits their layer's output; biases take back what rounding shifts the mean by."""
    samples: Annotated[int, Field(ge=1)] = 256
    """Calibration samples, none of which the test set has."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples a call of the calibration; a file without an open batch size takes its own."""
    weight_bits: Literal["auto"] | Annotated[int, Field(ge=2, le=8)] = "auto"
    """Bits of weights; auto is 7 for processors that sum products in 16 bits (no VNNI) and 8 for all others. Fewer are
    kept in eight, so that every runtime reads them, and take less room packed."""
    skip: list[str] = []
    """Layers, by module or node name, that stay in float32."""
    mixed: MixedSettings | None = None
    """A precision for every layer in place of eight bits for all; absent for these."""
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    """Largest difference of an engine's outputs to the quantised file's, relative to their largest value: integers on
    the border between two are rounded either way."""


def _backend(name: str) -> str:
    from secateur.backends import BACKENDS

    if name not in BACKENDS:
        raise ValueError(f"one of {', '.join(BACKENDS)}")
    return name


BackendName = Annotated[str, AfterValidator(_backend)]


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
    layers: bool = True
    """Also hold theory against practice: the layers' own times, the machine's roofline, and where a gain was lost."""


class Policy(Section):
    """What a finished run is judged by, in a file of its own: gates in place of the recipe's."""

    gates: Annotated[list[Gate], Field(min_length=1)]
    """What must hold, written as in a recipe."""


class MlflowSettings(Section):
    """Logging of finished runs to MLflow."""

    experiment: str = "secateur"
    """The experiment's name."""
    tracking_uri: str | None = None
    """MLflow's server or folder; the environment's MLFLOW_TRACKING_URI where absent."""
    model: str | None = None
    """What the compressed network is registered as where every gate passed; absent for not at all."""
    alias: str = "passed"
    """What the newest registered version is called."""


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
    quantize: QuantizeSettings | None = None
    """Eight-bit quantisation; absent for none, {} for its defaults."""
    build: BuildSettings = BuildSettings()
    measure: MeasureSettings = MeasureSettings()
    gates: list[Gate] = []
    """What must hold for the run to pass; the exit code says whether it does."""
    mlflow: MlflowSettings | None = None
    """Logs finished runs to MLflow; absent for not at all."""
    trackers: list[Callable_] = []
    """Functions that return further trackers of finished runs, for example secateur.report.json_lines:JsonLines."""
    pictures: Annotated[int, Field(ge=0)] = 6
    """Pictures of test samples in the report, where the task can draw them."""
    folder: Path = Path("runs")
    """Where run folders are kept, relative to the working folder."""
