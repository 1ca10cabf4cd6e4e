"""Runtimes: build engines, run them, time them."""

from secateur.backends.installed import installed_backends
from secateur.backends.onnxruntime import OnnxRuntime
from secateur.backends.openvino import OpenVino
from secateur.backends.protocol import Backend
from secateur.backends.tensorrt import TensorRt
from secateur.backends.torch import Torch

BACKENDS: dict[str, Backend] = {
    "torch": Torch(),
    "torch_compile": Torch(name="torch_compile", mode="compile"),
    "torch_cuda": Torch(name="torch_cuda", device="cuda"),
    "torch_cuda_compile": Torch(name="torch_cuda_compile", device="cuda", mode="compile"),
    "torch_cuda_graph": Torch(name="torch_cuda_graph", device="cuda", mode="cuda_graph"),
    "onnxruntime": OnnxRuntime(),
    "onnxruntime_cuda": OnnxRuntime(name="onnxruntime_cuda", provider="CUDAExecutionProvider"),
    "onnxruntime_tensorrt": OnnxRuntime(name="onnxruntime_tensorrt", provider="TensorrtExecutionProvider"),
    "openvino": OpenVino(),
    "tensorrt": TensorRt(package="tensorrt"),
    "tensorrt_rtx": TensorRt(package="tensorrt_rtx", compute_capabilities=("8.6", "8.9", "12.0")),
}
"""Every runtime by its name. A new one is one file and one line here, or an entry point of another package."""

BACKENDS |= installed_backends(BACKENDS)

__all__ = ["BACKENDS", "Backend"]
