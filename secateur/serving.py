"""Serve a deployed engine over HTTP by the KServe v2 inference protocol: python -m secateur.serving FOLDER.

    GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME, /v2/models/NAME/ready
    POST /v2/models/NAME/infer    {"inputs": [{"name", "shape", "datatype", "data"}]}

Tensors come and go as JSON or, by the protocol's extension for binary data, as bytes behind it, which is what
``tritonclient.http`` does unless it is told otherwise.

For one machine and trusted callers: no encryption, one engine whose calls wait for one another. Larger services take
`secateur.triton`.
"""

import argparse
import json
import math
import signal
import sys
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from secateur import __version__
from secateur.deploy import Deployed, Tensor, load
from secateur.errors import BackendError, SecateurError, first_line

TYPES = {
    "float32": "FP32", "float16": "FP16", "float64": "FP64", "int8": "INT8", "int16": "INT16", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip
MOST_BYTES = 64 * 2**20
"""The longest request that is read."""
JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; the tensors' bytes follow."""


class Handler(BaseHTTPRequestHandler):
    """Answer one request for the network that is served."""

    def __init__(self, network: Deployed, *given: Any) -> None:
        self.network = network
        super().__init__(*given)

    def do_GET(self) -> None:
        """Tell that the network is ready, and what it takes."""
        model, path = f"/v2/models/{self.network.description.name}", unquote(self.path)
        if path == "/v2":
            self._send(200, {"name": "secateur", "version": __version__, "extensions": ["binary_tensor_data"]})
        elif path in ("/v2/health/live", "/v2/health/ready", f"{model}/ready"):
            self._send(200, {"ready": True})
        elif path == model:
            self._send(200, metadata(self.network))
        else:
            self._send(404, {"error": f"nothing at {self.path}"})

    def do_POST(self) -> None:
        """Infer."""
        if unquote(self.path) != f"/v2/models/{self.network.description.name}/infer":
            self._send(404, {"error": f"nothing at {self.path}"})
            return
        try:
            size = int(self.headers.get("Content-Length", "0"))
            if not 0 < size <= MOST_BYTES:
                raise BackendError(
                    "request", f"{size} bytes", f"1 to {MOST_BYTES} bytes with their length", "Send fewer samples."
                )
            body = self.rfile.read(size)
            length = int(self.headers.get(JSON_LENGTH, size))
            request = json.loads(body[:length])
            if not isinstance(request, dict):
                raise BackendError("request", f"JSON of {type(request).__name__}", "an object", 'Send {"inputs": ...}.')
            self._send(200, *infer(self.network, request, body[length:]))
        except (SecateurError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._send(400, {"error": first_line(error)})

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing for requests that went well."""

    def _send(self, status: int, body: dict[str, Any], tensors: bytes = b"") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if tensors else "application/json")
        self.send_header("Content-Length", str(len(content) + len(tensors)))
        if tensors:
            self.send_header(JSON_LENGTH, str(len(content)))
        self.end_headers()
        self.wfile.write(content + tensors)


def metadata(network: Deployed) -> dict[str, Any]:
    """Describe the network as the protocol wants it."""
    told = network.description

    def tensor(entry: Tensor) -> dict[str, Any]:
        sizes = [-1 if isinstance(size, str) else size for size in entry.shape]
        return {"name": entry.name, "datatype": TYPES[entry.dtype], "shape": sizes}

    return {
        "name": told.name, "versions": ["1"], "platform": f"secateur_{told.engine.backend}",
        "inputs": [tensor(entry) for entry in told.inputs], "outputs": [tensor(entry) for entry in told.outputs],
    }  # fmt: skip


def infer(network: Deployed, request: dict[str, Any], tensors: bytes = b"") -> tuple[dict[str, Any], bytes]:
    """Compute a request's outputs.

    Args:
        network: what computes them.
        request: the request's JSON.
        tensors: the bytes behind it, of inputs that say how many of them are theirs.

    Returns:
        The answer's JSON, and the bytes of outputs that were wanted so.

    Raises:
        BackendError: names, types or shapes do not fit.
        ValueError: the data are not as many as the shape says.
    """
    given = dict(_arrays(network, request["inputs"], tensors))
    wanted = [entry.name for entry in network.description.inputs]
    if set(given) != set(wanted):
        raise BackendError("request", f"the inputs {sorted(given)}", f"{wanted}", "Send these.")
    everything = bool(request.get("parameters", {}).get("binary_data_output", False))
    names = [entry.name for entry in network.description.outputs]
    asked = {
        entry["name"]: bool(entry.get("parameters", {}).get("binary_data", everything))
        for entry in request.get("outputs") or [{"name": name} for name in names]
    }
    if not set(asked) <= set(names):
        raise BackendError("request", f"the outputs {sorted(asked)}", f"some of {names}", "Ask for these.")
    told, raw = [], b""
    for entry, array in zip(network.description.outputs, network.run(*(given[name] for name in wanted)), strict=True):
        if entry.name not in asked:
            continue
        output = {"name": entry.name, "datatype": TYPES[entry.dtype], "shape": list(array.shape)}
        if asked[entry.name]:
            raw += array.tobytes()
            told.append({**output, "parameters": {"binary_data_size": array.nbytes}})
        else:
            told.append({**output, "data": array.ravel().tolist()})
    return {"model_name": network.description.name, "id": request.get("id", ""), "outputs": told}, raw


def _arrays(network: Deployed, entries: list[dict[str, Any]], tensors: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Read a request's inputs, of the types that the network declares."""
    dtypes = {entry.name: np.dtype(entry.dtype) for entry in network.description.inputs}
    start = 0
    for entry in entries:
        name, shape = entry["name"], entry["shape"]
        size = entry.get("parameters", {}).get("binary_data_size")
        if name not in dtypes:
            yield name, np.empty(0)  # refused by its name
        elif size is None:
            yield name, np.asarray(entry["data"], dtype=dtypes[name]).reshape(shape)
        else:
            held = math.prod(shape) * dtypes[name].itemsize
            if entry["datatype"] != TYPES[dtypes[name].name] or size != held or not 0 <= size <= len(tensors) - start:
                raise BackendError(
                    "request", f"{len(tensors) - start} bytes for {size} of {entry['datatype']} {shape} in {name!r}",
                    f"{held} bytes of {TYPES[dtypes[name].name]}", "Send as many as shape and type say.",
                )  # fmt: skip
            yield name, np.frombuffer(tensors, dtypes[name], math.prod(shape), start).reshape(shape)
        start += size or 0


def server(network: Deployed, host: str, port: int) -> ThreadingHTTPServer:
    """Listen, without answering yet: ``serve_forever`` does.

    Raises:
        BackendError: the address is taken, or is none of this machine's.
    """
    try:
        return ThreadingHTTPServer((host, port), partial(Handler, network))
    except (OSError, OverflowError) as error:
        raise BackendError(
            "serving", f"the address {host}:{port}, which cannot be listened on ({error})", "a free one",
            "Give another --host or --port.",
        ) from error  # fmt: skip


def main() -> int:
    """Serve until interrupted or, as containers are stopped, terminated."""
    wanted = argparse.ArgumentParser(prog="python -m secateur.serving", description="Serve a deployed engine.")
    wanted.add_argument("folder", type=Path)
    wanted.add_argument("--host", default="127.0.0.1")
    wanted.add_argument("--port", type=int, default=8080)
    wanted.add_argument("--threads", type=int, default=1)
    arguments = wanted.parse_args()
    try:
        with load(arguments.folder, num_threads=arguments.threads) as network:
            listening = server(network, arguments.host, arguments.port)
            # The first process of a container is deaf to signals that it does not ask for.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            host, port = listening.server_address[:2]
            sys.stderr.write(f"{network.description.name} at http://{host!s}:{port}/v2\n")
            sys.stderr.flush()
            listening.serve_forever()
    except SecateurError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
