"""The table of ATen operators: one line an entry. What is not in it pins the channels that touch it."""

import torch

from secateur.pipeline.structure import divisions, elementwise, layers, movement, products, reductions, space
from secateur.pipeline.structure.call import Call, Rule
from secateur.pipeline.structure.labels import Value

RULES: dict[str, Rule] = {
    # layers with parameters
    "conv1d": layers.convolution,
    "conv2d": layers.convolution,
    "conv3d": layers.convolution,
    "convolution": layers.convolution,
    "conv_transpose1d": layers.convolution,
    "conv_transpose2d": layers.convolution,
    "conv_transpose3d": layers.convolution,
    "linear": layers.linear,
    "batch_norm": layers.norm_by_channel,
    "instance_norm": layers.norm_by_channel,
    "layer_norm": layers.norm_over_channels,
    "embedding": layers.embedding,
    "group_norm": layers.group_norm,
    "rms_norm": layers.norm_over_channels,
    "prelu": elementwise.prelu,
    # entry by entry, though PyTorch does not tag them so
    "absolute": elementwise.elementwise,
    "copy": elementwise.elementwise,
    "divide": elementwise.elementwise,
    "float_power": elementwise.elementwise,
    "floor_divide": elementwise.elementwise,
    "hardswish": elementwise.elementwise,
    "log_sigmoid": elementwise.elementwise,
    "multiply": elementwise.elementwise,
    "negative": elementwise.elementwise,
    "subtract": elementwise.elementwise,
    "true_divide": elementwise.elementwise,
    # movement
    "alias": movement.identity,
    "alpha_dropout": movement.identity,
    "clone": movement.identity,
    "contiguous": movement.identity,
    "detach": movement.identity,
    "dropout": movement.identity,
    "fill": movement.identity,
    "empty_like": movement.identity,
    "feature_dropout": movement.identity,
    "full_like": movement.identity,
    "lift_fresh_copy": movement.identity,
    "native_dropout": movement.identity,
    "ones_like": movement.identity,
    "to": movement.identity,
    "type_as": movement.identity,
    "zero": movement.identity,
    "zeros_like": movement.identity,
    "_to_copy": movement.identity,
    "moveaxis": movement.permute,
    "movedim": movement.permute,
    "mT": movement.permute,
    "numpy_T": movement.permute,
    "permute": movement.permute,
    "swapaxes": movement.permute,
    "swapdims": movement.permute,
    "t": movement.permute,
    "transpose": movement.permute,
    "flatten": movement.view,
    "ravel": movement.view,
    "reshape": movement.view,
    "squeeze": movement.view,
    "unflatten": movement.view,
    "unsqueeze": movement.view,
    "view": movement.view,
    "view_as": movement.view,
    "reshape_as": movement.view,
    "_unsafe_view": movement.view,
    "expand": movement.expand,
    "expand_as": movement.expand,
    "repeat": movement.repeat,
    "repeat_interleave": movement.repeat_interleave,
    "tile": movement.repeat,
    "cat": movement.concatenate,
    "concat": movement.concatenate,
    "concatenate": movement.concatenate,
    "stack": movement.concatenate,
    "pad": movement.pad,
    "constant_pad_nd": movement.pad,
    "reflection_pad1d": movement.pad,
    "reflection_pad2d": movement.pad,
    "reflection_pad3d": movement.pad,
    "replication_pad1d": movement.pad,
    "replication_pad2d": movement.pad,
    "replication_pad3d": movement.pad,
    "chunk": divisions.chunk,
    "glu": divisions.gated,
    "split": divisions.chunk,
    "split_with_sizes": divisions.chunk,
    "tensor_split": divisions.chunk,
    "slice": divisions.take_slice,
    "index": divisions.index,
    "index_select": divisions.index_select,
    "select": divisions.select,
    "unbind": divisions.unbind,
    "flip": movement.flip,
    "channel_shuffle": space.channel_shuffle,
    "col2im": space.add_patches,
    "grid_sampler": space.sample,
    "im2col": space.gather_patches,
    "native_channel_shuffle": space.channel_shuffle,
    "pixel_shuffle": space.pixel_shuffle,
    "pixel_unshuffle": space.pixel_unshuffle,
    "unfold": space.windows,
    # entries mixed along axes
    "all": reductions.reduction,
    "amax": reductions.reduction,
    "amin": reductions.reduction,
    "any": reductions.reduction,
    "argmax": reductions.reduction,
    "argmin": reductions.reduction,
    "linalg_vector_norm": products.norm,
    "logsumexp": reductions.reduction,
    "max": reductions.reduction,
    "mean": reductions.reduction,
    "min": reductions.reduction,
    "norm": products.norm,
    "prod": reductions.reduction,
    "std": reductions.reduction,
    "sum": products.total,
    "var": reductions.reduction,
    "cumprod": reductions.along_axis,
    "cumsum": reductions.along_axis,
    "log_softmax": reductions.along_axis,
    "roll": reductions.along_axis,
    "softmax": reductions.along_axis,
    "sort": reductions.along_axis,
    "topk": reductions.along_axis,
    "adaptive_avg_pool1d": reductions.over_space,
    "adaptive_avg_pool2d": reductions.over_space,
    "adaptive_avg_pool3d": reductions.over_space,
    "adaptive_max_pool1d": reductions.over_space,
    "adaptive_max_pool2d": reductions.over_space,
    "adaptive_max_pool3d": reductions.over_space,
    "avg_pool1d": reductions.over_space,
    "avg_pool2d": reductions.over_space,
    "avg_pool3d": reductions.over_space,
    "max_pool1d": reductions.over_space,
    "max_pool2d": reductions.over_space,
    "max_pool2d_with_indices": reductions.over_space,
    "max_pool3d": reductions.over_space,
    "upsample_bicubic2d": reductions.over_space,
    "upsample_bilinear2d": reductions.over_space,
    "upsample_linear1d": reductions.over_space,
    "upsample_nearest1d": reductions.over_space,
    "upsample_nearest2d": reductions.over_space,
    "upsample_nearest3d": reductions.over_space,
    "upsample_trilinear3d": reductions.over_space,
    "_upsample_bicubic2d_aa": reductions.over_space,
    "_upsample_bilinear2d_aa": reductions.over_space,
    "_upsample_nearest_exact1d": reductions.over_space,
    "_upsample_nearest_exact2d": reductions.over_space,
    "_upsample_nearest_exact3d": reductions.over_space,
    # products of activations
    "addmm": products.matmul,
    "baddbmm": products.matmul,
    "bmm": products.matmul,
    "dot": products.matmul,
    "einsum": products.einsum,
    "matmul": products.matmul,
    "mm": products.matmul,
    "mv": products.matmul,
    "scaled_dot_product_attention": products.attention,
    # constants
    "arange": reductions.creation,
    "full": reductions.creation,
    "new_full": reductions.creation,
    "new_ones": reductions.creation,
    "new_zeros": reductions.creation,
    "ones": reductions.creation,
    "zeros": reductions.creation,
}


def apply(call: Call) -> tuple[Value, ...]:
    """Let one operator act on the labels; unknown ones, and unforeseen uses of known ones, pin what touches them."""
    try:
        result = _followed(call)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        result = call.pinned(f"a use of the operator that is not followed ({type(error).__name__}: {error})")
    return result if isinstance(result, tuple) else (result,)


def _followed(call: Call) -> Value | tuple[Value, ...]:
    functional = call.name.rstrip("_")
    if functional in ("max", "min") and call.value("other") is not None:
        return elementwise.elementwise(call)
    if functional in RULES:
        return RULES[functional](call)
    if pointwise(functional):
        return elementwise.elementwise(call)
    return call.pinned("an operator that is not followed")


def pointwise(name: str) -> bool:
    """Tell whether PyTorch itself calls an operator entry-by-entry."""
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
