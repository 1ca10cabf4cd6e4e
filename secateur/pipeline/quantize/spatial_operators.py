"""Operators over places, convolutions and pooling among them, in torch."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from secateur.errors import ExportError

Attributes = Mapping[str, Any]
NONE = torch.empty(0)
"""What stands for an input that is left out."""
TORCH_PADDING = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def given(inputs: Sequence[Tensor], index: int) -> Tensor | None:
    """Return an input, or None where it was left out."""
    return inputs[index] if index < len(inputs) and inputs[index] is not NONE else None


def numbers(inputs: Sequence[Tensor], index: int) -> list[int] | None:
    """Return an input as a list of integers, or None where it was left out."""
    found = given(inputs, index)
    return None if found is None else [int(value) for value in found.tolist()]


def refused(what: str) -> ExportError:
    """Return the error of something that cannot be trained here."""
    return ExportError(
        "training of a quantised file", what, "operators that torch computes alike",
        "Take qat out of the recipe, or write the network with other operators.",
    )  # fmt: skip


def _padded(
    inputs: Sequence[Tensor], a: Attributes, kernel: Sequence[int], fill: float = 0.0
) -> tuple[Tensor, dict[str, Any]]:
    """Return an input with its padding made where torch cannot make it, and the arguments of the call."""
    rank = len(kernel)
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refused(f"auto_pad {a['auto_pad']}")
    x, pads = inputs[0], list(a.get("pads", [0] * 2 * rank))
    if pads[:rank] != pads[rank:]:
        margins = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
        x, pads = functional.pad(x, margins, value=fill), [0] * 2 * rank
    return x, {
        "stride": tuple(a.get("strides", [1] * rank)), "padding": tuple(pads[:rank]),
        "dilation": tuple(a.get("dilations", [1] * rank)),
    }  # fmt: skip


def conv(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Convolve along one, two or three axes."""
    weight = inputs[1]
    x, arguments = _padded(inputs, a, weight.shape[2:])
    call = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    return call(x, weight, given(inputs, 2), groups=a.get("group", 1), **arguments)


def conv_transpose(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Convolve transposed along one, two or three axes."""
    weight, pads = inputs[1], a.get("pads", [0])
    rank = weight.dim() - 2
    if "output_shape" in a or list(pads)[: len(pads) // 2] != list(pads)[len(pads) // 2 :] != [0]:
        raise refused("a transposed convolution with an output shape or uneven padding")
    _, arguments = _padded(inputs, a, weight.shape[2:])
    call = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    return call(
        inputs[0], weight, given(inputs, 2), groups=a.get("group", 1),
        output_padding=tuple(a.get("output_padding", [0] * rank)), **arguments,
    )  # fmt: skip


def max_pool(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Pool by maximum."""
    kernel = a["kernel_shape"]
    x, arguments = _padded(inputs, a, kernel, fill=-torch.inf)
    call = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
    return cast(Tensor, call(x, tuple(kernel), ceil_mode=bool(a.get("ceil_mode")), **arguments))


def average_pool(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Pool by mean."""
    kernel = a["kernel_shape"]
    pads = list(a.get("pads", [0] * 2 * len(kernel)))
    counted = bool(a.get("count_include_pad"))
    if pads[: len(kernel)] != pads[len(kernel) :] and not counted:
        raise refused("an average over uneven padding that is not counted")
    x, arguments = _padded(inputs, a, kernel)
    if any(step != 1 for step in arguments.pop("dilation")):
        raise refused("an average with dilation")
    call = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    return call(x, tuple(kernel), ceil_mode=bool(a.get("ceil_mode")), count_include_pad=counted, **arguments)


def pad(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Pad with a constant, or with what is there."""
    x, pads, mode = inputs[0], numbers(inputs, 1) or [], a.get("mode", "constant")
    axes = [axis % x.dim() for axis in numbers(inputs, 3) or range(x.dim())]
    sides = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    margins = [side for axis in reversed(range(x.dim())) for side in sides.get(axis, (0, 0))]
    if mode == "constant":
        value = given(inputs, 2)
        return functional.pad(x, margins, value=0.0 if value is None else float(value))
    while margins and margins[-2:] == [0, 0]:
        margins = margins[:-2]
    return functional.pad(x, margins, mode=TORCH_PADDING[mode])


def resize(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Interpolate, in the modes that torch has too."""
    x, mode = inputs[0], a.get("mode", "nearest")
    scales, sizes = given(inputs, 2), numbers(inputs, 3)
    where, rank = a.get("coordinate_transformation_mode", "half_pixel"), x.dim() - 2
    factors = [] if scales is None else scales.tolist()[2:]
    size = sizes[2:] if sizes else [int(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True)]
    if mode == "nearest" and where == "asymmetric" and a.get("nearest_mode") == "floor":
        return functional.interpolate(x, size, mode="nearest")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners") and not a.get("antialias"):
        name = ("linear", "bilinear", "trilinear")[rank - 1]
        return functional.interpolate(x, size, mode=name, align_corners=where == "align_corners")
    raise refused(f"Resize by {mode} with {where}")


def depth_to_space(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Move channels to places."""
    if a.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(inputs[0], a["blocksize"])
    n, c, h, w = inputs[0].shape
    b = a["blocksize"]
    parts = inputs[0].reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // b**2, h * b, w * b)
