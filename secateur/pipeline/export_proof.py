"""Prove that an ONNX file computes what the network computes: ONNX Runtime against torch, both on the CPU."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import Parity
from secateur.equality import Agreement
from secateur.errors import BackendError, ExportError
from secateur.pipeline.export_shapes import Inputs, OpenShape
from secateur.pipeline.structure.capture import flat_outputs

RANDOM_BATCH_SIZES = (1, 3)
"""Random inputs are drawn at these batch sizes where the batch is dynamic."""


@dataclass(frozen=True, kw_only=True)
class ExportProof:
    """Compare a file with the network it was exported from.

    ``shape`` has the inputs it was exported with and what it leaves open, ``batches`` are real inputs; random ones are
    drawn with ``seed``, at several batch sizes and at the least and largest of other open sizes.
    """

    name: str
    shape: OpenShape
    batches: Sequence[Inputs]
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
        example, dynamic_batch = self.shape.example, self.shape.batch is not None
        size = len(example[0])
        yield f"the example inputs (batch size {size})", example
        for position, batch in enumerate(self.batches):
            if self.shape.admits(batch):
                yield f"real batch {position} (batch size {len(batch[0])})", batch
            first = tuple(tensor[:1] for tensor in batch)
            if len(batch[0]) > 1 and self.shape.admits(first):
                yield f"the first sample of real batch {position}", first
        generator = torch.Generator().manual_seed(self.seed)
        for random_size in RANDOM_BATCH_SIZES if dynamic_batch else (size,):
            yield f"random inputs (batch size {random_size})", self._drawn({}, random_size, generator)
        for sizes in self.shape.variations():
            told = ", ".join(f"{name} {number}" for name, number in sizes.items())
            yield f"random inputs ({told})", self._drawn(sizes, 1 if dynamic_batch else size, generator)

    def _drawn(self, sizes: Mapping[str, int], batch_size: int, generator: torch.Generator) -> Inputs:
        return tuple(
            random_like(tensor, self.shape.shape(index, sizes, batch_size), generator)
            for index, tensor in enumerate(self.shape.example)
        )

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
            "the example's sizes into forward, or export with this size fixed (the batch's by dynamic_batch=False), or "
            "say in which steps it comes (multiple).",
        )  # fmt: skip


def random_like(example: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw a tensor like an example: uniform over its range where it is of floats, else from its own entries.

    An example of floats without a range, such as zeros, gives standard normal numbers.
    """
    if not example.is_floating_point():
        return example.flatten()[torch.randint(example.numel(), shape, generator=generator)]
    low, high = (float(bound) for bound in torch.aminmax(example))
    if low == high:
        return torch.randn(shape, generator=generator).to(example.dtype)
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(example.dtype)
