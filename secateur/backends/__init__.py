"""Runtimes: build engines, run them, time them."""

from secateur.backends.onnxruntime import OnnxRuntime
from secateur.backends.openvino import OpenVino
from secateur.backends.protocol import Backend
from secateur.backends.tensorrt import TensorRt

BACKENDS: dict[str, Backend] = {
    "onnxruntime": OnnxRuntime(),
    "onnxruntime_cuda": OnnxRuntime(name="onnxruntime_cuda", provider="CUDAExecutionProvider"),
    "onnxruntime_tensorrt": OnnxRuntime(name="onnxruntime_tensorrt", provider="TensorrtExecutionProvider"),
    "openvino": OpenVino(),
    "tensorrt": TensorRt(package="tensorrt"),
    "tensorrt_rtx": TensorRt(package="tensorrt_rtx", compute_capabilities=("8.6", "8.9", "12.0")),
}
"""Every runtime by its name. A new one is one file and one line here."""

__all__ = ["BACKENDS", "Backend"]
