"""Measure how firmly the loss holds every single parameter, in one pass over a few batches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from secateur.artifacts import Batch, as_tuple
from secateur.calibration.batches import Loss, batch_size_of, device_of, per_sample, to_device
from secateur.calibration.observe import observing
from secateur.calibration.processes import total
from secateur.errors import DataError, StorageError, TrainingError

MOST_ENTRIES = 2**26
"""Gradient entries of single samples that are held at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterFisher:
    """The diagonal of the Fisher information, F_i = (1/N) sum_n (dloss_n/dw_i)^2, one tensor a trainable parameter.

    ``labels`` says which labels the loss had: with drawn ones it is the Fisher information of the network's own
    predictions, with true ones the empirical one (Kunstner, Balles and Hennig 2019, arXiv:1905.12558).
    """

    fisher: Mapping[str, Tensor]
    num_samples: int
    labels: str = "true"

    def save(self, path: Path) -> None:
        """Write a safetensors file in single precision; it appears whole or not at all."""
        partial = path.with_name(path.name + ".part")
        facts = {"num_samples": str(self.num_samples), "labels": self.labels}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: values.float().contiguous() for name, values in self.fisher.items()}, partial, facts)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                str(path), str(error), "a file that can be written", "Free space or choose another folder."
            ) from error


def load_parameter_fisher(path: Path) -> ParameterFisher:
    """Read what `ParameterFisher.save` wrote; raise StorageError where the file is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            fisher = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return ParameterFisher(fisher=fisher, num_samples=int(facts["num_samples"]), labels=facts["labels"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageError(
            str(path), str(error), "a parameter Fisher file", "Delete it and collect it again."
        ) from error


def collect_parameter_fisher(
    module: nn.Module, batches: Iterable[Batch], loss: Loss, *, labels: str = "true"
) -> ParameterFisher:
    """Return the mean squared gradient of single samples' losses with respect to every trainable parameter.

    Sums are kept in float64. The network is in eval mode meanwhile and left as it was. Gradients of several samples at
    a time are computed by `torch.func.vmap`; a network whose code it cannot follow is differentiated sample by sample.
    In several connected processes each gives batches of its own, and all return the mean over all samples.

    Raises TrainingError where a loss is not finite, DataError where batches are malformed or absent.
    """
    device, each = device_of(module), per_sample(loss)
    exact = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros(p.shape, dtype=torch.float64, device=exact) for name, p in parameters.items()}
    at_once = max(1, MOST_ENTRIES // max(1, sum(p.numel() for p in parameters.values())))
    gradients, num_samples = _Gradients(module=module, parameters=parameters), 0
    with observing(module):
        for number, (raw_inputs, raw_targets) in enumerate(batches):
            num_samples += batch_size_of(raw_inputs)
            inputs, targets = to_device(as_tuple(raw_inputs), device), to_device(raw_targets, device)
            slopes = _slopes(module, inputs, targets, each, number)
            chunks = zip(*(tensor.split(at_once) for tensor in (*inputs, *slopes)), strict=True)
            for chunk in chunks:
                for squares in gradients.squared(chunk[: len(inputs)], chunk[len(inputs) :]):
                    for name, values in squares.items():
                        sums[name] += values.to(exact, torch.float64)
    num_samples = int(total(torch.tensor(num_samples, device=exact)))
    if num_samples == 0:
        raise DataError("parameter Fisher", "no batches", "at least one", "Give a data set with samples.")
    fisher = {name: (total(values) / num_samples).cpu() for name, values in sums.items()}
    return ParameterFisher(fisher=fisher, num_samples=num_samples, labels=labels)


def _slopes(module: nn.Module, inputs: tuple[Tensor, ...], targets: Any, each: Loss, number: int) -> tuple[Tensor, ...]:
    """Return the gradient of the samples' losses with respect to the network's outputs; each has its sample's only."""
    with torch.no_grad():
        leaves, tree = tree_flatten(module(*inputs))
    leaves = [leaf.detach().requires_grad_() if _is_number(leaf) else leaf for leaf in leaves]
    with torch.enable_grad():
        losses = each(tree_unflatten(leaves, tree), targets)
    if not torch.isfinite(losses).all():
        raise TrainingError(
            f"parameter Fisher, batch {number}", f"a loss of {losses[~torch.isfinite(losses)][0].item()}",
            "a finite loss", "Check the network's weights and this batch's targets.",
        )  # fmt: skip
    numbers = [leaf for leaf in leaves if _is_number(leaf)]
    return torch.autograd.grad(losses.sum(), numbers, allow_unused=True, materialize_grads=True)


@dataclass(kw_only=True, eq=False)
class _Gradients:
    """Squared gradients of single samples with respect to a network's parameters, summed over those taken at once."""

    module: nn.Module
    parameters: dict[str, Tensor]
    together: bool = True

    def squared(self, inputs: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> list[dict[str, Tensor]]:
        """Return the sums of a chunk of samples."""
        if self.together:
            try:
                found = vmap(self._of_one, randomness="different")(inputs, slopes)
                return [{name: values.square().sum(0) for name, values in found.items()}]
            except RuntimeError:  # vmap's refusal; what is wrong with the network itself is wrong below as well
                self.together = False
        samples = zip(*(tensor.unbind() for tensor in (*inputs, *slopes)), strict=True)
        each = (self._of_one(sample[: len(inputs)], sample[len(inputs) :]) for sample in samples)
        return [{name: values.square() for name, values in one.items()} for one in each]

    def _of_one(self, inputs: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> dict[str, Tensor]:
        def outputs(parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
            result = functional_call(self.module, parameters, tuple(tensor[None] for tensor in inputs))
            return tuple(leaf for leaf in tree_leaves(result) if _is_number(leaf))

        pull_back = vjp(outputs, self.parameters)[1]
        found: dict[str, Tensor] = pull_back(tuple(slope[None] for slope in slopes))[0]
        return found


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
