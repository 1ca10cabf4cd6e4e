"""The part of a recipe that says how the compressed network is written in fewer bits."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from secateur.recipe_section import Section


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
    precisions: Annotated[
        list[Literal["float32", "float16", "int8", "int6", "int5", "int4", "int3", "int2"]], Field(min_length=1)
    ] = ["float32", "float16", "int8"]
    """What a layer may be in. Weights below eight bits cost what they take packed; they are computed in eight."""
    decreasing: bool = False
    """No layer has more bits than one before it: bits fall with depth."""

    @model_validator(mode="after")
    def _one_budget(self) -> "MixedSettings":
        if sum(value is not None for value in (self.bytes, self.latency, self.signal_to_noise_db)) != 1:
            raise ValueError("give one of bytes, latency and signal_to_noise_db")
        if (self.bytes is not None and self.cost == "latency") or (self.latency is not None and self.cost == "bytes"):
            raise ValueError("the cost is what the budget is in: leave cost out")
        return self


class QatSettings(Section):
    """Quantisation-aware training: the rounded network learns from the compressed one in float32, as finetune says."""

    epochs: Annotated[int, Field(ge=0)] = 2
    """Passes over the training set, of every stage; the best epoch is kept, be it none."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak of the cosine schedule."""
    scales: Literal["learned", "calibrated"] = "learned"
    """Whether scales are trained with the weights, or stay as they were calibrated."""
    stages: list[Annotated[int, Field(ge=3, le=8)]] = []
    """Bits that weights of fewer pass through on the way down, each for so many epochs, for example [6, 4]."""

    @model_validator(mode="after")
    def _falling(self) -> "QatSettings":
        if self.stages != sorted(set(self.stages), reverse=True):
            raise ValueError("stages fall, for example [6, 4]")
        return self


class QuantizeSettings(Section):
    """Quantisation of the compressed network: one more file that is evaluated, built and timed."""

    precision: Literal["int8", "float16", "bfloat16"] = "int8"
    """Eight bits for weights and activations, or half precision, of which skip, error, tolerance and samples count.
    OpenVINO, TensorRT and ONNX Runtime on GPUs read bfloat16; ONNX Runtime on the processor does not."""
    target: Literal["auto", "tensorrt", "tensorrt_float8", "cpu"] = "auto"
    """The runtimes whose fusions tensors are rounded for; auto is that of measure.backend. What is rounded for
    tensorrt runs everywhere, what is rounded for cpu in ONNX Runtime and OpenVINO only; tensorrt_float8 has floats of
    eight bits (E4M3) in place of integers, which ONNX Runtime opens at its optimisation basic."""
    calibrator: Literal["min-max", "moving-average", "percentile", "mse", "entropy"] = "mse"
    """How much of an activation's range is kept: all of it, the batches' average, all but the largest 0.01 %, what has
    the least mean square error, what has the least Kullback-Leibler divergence."""
    corrections: list[Literal["equalisation", "adaround", "bias"]] = ["bias"]
    """What is done for the weights, in this order: channels of adjacent layers take scales that suit both; weights are
    rounded up or down as suits their layer's output; biases take back what rounding shifts the mean by."""
    samples: Annotated[int, Field(ge=2)] = 256
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
    qat: QatSettings | None = None
    """Training of the rounded network; absent for none, {} for its defaults."""
    error: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Of half precision: largest change of the outputs, root mean square over theirs; what changes them more stays
    float32. auto is 0.001 of float16 and 0.008 of bfloat16, whose numbers lie eight times as far apart."""
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    """Largest difference of an engine's outputs to the quantised file's, relative to their largest value: integers on
    the border between two are rounded either way."""

    @model_validator(mode="after")
    def _one_precision(self) -> "QuantizeSettings":
        if self.target == "tensorrt_float8" and (self.mixed or self.qat or "adaround" in self.corrections):
            raise ValueError("mixed, qat and adaround are of integers: take them or target tensorrt_float8 out")
        if self.precision != "int8" and (self.mixed is not None or self.qat is not None):
            raise ValueError(f"mixed and qat are of eight bits: take them or precision {self.precision} out")
        return self
