"""Read an ONNX file that anyone may have written, or say what is wrong with it."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from secateur.errors import BackendError, first_line


def read_onnx(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Read a file, with or without the weights that it keeps in files beside it.

    Raises:
        BackendError: the file is absent, truncated, not ONNX, of an unknown operator set, or lacks its weights.
    """
    if path.is_char_device():  # such as /dev/zero, which has no end
        raise _not_onnx(path, "a device")
    try:
        proto = onnx.load(path, load_external_data=weights)
    except OSError as error:
        raise BackendError(
            str(path), error.strerror or str(error), "an ONNX file", "Check the path; `secateur run` writes such files."
        ) from error
    except DecodeError as error:
        raise _not_onnx(path, first_line(error)) from error
    except onnx.checker.ValidationError as error:
        raise BackendError(
            str(path), f"weights that cannot be read ({first_line(error)})", "the file of weights beside it",
            "Copy both files together, or export with the weights inside.",
        ) from error  # fmt: skip
    if not proto.graph.node:
        raise _not_onnx(path, "no graph in it")
    newest = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset > newest:
        raise BackendError(
            str(path), f"operators of opset {opset}", f"at most {newest}, what onnx {onnx.__version__} knows",
            "Export in a lower opset, or install a newer onnx.",
        )  # fmt: skip
    return proto


def _not_onnx(path: Path, reason: str) -> BackendError:
    return BackendError(
        str(path), f"a file that is truncated or not ONNX ({reason})", "a whole ONNX file", "Copy or export it again."
    )
