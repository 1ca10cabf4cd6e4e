"""Refuse what cannot be traced before anything is done with it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.calibration.finite import num_not_finite
from secateur.errors import TraceError


def require_traceable(module: Any, example_inputs: Any, keep: Any, multiple: Any) -> None:
    """Raise TraceError where an argument of `trace` is not what it should be, or holds no numbers to prove a cut with.

    A network without values (on the meta device, or lazy) can be captured, but no trial of it says anything; the same
    holds for NaN.
    """
    if not isinstance(module, nn.Module):
        raise TraceError("trace, module", f"{type(module).__name__}", "a torch.nn.Module", "Give the network itself.")
    if not isinstance(multiple, int) or multiple < 1:
        raise TraceError("trace", f"multiple={multiple!r}", "a step of at least 1 channel", "Use 1 for any width.")
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        raise TraceError("trace, keep", repr(keep), "a sequence of names", f"Use [{keep!r}].")
    _require_inputs(example_inputs)
    for name, parameter in module.named_parameters():
        _require_values(f"trace, {name}", parameter)


def _require_inputs(example_inputs: Any) -> None:
    if not isinstance(example_inputs, (tuple, list)) or not all(isinstance(x, Tensor) for x in example_inputs):
        found = type(example_inputs).__name__
        if isinstance(example_inputs, (tuple, list)):
            found += f" of {', '.join(dict.fromkeys(type(x).__name__ for x in example_inputs)) or 'nothing'}"
        raise TraceError(
            "trace, example_inputs", found, "a tuple with one tensor for each argument of forward",
            "Use (x,) for a network of one input; wrap the network in a module whose forward takes tensors only.",
        )  # fmt: skip
    for n, x in enumerate(example_inputs):
        where = f"trace, example_inputs[{n}]"
        _require_values(where, x)
        if x.numel() == 0:
            raise TraceError(where, f"shape {tuple(x.shape)}", "at least one sample", "Give a batch of one or more.")


def _require_values(where: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise TraceError(where, "a lazy parameter", "weights", "Run the network once on a batch before tracing it.")
    if tensor.is_meta:
        raise TraceError(
            where, "a tensor on the meta device, which has no values", "values that a trial cut can be checked with",
            "Move the network to a device with to_empty and load its weights; give example inputs of a real device.",
        )  # fmt: skip
    if bad := num_not_finite(tensor):
        raise TraceError(
            where, f"{bad} entries that are NaN or infinite", "finite numbers",
            "Load a checkpoint from before the training diverged; give inputs as the network is used with.",
        )  # fmt: skip
