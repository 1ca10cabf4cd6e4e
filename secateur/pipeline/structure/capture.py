"""Capture a network as a flat graph of ATen operators without touching it."""

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.config
from torch import Tensor, nn
from torch.fx import Graph
from torch.utils import _pytree as pytree

from secateur.calibration.randomness import randomness_kept
from secateur.errors import TraceError
from secateur.pipeline.structure.copying import canonical_names, copy_of, tensors
from secateur.pipeline.structure.recording import record


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """A graph of ATen operators with what the parameters and buffers in it are called in the network.

    ``names`` maps a placeholder to its parameter or buffer, where tied ones share the name that comes first;
    ``used`` are those that the graph reads. ``outputs`` are the names of the nodes that the caller sees or that outlive
    the call; ``output_shapes`` those of the tensors that the caller sees.
    """

    graph: Graph
    names: Mapping[str, str]
    used: frozenset[str]
    user_inputs: frozenset[str]
    outputs: frozenset[str]
    output_shapes: tuple[tuple[int, ...], ...]


def capture(module: nn.Module, example_inputs: tuple[Tensor, ...], *, training: bool = False) -> Captured:
    """Capture what the network calls in evaluation (or training) mode; it is left as it was.

    A copy without values is run and its operators are recorded, see `record`; where that does not work torch.export
    captures a copy, which takes several times as long and knows more ways. Raises TraceError where the network computes
    in a way that a graph cannot hold.
    """
    try:
        with randomness_kept(device_of(module)), _silence():
            return _recorded(module, example_inputs, training=training)
    except Exception:  # whatever the network's own code raises without values: what torch.export says of it counts
        return exported(module, example_inputs, training=training)


def _recorded(module: nn.Module, example_inputs: tuple[Tensor, ...], *, training: bool) -> Captured:
    recording = record(module, example_inputs, training=training)
    aliases = canonical_names(module)
    names = {node.name: aliases[name] for name, node in recording.tensors.items()}
    return Captured(
        graph=recording.graph, names=names, used=frozenset(names.values()),
        user_inputs=frozenset(node.name for node in recording.inputs),
        outputs=frozenset(node.name for node in (*recording.outputs, *recording.written)),
        output_shapes=tuple(_shape(node.meta["val"]) for node in recording.outputs),
    )  # fmt: skip


def exported(module: nn.Module, example_inputs: tuple[Tensor, ...], *, training: bool = False) -> Captured:
    """Capture a copy of the network by torch.export; raises TraceError where it refuses."""
    where = f"network {type(module).__name__}"
    own = {name: parameter.detach() for name, parameter in module.named_parameters()}
    duplicate = copy_of(module, own).train(training)
    aliases = canonical_names(duplicate)
    # In evaluation mode without gradients PyTorch's transformer layers hide behind one fused operator.
    for parameter in duplicate.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    try:
        with randomness_kept(device_of(duplicate)), _silence(), torch.enable_grad():
            program = torch.export.export(duplicate, example_inputs, strict=False)
    except Exception as error:  # torch.export raises whatever the network's own code or the compiler raises
        message = str(error).strip() or "no message"
        raise TraceError(
            f"{where}, forward on example inputs {[tuple(x.shape) for x in example_inputs]}",
            f"{type(error).__name__}: {message.splitlines()[0][:300]}",
            "a forward pass that torch.export can capture",
            "Check that the example inputs fit; replace Python branches and loops that depend on tensor values by "
            "torch.where or masks, and move work on numpy or files out of forward.",
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = {node.name: node for node in program.graph.nodes}
    seen = [nodes[n].meta.get("val") for n in signature.user_outputs if isinstance(n, str)]
    kept = {*signature.user_outputs, *signature.buffers_to_mutate, *signature.user_inputs_to_mutate}
    return Captured(
        graph=program.graph,
        names={placeholder: aliases[name] for placeholder, name in names.items()},
        used=frozenset(aliases[names[n.name]] for n in program.graph.nodes if n.name in names and n.users),
        user_inputs=frozenset(n for n in signature.user_inputs if isinstance(n, str)),
        outputs=frozenset(n for n in kept if isinstance(n, str)),
        output_shapes=tuple(_shape(value) for value in seen if isinstance(value, Tensor)),
    )


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(int(size) for size in value.shape)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the compiler from printing warnings, and graphs and tracebacks of failures that are raised all the same.

    Nor does it take down the Python stack of every operator, which costs a third of the time, or look for garbage among
    the many small objects that it makes.
    """
    logger, settings = logging.getLogger("torch._subclasses.fake_tensor"), torch.fx.config
    before = logger.disabled, getattr(settings, "do_not_emit_stack_traces", False)
    logger.disabled = settings.do_not_emit_stack_traces = True
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled, settings.do_not_emit_stack_traces = before
        if collects:
            gc.enable()


def flat_outputs(outputs: Any) -> list[Tensor]:
    """List the tensors among a network's outputs, however they are nested."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer, cpu where there is none."""
    return next((tensor.device for tensor in tensors(module).values()), torch.device("cpu"))
