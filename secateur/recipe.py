"""The recipe: what a run does, in full, as frozen objects; all but network, data, task and budget has a default."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from secateur.recipe_engines import BuildSettings, ExportSettings, MeasureSettings
from secateur.recipe_pruning import Labels, PruneSettings
from secateur.recipe_quantization import QuantizeSettings
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
    labels: Labels = "auto"
    """Labels of the gradients: drawn from the network's predictions, the data's own, or the outputs of
    finetune.distillation.teachers; auto draws where it can."""
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
    latency: bool = False
    """Tell the largest compression in milliseconds too: layers are timed as for prune.latency, which implies it."""

    @model_validator(mode="after")
    def _units(self) -> "EstimateSettings":
        if self.estimator == "tail" and self.matrix != "gate":
            raise ValueError("the tail is in nats: give matrix gate, or another estimator, for example energy")
        if self.estimator == "tail" and self.threshold is not None:
            raise ValueError("the tail's threshold is tau: leave threshold out")
        if self.estimator != "tail" and self.tau != type(self).model_fields["tau"].default:
            raise ValueError(f"tau is the tail's: give threshold for {self.estimator}, or estimator tail")
        if self.estimator == "energy" and self.threshold is not None and self.threshold >= 1:
            raise ValueError("threshold of energy is the share that is left out, below 1; as in 0.01")
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

    @model_validator(mode="after")
    def _something(self) -> "DistillationSettings":
        if not any((self.task, self.output, self.feature, self.parameter)):
            raise ValueError("one weight above 0 of task, output, feature and parameter")
        return self


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


class SparsitySettings(Section):
    """2:4 sparsity: two of every four weights along the input channels are zero, and stay so in the fine-tuning."""

    method: Literal["magnitude", "discovery"] = "magnitude"
    """What stays: the largest weights at once, or what training finds it cannot do without."""
    keep: list[str] = []
    """Modules that stay dense."""


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
    sparsity: SparsitySettings | None = None
    """2:4 sparsity of the cut network, for sparse tensor cores; absent for none, {} for its defaults."""
    finetune: FinetuneSettings = FinetuneSettings()
    export: ExportSettings = ExportSettings()
    quantize: QuantizeSettings | None = None
    """Eight bits or half precision; absent for none, {} for its defaults."""
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

    @model_validator(mode="after")
    def _taught(self) -> "Recipe":
        wanted = [name for name in ("estimate", "prune") if getattr(self, name).labels == "teacher"]
        if wanted and not self.finetune.distillation.teachers:
            raise ValueError(f"{wanted[0]}.labels: teacher needs finetune.distillation.teachers, other networks")
        return self

    @model_validator(mode="after")
    def _open_batch(self) -> "Recipe":
        if self.quantize is not None and self.quantize.qat is not None and not self.export.dynamic_batch:
            raise ValueError("quantize.qat trains on batches of any size: set export.dynamic_batch to true")
        return self
