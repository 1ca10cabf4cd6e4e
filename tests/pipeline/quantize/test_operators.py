"""Every operator of files in torch computes what ONNX Runtime does."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from secateur.pipeline.quantize.operators import OPERATORS, attributes_of
from secateur.pipeline.quantize.running import Running
from secateur.pipeline.quantize.spatial_operators import NONE


def constant(*values: int | float) -> np.ndarray:
    return np.array(values, dtype=np.float32 if isinstance(values[0], float) else np.int64)


X, IMAGE = (3, 4), (2, 4, 6, 6)
NODES: list[tuple[str, tuple[int, ...], list[np.ndarray | None], dict[str, Any]]] = [
    *((name, X, [], {}) for name in (
        "Abs", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "LogSoftmax",
        "Mish", "Neg", "Reciprocal", "Relu", "Sigmoid", "Sin", "Softmax", "Softplus", "Tanh", "Transpose", "Flatten",
    )),
    *((name, X, [np.linspace(-1, 2, 4, dtype=np.float32)], {}) for name in (
        "Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu",
    )),
    *((name, IMAGE, [constant(1, -1)], {"keepdims": keep}) for keep in (0, 1) for name in (
        "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2",
    )),
    ("Gelu", X, [], {"approximate": "tanh"}),
    ("Clip", X, [np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", X, [None, np.float32(0.5)], {}),
    ("Pow", X, [np.float32(2.0)], {}),
    ("Reshape", X, [constant(0, 2, -1)], {}),
    ("Expand", X, [constant(2, 1, 4)], {}),
    ("Tile", X, [constant(2, 3)], {}),
    ("Unsqueeze", X, [constant(0, -1)], {}),
    ("Squeeze", (3, 1, 4), [constant(1)], {}),
    ("Gather", X, [constant(-1, 0)], {"axis": 1}),
    ("Slice", IMAGE, [constant(1, -1), constant(5, -5), constant(2, 3), constant(2, -1)], {}),
    ("Slice", IMAGE, [constant(-3), constant(2**62), constant(3)], {}),
    ("Split", IMAGE, [constant(1, 3)], {"axis": 1}),
    ("Pad", IMAGE, [constant(0, 0, 1, 2, 0, 0, 2, 0), np.float32(1.5)], {}),
    ("Pad", IMAGE, [constant(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", IMAGE, [constant(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}),
    ("DepthToSpace", IMAGE, [], {"blocksize": 2}),
    ("DepthToSpace", IMAGE, [], {"blocksize": 2, "mode": "CRD"}),
    ("GlobalAveragePool", IMAGE, [], {}),
    ("GlobalMaxPool", IMAGE, [], {}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("InstanceNormalization", IMAGE, [np.arange(1, 5, dtype=np.float32), np.ones(4, np.float32)], {}),
    ("LayerNormalization", X, [np.arange(1, 5, dtype=np.float32), np.ones(4, np.float32)], {"axis": -1}),
    ("BatchNormalization", IMAGE, [np.arange(k, k + 4, dtype=np.float32) for k in (1, 2, 3, 4)], {}),
    ("Conv", IMAGE, [np.ones((6, 2, 3, 3), np.float32), np.ones(6, np.float32)],
     {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("ConvTranspose", IMAGE, [np.ones((4, 3, 2, 2), np.float32)], {"strides": [2, 2]}),
    ("Gemm", X, [np.ones((5, 4), np.float32), np.ones(5, np.float32)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", X, [np.ones((4, 5), np.float32)], {}),
    ("Resize", IMAGE, [None, constant(1.0, 1.0, 2.0, 2.0)],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", IMAGE, [None, None, constant(2, 4, 9, 12)],
     {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
    ("Resize", IMAGE, [None, None, constant(2, 4, 9, 12)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Cast", X, [], {"to": TensorProto.INT64}),
    ("Shape", IMAGE, [], {"start": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "shape", "constants", "attributes"), NODES)
def test_operators_compute_what_onnxruntime_computes(
    operator: str, shape: tuple[int, ...], constants: list[np.ndarray | None], attributes: dict[str, Any]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    held = {f"c{i}": value for i, value in enumerate(constants) if value is not None}
    names = ["x", *("" if value is None else f"c{i}" for i, value in enumerate(constants))]
    results = [f"y{i}" for i in range(2 if operator == "Split" else 1)]
    node = helper.make_node(operator, names, results, **attributes)
    proto = helper.make_model(
        helper.make_graph(
            [node], "one", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_empty_tensor_value_info(name) for name in results],
            [numpy_helper.from_array(value, name) for name, value in held.items()],
        ),
        opset_imports=[helper.make_opsetid("", 22)], ir_version=10,
    )  # fmt: skip
    wanted = list(Running(proto, results)((x.numpy(),)).values())
    fed = [NONE if not name else x if name == "x" else torch.tensor(held[name]) for name in names]
    found = OPERATORS[operator](fed, attributes_of(node))
    for one, other in zip((found,) if isinstance(found, Tensor) else found, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-5)
