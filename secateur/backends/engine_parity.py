"""Hold an engine to the ONNX file it was built from, as ONNX Runtime computes it without any optimisation."""

from pathlib import Path

import onnx

from secateur.artifacts import Parity
from secateur.backends.onnx_file import random_inputs, read_inputs, read_whole
from secateur.backends.protocol import BuildOptions, Engine
from secateur.bfloat16 import emulated
from secateur.equality import Agreement
from secateur.errors import BackendError, first_line

NUM_BATCHES = 2
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's name for where a model that it gets as bytes has its weights."""


def engine_parity(name: str, engine: Engine, onnx_file: Path, options: BuildOptions) -> Parity:
    """Compare an engine with the file on random inputs of the sizes it is tuned for and of the ends of its ranges.

    What the file computes in bfloat16, ONNX Runtime computes in float32 and rounds.

    Raises:
        EqualityError: they differ by more than the options' tolerance.
        BackendError: ONNX Runtime is absent or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"parity of {name}", "no onnxruntime", "onnxruntime, which engines are compared with",
            "Install it: pip install 'secateur[cpu]'.",
        ) from error  # fmt: skip
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = options.num_threads
    settings.log_severity_level = 3
    whole = read_whole(onnx_file)
    if whole.weights:
        settings.add_session_config_entry(WEIGHTS_FOLDER, str(onnx_file.parent))
    try:
        session = onnxruntime.InferenceSession(_computable(whole.content), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(
            f"parity of {name}", f"a refusal by ONNX Runtime ({first_line(error)})", "a file that it can open",
            "Export in another opset, or replace the operator it names.",
        ) from error  # fmt: skip
    inputs = read_inputs(onnx_file)
    at = [options.sizes] * NUM_BATCHES + ([options.least(), options.most()] if options.ranges else [])
    batches = [random_inputs(inputs, options.batch_size, options.seed + i, sizes) for i, sizes in enumerate(at)]
    return Agreement(
        where=f"parity of {name}",
        reference=f"onnxruntime {onnxruntime.__version__} without optimisation",
        candidate=name,
        output_names=tuple(output.name for output in session.get_outputs()),
        tolerance=options.tolerance,
    ).check(
        (
            f"random batch {position} of shapes {[list(array.shape) for array in batch]}",
            session.run(None, {entry.name: array for entry, array in zip(inputs, batch, strict=True)}),
            engine.run(batch),
        )
        for position, batch in enumerate(batches)
    )


def _computable(content: bytes) -> bytes:
    """Return a file that ONNX Runtime computes on the processor; the parsed one is not held while engines run."""
    proto = onnx.load_from_string(content)
    found = emulated(proto)
    return content if found is proto else found.SerializeToString()
