"""A deployed engine as a model in a repository of NVIDIA's Triton inference server."""

import re
from pathlib import Path

from secateur.deploy import Description, Tensor, read_description
from secateur.errors import BackendError
from secateur.storage import copy, read, write

BACKENDS = {
    "onnxruntime": ("onnxruntime", "model.onnx", "KIND_CPU"),
    "onnxruntime_cuda": ("onnxruntime", "model.onnx", "KIND_GPU"),
    "onnxruntime_tensorrt": ("onnxruntime", "model.onnx", "KIND_GPU"),
    "openvino": ("openvino", "model.onnx", "KIND_CPU"),
    "tensorrt": ("tensorrt", "model.plan", "KIND_GPU"),
}
"""Our backend: the server's, its file's name, and what instances run on."""
TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "float64": "TYPE_FP64",
    "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}  # fmt: skip
ACCELERATED = 'optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }\n'


def write_model(folder: Path, repository: Path, *, name: str | None = None, max_batch_size: int = 8) -> Path:
    """Write ``repository/name/config.pbtxt`` and version 1 of the model; return the model's folder.

    Args:
        folder: what `secateur deploy` wrote.
        repository: the server's model repository.
        name: the model's name there; the deployed network's where absent.
        max_batch_size: the largest batch that the server puts together from requests, where the batch size is open.

    Raises:
        StorageError: the folder is not whole, or the repository cannot be written.
        BackendError: the server has no backend for the engine, or cannot read it in this form.
    """
    description = read_description(folder)
    model = repository / (name or re.sub(r"[^\w.-]", "_", description.name))
    if description.engine.backend not in BACKENDS:
        raise BackendError(
            str(folder), f"an engine of {description.engine.backend}", f"one of {', '.join(BACKENDS)}",
            "Deploy an engine of one of these backends.",
        )  # fmt: skip
    file = BACKENDS[description.engine.backend][1]
    if file.endswith(".onnx") and not str(description.engine.path).endswith(".onnx"):
        raise BackendError(
            str(folder), f"the compiled {description.engine.path}", "an ONNX file, which the server compiles itself",
            "Build it without build.options.openvino.compiled.",
        )  # fmt: skip
    if description.settings.get("stripped"):
        raise BackendError(
            str(folder), "an engine without its weights, which the server does not give it", "a whole one",
            "Build it without build.options.tensorrt.stripped.",
        )  # fmt: skip
    content = read(folder / str(description.engine.path))
    for beside in description.engine.weights:
        copy(folder / beside, model / "1" / beside)
    write(model / "1" / file, content)
    if description.classes:
        write(model / "classes.txt", "\n".join(description.classes).encode())
    write(model / "config.pbtxt", config(description, model.name, max_batch_size).encode())
    return model


def config(description: Description, name: str, max_batch_size: int) -> str:
    """Return the model's configuration as text; its batch axis is left out of the shapes where it is open."""
    backend, file, kind = BACKENDS[description.engine.backend]
    tensors = (*description.inputs, *description.outputs)
    is_open = all(tensor.shape and isinstance(tensor.shape[0], str) for tensor in tensors)
    lines = [
        f'name: "{name}"', f'backend: "{backend}"', f'default_model_filename: "{file}"',
        f"max_batch_size: {max_batch_size if is_open else 0}",
        *(_tensor("input", tensor, is_open) for tensor in description.inputs),
        *(_tensor("output", tensor, is_open, labels=bool(description.classes) and position == 0)
          for position, tensor in enumerate(description.outputs)),
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
    ]  # fmt: skip
    if is_open:
        lines.append("dynamic_batching { }")
    text = "\n".join(lines) + "\n"
    return text + ACCELERATED if description.engine.backend == "onnxruntime_tensorrt" else text


def _tensor(side: str, tensor: Tensor, batched: bool, labels: bool = False) -> str:
    sizes = tensor.shape[1:] if batched else tensor.shape
    dims = ", ".join("-1" if isinstance(size, str) else str(size) for size in sizes)
    labelled = ' label_filename: "classes.txt"' if labels else ""
    return f'{side} [ {{ name: "{tensor.name}" data_type: {TYPES[tensor.dtype]} dims: [ {dims} ]{labelled} }} ]'
