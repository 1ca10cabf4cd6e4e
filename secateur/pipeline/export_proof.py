"""Prove that an ONNX file computes what the network computes: ONNX Runtime against torch, both on the CPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import Parity
from secateur.equality import Agreement
from secateur.errors import BackendError, ExportError
from secateur.pipeline.structure.capture import flat_outputs

RANDOM_BATCH_SIZES = (1, 3)
"""Random inputs are drawn at these batch sizes where the batch is dynamic."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class ExportProof:
    """Compare a file with the network it was exported from.

    ``example`` are the inputs it was exported with and ``batches`` real ones; random inputs are drawn with ``seed``.
    """

    name: str
    example: Inputs
    batches: Sequence[Inputs]
    dynamic_batch: bool
    tolerance: float
    seed: int

    def check(self, network: nn.Module, path: Path, output_names: tuple[str, ...]) -> Parity:
        """Run both on every batch and compare.

        Raises:
            EqualityError: they differ by more than the tolerance.
            ExportError: one of the two refuses a batch.
            BackendError: ONNX Runtime is absent.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(
                f"export of {self.name}", "no onnxruntime", "onnxruntime, which proves the file",
                "Install it: pip install 'secateur[cpu]'.",
            ) from error  # fmt: skip
        agreement = Agreement(
            where=f"export of {self.name}",
            reference="torch",
            candidate=f"onnxruntime {onnxruntime.__version__}",
            output_names=output_names,
            tolerance=self.tolerance,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise self._refused("ONNX Runtime", "the file", error) from error
        return agreement.check(
            (batch, self._torch(network, batch, inputs), self._onnxruntime(session, batch, inputs))
            for batch, inputs in self.inputs()
        )

    def inputs(self) -> Iterator[tuple[str, Inputs]]:
        """Yield a description and inputs: the example, the real batches and their first samples, random batches."""
        size = len(self.example[0])
        yield f"the example inputs (batch size {size})", self.example
        for position, batch in enumerate(self.batches):
            if self.dynamic_batch or len(batch[0]) == size:
                yield f"real batch {position} (batch size {len(batch[0])})", batch
            if self.dynamic_batch and len(batch[0]) > 1:
                yield f"the first sample of real batch {position}", tuple(tensor[:1] for tensor in batch)
        generator = torch.Generator().manual_seed(self.seed)
        for random_size in RANDOM_BATCH_SIZES if self.dynamic_batch else (size,):
            drawn = tuple(random_like(tensor, random_size, generator) for tensor in self.example)
            yield f"random inputs (batch size {random_size})", drawn

    def _torch(self, network: nn.Module, batch: str, inputs: Inputs) -> list[np.ndarray]:
        try:
            with torch.no_grad():
                return [tensor.numpy() for tensor in flat_outputs(network(*inputs))]
        except Exception as error:
            raise self._refused("the network", batch, error) from error

    def _onnxruntime(self, session: Any, batch: str, inputs: Inputs) -> list[np.ndarray]:
        names = [entry.name for entry in session.get_inputs()]
        try:
            return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        except Exception as error:
            raise self._refused("ONNX Runtime", batch, error) from error

    def _refused(self, who: str, what: str, error: Exception) -> ExportError:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]
        return ExportError(
            f"export of {self.name}", f"{who} refusing {what}: {type(error).__name__}: {line}",
            "a file that runs wherever the network runs",
            "Export in float32 or half precision, without the operator it names; where it names a size, do not bake "
            "the example's sizes into forward, or export with dynamic_batch=False.",
        )  # fmt: skip


def random_like(example: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw a tensor like an example: uniform over its range where it is of floats, else from its own entries.

    An example of floats without a range, such as zeros, gives standard normal numbers.
    """
    shape = (batch_size, *example.shape[1:])
    if not example.is_floating_point():
        return example.flatten()[torch.randint(example.numel(), shape, generator=generator)]
    low, high = (float(bound) for bound in torch.aminmax(example))
    if low == high:
        return torch.randn(shape, generator=generator).to(example.dtype)
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(example.dtype)
