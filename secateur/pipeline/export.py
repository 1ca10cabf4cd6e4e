"""Export: write a network as an ONNX file and prove that ONNX Runtime computes the same from it."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx
import torch
from torch import Tensor, nn

from secateur.artifacts import (
    LARGEST_ONNX_BYTES,
    Exported,
    ExportResult,
    FileFacts,
    Model,
    OpenSize,
    as_tuple,
)
from secateur.errors import BackendError, EqualityError, ExportError
from secateur.pipeline.export_attention import FourAxes
from secateur.pipeline.export_first import first_difference
from secateur.pipeline.export_notes import forget_notes
from secateur.pipeline.export_proof import ExportProof
from secateur.pipeline.export_shapes import Inputs, OpenShape
from secateur.pipeline.export_slim import slimmed
from secateur.pipeline.export_weights import forget_others, set_apart, weight_bytes
from secateur.pipeline.structure.capture import flat_outputs
from secateur.storage import sha256, write, written

LEAST_OPSET = 18
"""The exporter's operators are written in this opset; lower ones would have to be converted down."""
BATCH = "batch"


def export(
    model: Model,
    folder: Path,
    *,
    name: str,
    opset: int = 20,
    dynamic_batch: bool = True,
    open_sizes: Mapping[str, OpenSize] = MappingProxyType({}),
    batch_name: str = BATCH,
    tolerance: float = 1e-4,
    batches: Sequence[Tensor | tuple[Tensor, ...]] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
    slim: bool = False,
    largest_bytes: int = LARGEST_ONNX_BYTES,
    program: bool = False,
    seed: int = 0,
) -> Exported:
    """Write a network as ``folder/name.onnx``, in evaluation mode, and prove it equal to the network.

    A copy of the network is exported on the CPU; the one given is left as it is. The file appears under its name only
    after it was checked (onnx.checker with full shape inference) and proved: ONNX Runtime's CPU outputs are compared
    with the network's on the example inputs, on every batch given and on random inputs, at more than one batch size
    where the batch is dynamic, and at the least and the largest of other open sizes. Differences are relative to the
    output's largest value, see `secateur.equality`.

    Args:
        model: the network and the inputs it is called on.
        folder: where the file goes; made where absent.
        name: the file's name without its ending.
        opset: the ONNX operator set, 18 or more.
        dynamic_batch: leave the batch size open; otherwise it is the example inputs'.
        open_sizes: other sizes that stay open, such as height and width, by the names they get in the file.
        batch_name: what the open batch size is called in the file.
        tolerance: the largest relative difference between the network and the file.
        batches: real inputs to compare on, each what the network is called with.
        input_names: names of the graph's inputs; the forward's argument names where absent.
        output_names: names of the graph's outputs; ``output``, or ``output_0`` and so on, where absent.
        metadata: further entries of the file's metadata.
        slim: have onnxslim clean the graph up once more; it finds something in attention, nothing in convolutions.
        largest_bytes: weights of more bytes go into a file beside the graph, whose name is in the result.
        program: also write ``folder/name.pt2``, the network as torch.export captures it, for the torch backends.
        seed: of the random inputs.

    Raises:
        ExportError: the network cannot be written as asked.
        EqualityError: the file computes something else than the network.
        StorageError: the file cannot be written.
        BackendError: ONNX Runtime is absent.
    """
    _check_request(model, name, opset)
    network = model.clone().module.cpu().eval().requires_grad_(False)
    example = _cpu(model.example_inputs)
    if dynamic_batch and len(example[0]) == 1:
        # Some releases of the exporter take a batch of one for a constant.
        example = tuple(torch.cat([tensor, tensor]) for tensor in example)
    shape = OpenShape(name=name, example=example, batch=batch_name if dynamic_batch else None, sizes=open_sizes)
    shape.check()
    with torch.no_grad():
        num_outputs = len(flat_outputs(network(*example)))
    if output_names is None:
        output_names = ("output",) if num_outputs == 1 else tuple(f"output_{i}" for i in range(num_outputs))
    converted = _convert(network, shape, opset, input_names, output_names)
    proto = converted.model_proto
    _check_graph(proto, name, opset, len(example), num_outputs)
    shape.settle(proto.graph, converted.exported_program)
    if slim:
        proto = slimmed(proto, name)
    proof = ExportProof(
        name=name, shape=shape, batches=[_cpu(as_tuple(batch)) for batch in batches], tolerance=tolerance, seed=seed
    )
    path = folder / f"{name}.onnx"
    captured = _captured(network, shape) if program else None
    apart: contextlib.AbstractContextManager[dict[str, str]] = contextlib.nullcontext({})
    if weight_bytes(proto) > largest_bytes:
        apart = set_apart(proto, folder, name)
    with apart as weights:
        proto = _described(proto, name, {**FileFacts(sizes=dict(open_sizes)).entries(), **metadata})
        content = proto.SerializeToString(deterministic=True)
        with written(path, content) as unproved:
            _check_file(unproved, name)
            try:
                parity = proof.check(network, unproved, tuple(output_names))
            except EqualityError as error:
                raise _located(error, converted, proto, example, tolerance) from error
    if captured is not None:
        write(path.with_suffix(".pt2"), captured)
    forget_others(folder, name, weights)
    result = ExportResult(
        path=path.name,
        sha256=sha256(content),
        size_bytes=len(content) + sum((folder / beside).stat().st_size for beside in weights),
        opset=opset,
        input_names=tuple(value.name for value in proto.graph.input),
        output_names=tuple(value.name for value in proto.graph.output),
        input_shapes=tuple(tuple(tensor.shape) for tensor in model.example_inputs),
        dynamic_batch=dynamic_batch,
        open_sizes=dict(open_sizes),
        weights=weights,
        program_sha256=None if captured is None else sha256(captured),
        parity=parity,
    )
    return Exported(path=path, result=result)


