"""Serve a deployed engine over HTTP by the KServe v2 inference protocol, JSON alone: python -m secateur.serving FOLDER.

    GET  /v2/health/live, /v2/health/ready, /v2/models/NAME, /v2/models/NAME/ready
    POST /v2/models/NAME/infer    {"inputs": [{"name", "shape", "datatype", "data"}]}

For one machine and trusted callers: no encryption, one engine whose calls wait for one another. Larger services take
`secateur.triton`.
"""

import argparse
import json
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from secateur.backends.protocol import first_line
from secateur.deploy import Deployed, Tensor, load
from secateur.errors import BackendError, SecateurError

TYPES = {
    "float32": "FP32", "float16": "FP16", "float64": "FP64", "int8": "INT8", "int16": "INT16", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip
MOST_BYTES = 64 * 2**20
"""The longest request that is read."""


class Handler(BaseHTTPRequestHandler):
    """Answer one request for the network that is served."""

    def __init__(self, network: Deployed, *given: Any) -> None:
        self.network = network
        super().__init__(*given)

    def do_GET(self) -> None:
        """Tell that the network is ready, and what it takes."""
        model, path = f"/v2/models/{self.network.description.name}", unquote(self.path)
        if path in ("/v2/health/live", "/v2/health/ready", f"{model}/ready"):
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
            self._send(200, infer(self.network, json.loads(self.rfile.read(size))))
        except (SecateurError, ValueError, KeyError, TypeError) as error:
            self._send(400, {"error": first_line(error)})

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing for requests that went well."""

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


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


def infer(network: Deployed, request: dict[str, Any]) -> dict[str, Any]:
    """Compute a request's outputs.

    Raises:
        BackendError: names, types or shapes do not fit.
        ValueError: the data are not as many as the shape says.
    """
    given = {entry["name"]: entry for entry in request["inputs"]}
    wanted = network.description.inputs
    if set(given) != {entry.name for entry in wanted}:
        raise BackendError(
            "request", f"the inputs {sorted(given)}", f"{[entry.name for entry in wanted]}", "Send these."
        )
    arrays = [
        np.asarray(given[entry.name]["data"], dtype=entry.dtype).reshape(given[entry.name]["shape"]) for entry in wanted
    ]
    outputs = zip(network.description.outputs, network.run(*arrays), strict=True)
    return {
        "model_name": network.description.name, "id": request.get("id", ""),
        "outputs": [
            {"name": entry.name, "datatype": TYPES[entry.dtype], "shape": list(array.shape),
             "data": array.ravel().tolist()}
            for entry, array in outputs
        ],
    }  # fmt: skip


def server(network: Deployed, host: str, port: int) -> ThreadingHTTPServer:
    """Listen, without answering yet: ``serve_forever`` does."""
    return ThreadingHTTPServer((host, port), partial(Handler, network))


def main() -> int:
    """Serve until interrupted."""
    wanted = argparse.ArgumentParser(prog="python -m secateur.serving", description="Serve a deployed engine.")
    wanted.add_argument("folder", type=Path)
    wanted.add_argument("--host", default="127.0.0.1")
    wanted.add_argument("--port", type=int, default=8080)
    wanted.add_argument("--threads", type=int, default=1)
    arguments = wanted.parse_args()
    try:
        with load(arguments.folder, num_threads=arguments.threads) as network:
            listening = server(network, arguments.host, arguments.port)
            sys.stderr.write(f"{network.description.name} at http://{arguments.host}:{arguments.port}/v2\n")
            listening.serve_forever()
    except SecateurError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
