"""Open ONNX Runtime sessions: on the host, and with inputs and outputs bound to a CUDA device's memory."""

import json
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secateur.backends.cuda import DeviceArray, Event, PinnedArray, Stream
from secateur.backends.device_time import DeviceTimes
from secateur.backends.engine_inputs import ExpectedInputs
from secateur.backends.protocol import Engine, LayerTime, closed
from secateur.errors import first_line

Open = Callable[[Path | None, Stream | None], Any]
"""Opens a session: where it writes its profile to, if it is profiled, and the stream that it works on, if not its own.
"""
Arrays = tuple[np.ndarray, ...]

NO_WAIT = "disable_synchronize_execution_providers"


class SessionEngine(Engine):
    """An open session that opens another one, with the profiler on, to see what calls are made of."""

    expected: ExpectedInputs
    _open_session: Open
    _session: Any

    def profile(self, inputs: Arrays, *, num_calls: int = 10) -> tuple[LayerTime, ...]:
        """Time every node by ONNX Runtime's profiler; names are those after fusion.

        On a GPU the times are the host's, with the launches of kernels.
        """
        return _layer_times(self.recorded(inputs, num_calls=num_calls + 1))

    def recorded(self, inputs: Arrays, *, num_calls: int) -> list[dict[str, Any]]:
        """Call a session of its own and return the events that its profiler wrote, in their order."""
        if self._session is None:
            raise closed(self.expected.engine)
        self.expected.check(inputs)
        with tempfile.TemporaryDirectory(prefix="secateur-profile-") as scratch:
            session = self._open_session(Path(scratch) / "profile", None)
            names = [entry.name for entry in session.get_inputs()]
            for _ in range(num_calls):
                _run(session, names, inputs, self.expected)
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            del session
        return events


class OnnxRuntimeEngine(SessionEngine):
    """An open session. Inputs are copied from and outputs to the host by ONNX Runtime itself."""

    def __init__(self, open_session: Open, expected: ExpectedInputs) -> None:
        self.expected = expected
        self._open_session = open_session
        self._session: Any = open_session(None, None)
        self._inputs = [entry.name for entry in self._session.get_inputs()]

    def run(self, inputs: Arrays) -> Arrays:
        """Run the session; outputs are on the host when it returns. Threads may call at once."""
        session = self._session
        if session is None:
            raise closed(self.expected.engine)
        self.expected.check(inputs)
        return _run(session, self._inputs, inputs, self.expected)

    def close(self) -> None:
        """Let go of the session, which frees its memory and threads."""
        self._session = None


