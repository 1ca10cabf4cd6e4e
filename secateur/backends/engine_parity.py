"""Hold an engine to the ONNX file it was built from, as ONNX Runtime computes it without any optimisation."""

from pathlib import Path

from secateur.artifacts import Parity
from secateur.backends.onnx_file import random_inputs, read_inputs, read_whole
from secateur.backends.protocol import BuildOptions, Engine, first_line
from secateur.equality import Agreement
from secateur.errors import BackendError

NUM_BATCHES = 2


def engine_parity(name: str, engine: Engine, onnx_file: Path, options: BuildOptions) -> Parity:
    """Compare an engine with the file on random inputs of the batch size it is tuned for.

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
    try:
        session = onnxruntime.InferenceSession(read_whole(onnx_file), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(
            f"parity of {name}", f"a refusal by ONNX Runtime ({first_line(error)})", "a file that it can open",
            "Export in another opset, or replace the operator it names.",
        ) from error  # fmt: skip
    inputs = read_inputs(onnx_file)
    batches = [random_inputs(inputs, options.batch_size, options.seed + i, options.sizes) for i in range(NUM_BATCHES)]
    return Agreement(
        where=f"parity of {name}",
        reference=f"onnxruntime {onnxruntime.__version__} without optimisation",
        candidate=name,
        output_names=tuple(output.name for output in session.get_outputs()),
        tolerance=options.tolerance,
    ).check(
        (
            f"random batch {position} (batch size {options.batch_size})",
            session.run(None, {entry.name: array for entry, array in zip(inputs, batch, strict=True)}),
            engine.run(batch),
        )
        for position, batch in enumerate(batches)
    )
