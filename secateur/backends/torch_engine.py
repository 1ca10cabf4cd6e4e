"""An exported program at work: on the processor or on a CUDA device, called, compiled or replayed."""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from secateur.backends.device_time import DeviceTimes
from secateur.backends.engine_inputs import ExpectedInputs
from secateur.backends.onnx_file import OnnxInput
from secateur.backends.protocol import Engine, LayerTime, closed
from secateur.backends.torch import Mode
from secateur.errors import BackendError, first_line

Tensors = tuple[Tensor, ...]

WARM_UP_CALLS = 3
"""Calls before a graph is recorded: libraries choose their kernels and allocate in them."""
MOST_GRAPHS = 8
"""Shapes whose recorded graphs an engine keeps; each holds its activations."""


def load_program(content: bytes, where: str) -> torch.export.ExportedProgram:
    """Read an exported program, or raise `BackendError`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of buffers that could not be written to, which nobody does
            return torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise BackendError(
            where, f"a file that torch.export does not read ({first_line(error)})", "a whole exported program",
            "Export it again with the installed torch.",
        ) from error  # fmt: skip


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor to the host; numpy itself has no bfloat16, which ml_dtypes adds."""
    host = tensor.detach().to("cpu", copy=True).contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy().view(numpy_dtype(torch.bfloat16))
    return host.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    """See an array as a tensor."""
    whole = np.ascontiguousarray(array)
    if whole.dtype.name == "bfloat16":
        return torch.from_numpy(whole.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Name a tensor's type in numpy."""
    if dtype == torch.bfloat16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return torch.empty(0, dtype=dtype).numpy().dtype


def program_inputs(program: torch.export.ExportedProgram) -> tuple[OnnxInput, ...]:
    """Read what a program is called with; an open size has its symbol's name."""
    wanted = set(program.graph_signature.user_inputs)
    values = [(n.name, n.meta["val"]) for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]
    return tuple(
        OnnxInput(
            name=name, dtype=numpy_dtype(value.dtype),
            shape=tuple(size if isinstance(size, int) else str(size) for size in value.shape),
        )
        for name, value in values
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A CUDA graph with the tensors that it reads and writes."""

    graph: Any
    inputs: Tensors
    outputs: Tensors


class TorchEngine(Engine):
    """A loaded program. Calls from several threads wait for one another."""

    def __init__(
        self, program: torch.export.ExportedProgram, *, name: str, device: str, mode: Mode, tf32: bool, num_threads: int
    ) -> None:
        self.expected = ExpectedInputs(engine=name, inputs=program_inputs(program))
        self._name, self._device, self._mode, self._tf32 = name, device, mode, tf32
        self._num_threads = num_threads
        self._spec = program.call_spec.in_spec
        if device != "cpu":
            # Tensors that forward makes itself have the device of the export written into the program.
            program = move_to_device_pass(program, f"{device}:0")
        module: Any = program.module()
        self._call: Callable[..., Any] | None = torch.compile(module) if mode == "compile" else module
        self._recorded: dict[tuple[torch.Size, ...], _Recorded] = {}
        self._pinned: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Copy in, compute, copy out; outputs are on the host and the caller's own when it returns."""
        with self._ready(inputs):
            outputs = self._compute(tuple(tensor.to(self._device) for tensor in self._host(inputs)))
            return tuple(map(to_numpy, outputs))

    def run_tensors(self, inputs: Tensors) -> Tensors:
        """Compute on tensors that are on the engine's device already; nothing is copied to the host.

        Where graphs are replayed, outputs are the graph's own, overwritten by the next call of this shape.
        """
        with self._at_work():
            return self._compute(inputs)

    @property
    def on_device(self) -> bool:
        """Whether it runs on a CUDA device."""
        return self._device == "cuda"

    def timed(self, inputs: tuple[np.ndarray, ...]) -> DeviceTimes:
        """Run once between events on the device; the inputs are uploaded from pinned memory."""
        if not self.on_device:
            raise BackendError(
                self._name, "an engine on the processor", "one on a CUDA device", "Time it with `secateur.measure`."
            )
        with self._ready(inputs):
            staged = self._host(inputs)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
            events[0].record()
            on_device = tuple(tensor.to(self._device, non_blocking=True) for tensor in staged)
            events[1].record()
            outputs = self._compute(on_device)
            events[2].record()
            for output in outputs:
                output.to("cpu", non_blocking=True)
            events[3].record()
            events[3].synchronize()
            parts = [events[i].elapsed_time(events[i + 1]) / 1000 for i in range(3)]
        return DeviceTimes(upload_s=parts[0], compute_s=parts[1], download_s=parts[2])

    def profile(self, inputs: tuple[np.ndarray, ...], *, num_calls: int = 10) -> tuple[LayerTime, ...]:
        """Time every operator with torch's profiler, the mean over the calls; on the device where there is one."""
        with self._ready(inputs):
            tensors = tuple(tensor.to(self._device) for tensor in self._host(inputs))
            self._compute(tensors)
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if self._device == "cuda":
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            with torch.profiler.profile(activities=kinds) as recorded:
                for _ in range(num_calls):
                    self._compute(tensors)
        found = []
        for entry in recorded.key_averages():
            spent_us = entry.self_device_time_total if self._device == "cuda" else entry.self_cpu_time_total
            if spent_us > 0:
                found.append(
                    LayerTime(
                        name=entry.key,
                        operator=entry.key,
                        time_s=spent_us / 1e6 / num_calls,
                        place=self._device,
                        num_calls=entry.count // num_calls or 1,
                    )
                )
        return tuple(sorted(found, key=lambda layer: -layer.time_s))

    def close(self) -> None:
        """Let go of the weights, the graphs and the memory that is kept for them."""
        with self._lock:
            self._call = None
            self._recorded.clear()
            self._pinned.clear()

    def _host(self, inputs: tuple[np.ndarray, ...]) -> Tensors:
        """Give the inputs as tensors; those that go to the device are put into pinned memory first."""
        tensors = tuple(map(to_tensor, inputs))
        if self._device != "cuda":
            return tensors
        staged = []
        for position, tensor in enumerate(tensors):
            kept = self._pinned.get(position)
            if kept is None or kept.shape != tensor.shape:
                kept = self._pinned[position] = torch.empty_like(tensor, pin_memory=True)
            staged.append(kept.copy_(tensor))
        return tuple(staged)

    def _compute(self, inputs: Tensors) -> Tensors:
        return self._replay(inputs) if self._mode == "cuda_graph" else self._forward(inputs)

    def _forward(self, inputs: Tensors) -> Tensors:
        assert self._call is not None
        nested, keywords = torch.utils._pytree.tree_unflatten(inputs, self._spec)
        outputs = self._call(*nested, **keywords)
        return tuple(torch.utils._pytree.tree_leaves(outputs))

    def _replay(self, inputs: Tensors) -> Tensors:
        key = tuple(tensor.shape for tensor in inputs)
        recorded = self._recorded.get(key)
        if recorded is None:
            while len(self._recorded) >= MOST_GRAPHS:
                self._recorded.pop(next(iter(self._recorded)))
            recorded = self._recorded[key] = self._record(inputs)
        for kept, given in zip(recorded.inputs, inputs, strict=True):
            kept.copy_(given)
        recorded.graph.replay()
        return recorded.outputs

    def _record(self, inputs: Tensors) -> _Recorded:
        kept = tuple(tensor.clone() for tensor in inputs)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_CALLS):
                self._forward(kept)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._forward(kept)
        return _Recorded(graph=graph, inputs=kept, outputs=outputs)

    @contextlib.contextmanager
    def _ready(self, inputs: tuple[np.ndarray, ...]) -> Iterator[None]:
        self.expected.check(inputs)
        with self._at_work():
            yield

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Hold the engine, without gradients, on its own number of threads and with its own precision."""
        with self._lock, torch.inference_mode(), _settings(self._device, self._num_threads, self._tf32):
            if self._call is None:
                raise closed(self._name)
            yield


@contextlib.contextmanager
def _settings(device: str, num_threads: int, tf32: bool) -> Iterator[None]:
    """Hold the process to an engine's settings: its threads on the processor, its arithmetic on a CUDA device."""
    if device == "cpu":
        before = torch.get_num_threads()
        if before != num_threads:
            torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            if before != num_threads:
                torch.set_num_threads(before)
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    allowed = cudnn.allow_tf32, products.allow_tf32
    cudnn.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32 = allowed