class BoundOnnxRuntimeEngine(SessionEngine):
    """An open session whose inputs and outputs stay in the device's memory between the copies.

    A call copies through pinned memory onto one stream, on which the session works as well. Outputs have fixed places
    for each shape of the inputs, so that ``cuda_graph`` may replay what was recorded. Threads wait for one another.
    """

    on_device = True

    def __init__(self, open_session: Open, expected: ExpectedInputs, *, cuda_graph: bool) -> None:
        self.expected = expected
        self._stream = Stream()
        self._open_session = open_session
        try:
            self._session: Any = open_session(None, self._stream)
        except BaseException:
            self._stream.close()
            raise
        self._cuda_graph = cuda_graph
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound] = {}
        self._events = [Event() for _ in range(4)]
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> Arrays:
        """Copy in, run, copy out, wait."""
        with self._lock:
            bound = self._call(inputs)
            return tuple(pinned.array.copy() for pinned in bound.results)

    def timed(self, inputs: Arrays) -> DeviceTimes:
        """Run once between events on the session's stream."""
        with self._lock:
            self._call(inputs)
            return DeviceTimes.between(self._events)

    def close(self) -> None:
        """Free the session, then its buffers, events and stream."""
        with self._lock:
            if self._session is None:
                return
            for bound in self._bound.values():
                bound.forget()
            self._session = None
            for bound in self._bound.values():
                bound.close()
            self._bound.clear()
            for event in self._events:
                event.close()
            self._stream.close()

    def _call(self, inputs: Arrays) -> "_Bound":
        if self._session is None:
            raise closed(self.expected.engine)
        self.expected.check(inputs)
        key = tuple(array.shape for array in inputs)
        if key not in self._bound:
            self._bound[key] = self._bind(inputs, number=len(self._bound) + 1)
        bound, stream = self._bound[key], self._stream
        for pinned, array in zip(bound.staged, inputs, strict=True):
            pinned.array[...] = array
        self._events[0].record(stream)
        for pinned, place in zip(bound.staged, bound.places[: len(bound.staged)], strict=True):
            stream.upload(pinned.array, place.pointer)
        self._events[1].record(stream)
        self._run_bound(bound, inputs)
        self._events[2].record(stream)
        for pinned, place in zip(bound.results, bound.places[len(bound.staged) :], strict=True):
            stream.download(place.pointer, pinned.array)
        self._events[3].record(stream)
        stream.wait()
        return bound

    def _run_bound(self, bound: "_Bound", inputs: Arrays) -> None:
        try:
            self._session.run_with_iobinding(bound.binding, bound.options)
        except Exception as error:
            raise self.expected.refusal(inputs, first_line(error)) from error

    def _bind(self, inputs: Arrays, number: int) -> "_Bound":
        """Reserve the places of one shape; the outputs' shapes are found by a first run that is not recorded."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry(NO_WAIT, "1")
        trial = onnxruntime.RunOptions()
        if self._cuda_graph:
            options.add_run_config_entry("gpu_graph_id", str(number))
            trial.add_run_config_entry("gpu_graph_id", "-1")
        bound = _Bound(binding=self._session.io_binding(), options=options)
        for entry, array in zip(self.expected.inputs, inputs, strict=True):
            place = bound.reserve(array.nbytes)
            bound.staged.append(PinnedArray(array.shape, array.dtype))
            bound.binding.bind_input(entry.name, "cuda", 0, array.dtype, array.shape, place)
            self._stream.upload(np.ascontiguousarray(array), place)
        for name in self._outputs:
            bound.binding.bind_output(name, "cuda")
        try:
            self._session.run_with_iobinding(bound.binding, trial)
        except Exception as error:
            bound.close()
            raise self.expected.refusal(inputs, first_line(error)) from error
        found = [value.numpy() for value in bound.binding.get_outputs()]
        bound.binding.clear_binding_outputs()
        for name, value in zip(self._outputs, found, strict=True):
            place = bound.reserve(value.nbytes)
            bound.results.append(PinnedArray(value.shape, value.dtype))
            bound.binding.bind_output(name, "cuda", 0, value.dtype, value.shape, place)
        return bound


@dataclass(kw_only=True)
class _Bound:
    """The places that inputs and outputs of one shape have on the device and on the host."""

    binding: Any
    options: Any
    places: list[DeviceArray] = field(default_factory=list)
    staged: list[PinnedArray] = field(default_factory=list)
    results: list[PinnedArray] = field(default_factory=list)

    def reserve(self, size_bytes: int) -> int:
        self.places.append(DeviceArray())
        return self.places[-1].reserve(size_bytes)

    def forget(self) -> None:
        self.binding = None

    def close(self) -> None:
        self.forget()
        for place in self.places:
            place.close()
        for pinned in (*self.staged, *self.results):
            pinned.close()


def _run(session: Any, names: list[str], inputs: Arrays, expected: ExpectedInputs) -> Arrays:
    try:
        return tuple(session.run(None, dict(zip(names, inputs, strict=True))))
    except Exception as error:
        raise expected.refusal(inputs, first_line(error)) from error


def kernels_of(events: Iterable[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events that are kernels, each with the name of what it computes."""
    end = "_kernel_time"
    return [(e["name"].removesuffix(end), e) for e in events if e.get("cat") == "Node" and e["name"].endswith(end)]


def _layer_times(events: Iterable[dict[str, Any]]) -> tuple[LayerTime, ...]:
    """Average each node's times over the calls but the first, slowest nodes first."""
    times: dict[str, list[float]] = defaultdict(list)
    told: dict[str, dict[str, Any]] = {}
    for name, event in kernels_of(events):
        times[name].append(event["dur"] / 1e6)
        told[name] = event["args"]
    layers = [
        LayerTime(
            name=name, operator=told[name]["op_name"], place=told[name].get("provider", ""),
            time_s=float(np.mean(spent[1:] or spent)),
        )
        for name, spent in times.items()
    ]  # fmt: skip
    return tuple(sorted(layers, key=lambda layer: -layer.time_s))


def places_of(layers: tuple[LayerTime, ...]) -> str:
    """Count the nodes on each execution provider, the most first."""
    counted = Counter(layer.place for layer in layers)
    return ", ".join(f"{count} on {place}" for place, count in counted.most_common())
