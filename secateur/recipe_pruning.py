"""The part of a recipe that says how a network is pruned."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from secateur.recipe_section import Section


def _label_kind(value: Any) -> Any:
    return "true" if value is True else value  # what YAML makes of the word


Labels = Annotated[Literal["auto", "sampled", "true", "teacher"], BeforeValidator(_label_kind)]


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
    labels: Labels = "auto"
    """Labels of the gradients that a signal looks at, as for the estimate."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Softening of the predictions that labels are drawn from, and of a teacher's."""
    compensation: Literal["none", "gates", "least-squares"] = "least-squares"
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
    dead: bool = False
    """Remove channels that do nothing before the first round; biases carry on what constant ones were."""
    branches: bool = False
    """Let residual branches go whole where that loses less; what stays of one is a constant for each channel."""
    recovery_steps: Annotated[int, Field(ge=0)] = 50
    """Distillation steps after each round, on the samples that come next."""
    carry_optimizer: bool = False
    """Let the optimiser of these steps go on from round to round, with its means of what a cut leaves."""

    @model_validator(mode="after")
    def _one_budget(self) -> "PruneSettings":
        if len(self._shares) != 1 and (self._shares or self.allowed_loss is None):
            raise ValueError("exactly one budget: macs, parameters, bytes or latency; or allowed_loss alone")
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