def _cpu(inputs: Inputs) -> Inputs:
    return tuple(tensor.detach().cpu() for tensor in inputs)


def _check_request(model: Model, name: str, opset: int) -> None:
    where = f"export of {name}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise ExportError("export", f"the name {name!r}", "letters, digits, '.', '_' and '-'", "Choose another name.")
    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= opset <= newest:
        raise ExportError(
            where, f"opset {opset}", f"{LEAST_OPSET} to {newest}",
            "Choose an opset that both the exporter and the installed onnx know.",
        )  # fmt: skip
    shapes = [tuple(tensor.shape) for tensor in model.example_inputs]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ExportError(
            where, f"example inputs of shapes {shapes}", "one batch size on the first axis of every input",
            "Give example inputs with their batch axis first.",
        )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and graph listings from the terminal; its errors are raised anyway."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(previous)


def _convert(
    network: nn.Module, shape: OpenShape, opset: int, input_names: Sequence[str] | None, output_names: Sequence[str]
) -> torch.onnx.ONNXProgram:
    try:
        with _quiet(), torch.no_grad(), FourAxes():
            program = torch.onnx.export(
                network,
                shape.example,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shape.torch_dims(network),
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"export of {shape.name}", _root_message(error), "a network that torch.onnx.export can write",
            "Rewrite branches on the values of tensors and operators without an ONNX equivalent; where only the open "
            "batch size is in the way, export with dynamic_batch=False, and likewise with other open sizes.",
        ) from error  # fmt: skip
    assert program is not None  # only the TorchScript exporter returns nothing
    return program


def _located(
    error: EqualityError, converted: torch.onnx.ONNXProgram, proto: onnx.ModelProto, example: Inputs, tolerance: float
) -> EqualityError:
    """Add which node differs first, where it does on the example inputs and can be found."""
    if converted.exported_program is None:
        return error
    try:
        first = first_difference(converted.exported_program, proto, example, tolerance)
        told = "no inner tensor differs on the example inputs" if first is None else f"the first to differ is {first}"
    except BackendError as failed:
        told = f"which differs first is not known ({failed.found})"
    return EqualityError(error.where, f"{error.found}; {told}", error.wanted, error.remedy)


def _captured(network: nn.Module, shape: OpenShape) -> bytes:
    """Capture the network's own operators, none taken apart, and serialise them with the weights."""
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            captured = torch.export.export(network, shape.example, dynamic_shapes=shape.torch_dims(network))
            torch.export.save(captured, buffer)
    except Exception as error:
        raise ExportError(
            f"export of {shape.name}", _root_message(error), "a network that torch.export captures with these sizes",
            "Rewrite branches on the values of tensors, or export without program.",
        ) from error  # fmt: skip
    return buffer.getvalue()


def _root_message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line.strip()[:300]}"


def _check_graph(proto: onnx.ModelProto, name: str, opset: int, num_inputs: int, num_outputs: int) -> None:
    where = f"export of {name}"
    written = {entry.domain: entry.version for entry in proto.opset_import}.get("")
    if written != opset:
        raise ExportError(where, f"a graph in opset {written}", f"opset {opset}", f"Ask for opset {written}.")
    counts = len(proto.graph.input), len(proto.graph.output)
    if counts != (num_inputs, num_outputs):
        raise ExportError(
            where, f"a graph of {counts[0]} inputs and {counts[1]} outputs", f"{num_inputs} and {num_outputs}",
            "Let forward take tensors and return tensors, or tuples, lists and dictionaries of them.",
        )  # fmt: skip


def _check_file(path: Path, name: str) -> None:
    """Have onnx look at everything; it reads the file by itself, so that there may be weights beside it."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _invalid(name, error) from error


def _invalid(name: str, error: Exception) -> ExportError:
    return ExportError(
        f"export of {name}", f"a graph that onnx.checker refuses: {_root_message(error)}", "a valid graph",
        "Try another opset, or other releases of torch, onnx and onnxscript.",
    )  # fmt: skip


def _described(proto: onnx.ModelProto, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Add inferred shapes and metadata, and forget what the exporter noted beside."""
    try:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise _invalid(name, error) from error
    forget_notes(proto)
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**entries, **metadata})
    return proto
