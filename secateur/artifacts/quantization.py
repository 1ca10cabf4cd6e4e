"""What quantisation finds."""

from pydantic import Field

from secateur.artifacts.record import Record
from secateur.artifacts.results import FinetuneResult

QUANTIZED = "quantized"
"""The key of the quantised network in mappings of evaluations, exports and engines, and the name of its file."""


class QuantizedActivation(Record):
    """The range that was chosen for an activation, and its map: real = scale * (integer - zero_point)."""

    low: float
    high: float
    scale: float
    zero_point: int


class QuantizedLayer(Record):
    """A layer that is computed in integers.

    ``weight_bits`` are those that its weights' integers need, which are kept and computed in eight. ``weight_error`` is
    the root mean square of the rounding of its weights over that of the weights.
    """

    name: str
    operator: str
    weight_bits: int
    weight_error: float


class Unfused(Record):
    """A node of a quantised graph that its runtimes will not compute in integers, and why."""

    node: str
    operator: str
    reason: str


class QuantizeResult(Record):
    """A quantised graph: with what it was calibrated, what is rounded how, and how far it is from the float32 graph.

    ``samples_sha256`` is the digest of the calibration inputs in their order. ``left`` says why a layer stays in
    float32, and ``unfused`` which nodes will not run in integers although something around them is quantised.
    ``signal_to_noise_db`` is 10 log10(sum y^2 / sum (y - y')^2) of every output, over the calibration samples;
    infinite where nothing differs. ``training`` is the history of quantisation-aware training, stage by stage.
    """

    target: str
    calibrator: str
    corrections: tuple[str, ...]
    weight_bits: int
    num_samples: int
    samples_sha256: str
    activations: dict[str, QuantizedActivation]
    layers: tuple[QuantizedLayer, ...]
    left: dict[str, str]
    unfused: tuple[Unfused, ...]
    signal_to_noise_db: dict[str, float] = Field(default_factory=dict)
    training: tuple[FinetuneResult, ...] = ()


class HalveResult(Record):
    """A file in half precision: how many nodes are, which stay in float32 and what each alone would have cost.

    Errors are root mean squares of the outputs' change over that of the outputs: with all nodes converted, and of what
    was written.
    """

    path: str
    dtype: str
    size_bytes: int
    num_converted: int
    kept: dict[str, float]
    error_of_all: float
    error: float


class LayerPrecision(Record):
    """The precision that was chosen for a layer, and of each one the outputs' signal over its noise, and its cost."""

    name: str
    precision: str
    noise_db: dict[str, float]
    cost: dict[str, float]
