"""Measure a machine's roofline through a runtime, once, and keep it."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from onnx import TensorProto, helper
from pydantic import ValidationError

from secateur.artifacts import LayerShape, Record, Roofline
from secateur.backends.layer_file import CALL, IR_VERSION, OPSET, write_layer
from secateur.backends.machine import conditions, kept_name
from secateur.backends.measure import BRIEF, Stopwatch
from secateur.backends.protocol import Backend, Progress, unheard
from secateur.backends.single_file import samples_s
from secateur.errors import StorageError
from secateur.storage import read, write

_SQUARE = LayerShape(
    operator="convolution", size=(28, 28), kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1)
)  # fmt: skip
PROBES: tuple[tuple[LayerShape, int, int, int], ...] = (
    (LayerShape(operator="linear", size=(512,)), 1024, 1024, 512 * 1024 * 1024),
    (_SQUARE.model_copy(update={"kernel": (3, 3), "padding": (1, 1)}), 256, 256, 28 * 28 * 9 * 256 * 256),
    (_SQUARE, 512, 512, 28 * 28 * 512 * 512),
)  # fmt: skip
"""Layers that keep a processor busy: shape, rows, columns and multiply-adds."""
COPIED = (1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28)
"""Bytes of the tensors that are copied: what fits into the caches, and what does not."""
ON_GPU = frozenset({"onnxruntime_cuda", "onnxruntime_tensorrt", "tensorrt", "tensorrt_rtx"})
NUM_NODES = 64


class RooflineFile(Record):
    """What a kept roofline was measured on, and what was found."""

    conditions: dict[str, str]
    roofline: Roofline


def cache_folder() -> Path:
    """Return where rooflines are kept: within XDG_CACHE_HOME, else within ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measure what a runtime reaches here, or read it from ``folder`` where the same runtime was measured before.

    It is the quickest call of each probe that counts, since a roof is what can be reached.
    """

    backend: Backend
    num_threads: int = 1
    folder: Path = field(default_factory=cache_folder)
    stopwatch: Stopwatch = BRIEF

    def roofline(self, progress: Progress = unheard) -> Roofline:
        """Return the roofline.

        Raises:
            BackendError: the runtime refuses a probe.
            StorageError: the kept file is damaged or cannot be written.
        """
        if self.path.exists():
            return self._kept()
        total = len(PROBES) + 2 + len(COPIED)
        steps: list[Callable[[], float]] = [lambda: self._layer_s(CALL, 1, 1)]
        steps += [lambda p=p: self._layer_s(*p[:3]) for p in PROBES]  # type: ignore[misc]
        steps += [self._chain_s, *(functools.partial(self._copied, size) for size in COPIED)]
        times = []
        for done, step in enumerate(steps):
            progress("roofline", done, total)
            times.append(step())
        progress("roofline", total, total)
        call_s, layers_s, nodes_s, copied = (
            times[0],
            times[1 : -1 - len(COPIED)],
            times[-1 - len(COPIED)],
            times[-len(COPIED) :],
        )
        rates = [macs / max(1e-9, s - call_s) for (*_, macs), s in zip(PROBES, layers_s, strict=True)]
        found = Roofline(
            macs_per_s=max(rates),
            bytes_per_s=dict(zip((2 * size for size in COPIED), copied, strict=True)),
            call_s=call_s,
            node_s=max(0.0, nodes_s - call_s) / NUM_NODES,
        )
        content = RooflineFile(conditions=self._conditions, roofline=found)
        write(self.path, content.model_dump_json(indent=1).encode())
        return found

    @property
    def path(self) -> Path:
        """The file that this machine's, runtime's and number of threads' roofline is kept in."""
        return self.folder / f"roofline-{kept_name(self.backend, self._conditions)}"

    @property
    def _conditions(self) -> dict[str, str]:
        return conditions(self.backend, self.num_threads)

    def _kept(self) -> Roofline:
        try:
            return RooflineFile.model_validate_json(read(self.path)).roofline
        except ValidationError as error:
            raise StorageError(
                str(self.path), f"no roofline ({error.errors()[0]['msg']})", "one that was measured",
                "Remove it, and the roofline is measured again.",
            ) from error  # fmt: skip

    def _layer_s(self, shape: LayerShape, rows: int, columns: int) -> float:
        return self._file_s(lambda path: write_layer(path, shape, rows, columns, 1))

    def _chain_s(self) -> float:
        return self._file_s(lambda path: write_chain(path, NUM_NODES))

    def _file_s(self, write_file: Callable[[Path], Path]) -> float:
        return float(samples_s(self.backend, write_file, self.stopwatch, num_threads=self.num_threads).min())

    def _copied(self, num_bytes: int) -> float:
        """Return the bytes a second that a copy of a tensor reads and writes where the runtime computes."""
        device = "cuda" if torch.cuda.is_available() and self.backend.name in ON_GPU else "cpu"
        source, target = (torch.ones(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))
        before = torch.get_num_threads()
        torch.set_num_threads(self.num_threads)

        def copy() -> None:
            target.copy_(source)
            if device == "cuda":
                torch.cuda.synchronize()

        try:
            return 2 * num_bytes / float(self.stopwatch.time(copy).samples_s.min())
        finally:
            torch.set_num_threads(before)


def write_chain(path: Path, length: int) -> Path:
    """Write a network of tiny nodes in a row that no runtime computes as one."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Softmax", [f"t{i}"], [f"t{i + 1}"], axis=1) for i in range(length)]
    graph = helper.make_graph(
        nodes, "chain", [value("t0", TensorProto.FLOAT, [1, 8])], [value(f"t{length}", TensorProto.FLOAT, [1, 8])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    write(path, model.SerializeToString())
    return path
