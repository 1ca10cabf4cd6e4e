"""Let the weights that stay make up for the channels that go, layer after layer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from secateur.artifacts import Batch, as_tuple
from secateur.calibration.batches import device_of, to_device
from secateur.calibration.calls import Calls
from secateur.calibration.patches import Application, rows_of
from secateur.calibration.randomness import randomness_kept
from secateur.calibration.sites import Site, find_sites
from secateur.errors import DataError
from secateur.pipeline.compensation.lockstep import leading
from secateur.pipeline.compensation.protocol import Removal
from secateur.pipeline.structure import Plan, cut
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.cut import along, root_factors, surviving, taken

CHUNK = 1 << 24
"""Entries of the largest matrix of patches that is made at once."""

ROUNDING = 1e-12
"""Of a mean square: a smaller variance is that of rounding."""

Rows = tuple[Float64[Tensor, "rows groups entries"], Float64[Tensor, "rows groups outputs"]]


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Fit every layer of a cut network to what the uncut one's makes of the same samples.

    From the first layer to the last, W = argmin_W E|y - W x|^2 + ridge * mean(diag E[x x^T]) |W - W_0|^2, where x are
    the inputs in the cut network, whose earlier layers are fitted already, y the uncut layer's outputs at the channels
    that stay, W_0 the weights as they were cut. Means are taken out first and go into the bias, or into the running
    mean of the batch norm that reads the layer, where there is one of the two. The reconstruction of one layer is that
    of He et al. 2017 (arXiv 1707.06168) and Luo et al. 2017 (arXiv 1707.06342); inputs from the cut network let a layer
    mend what the earlier ones could not.

    Convolutions and linear layers that a forward applies once are fitted; transposed convolutions and what is inside
    `nn.MultiheadAttention` stay as they are. Both networks run once, side by side, on as many of the samples as keep
    what each layer reads and makes within ``layer_bytes``, the first ones. Of all their places ``num_places`` are drawn
    for a layer, or four for each entry of a filter where that is more.
    """

    ridge: float = 1e-2
    num_places: int = 16_384
    layer_bytes: int = 1 << 30
    seed: int = 0
    needs_gram: ClassVar[bool] = False

    def __call__(self, removal: Removal) -> nn.Module:
        """Return the cut network with fitted weights, in eval mode.

        Raises DataError without samples, TraceError where the cut and the uncut network do not run the same layers.
        """
        whole, structure, samples = removal.module, removal.structure, removal.samples
        if not samples:
            raise DataError("least squares", "no samples", "at least one batch", "Give a data set with samples.")
        plan = Plan.of(structure, removal.keep)
        masks = plan.masks(structure)
        stays, factors = surviving(structure, masks), root_factors(structure, masks)
        result = cut(whole, structure, plan).eval()
        device = device_of(whole)
        with randomness_kept(device), torch.no_grad():
            few = tuple(tensor[:2] for tensor in to_device(as_tuple(samples[0][0]), device))
            sites = find_sites(result, few)
            inputs = to_device(_first(samples, self._affordable(sites, len(few[0]))), device)
            own, theirs = tensors(result), tensors(whole)
            generator = torch.Generator().manual_seed(self.seed)
            with leading(whole, {id(theirs[name]): name for name in sites}, inputs) as leader:

                def layer(
                    name: str, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
                ) -> Tensor:
                    application = Application.of(func, args, kwargs)
                    with leader.outputs_of(name) as outputs:
                        wanted = rows_of(outputs, application.rank)
                        if 0 in factors.get(name, {}):
                            wanted = wanted * along(factors[name][0], wanted, 1)
                        if 0 in stays.get(name, {}):
                            wanted = taken(wanted, {1: stays[name][0]})
                        self._fit(application, wanted, sites[name].running_mean, generator)
                    return func(*args, **kwargs)

                with Calls({id(own[name]): name for name in sites}, layer):
                    result(*inputs)
        return result

    def _affordable(self, sites: Mapping[str, Site], num_seen: int) -> int:
        """Return how many samples the largest layer leaves memory for; ``num_seen`` were seen at the sites."""
        largest = max((site.num_bytes for site in sites.values()), default=0)
        return max(num_seen, self.layer_bytes * num_seen // max(largest, 1))

    def _fit(
        self,
        application: Application,
        wanted: Float[Tensor, "rows outputs"],
        running_mean: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        """Set the weight of one layer and what takes up the mean of its outputs, in place."""
        weight, bias = application.weight, application.bias
        before = weight.double().reshape(application.groups, -1, weight[0].numel()).mT
        moments = _Moments.of(self._rows(application, wanted, generator))
        shifts = bias is not None or running_mean is not None
        covariance, cross = moments.central() if shifts else (moments.xx, moments.xy)
        spread = covariance.diagonal(dim1=1, dim2=2).mean(1)
        # Of what is constant nothing can be learnt but a mean: these weights stay as they are.
        constant = (spread <= ROUNDING * moments.xx.diagonal(dim1=1, dim2=2).mean(1))[:, None, None]
        covariance, cross = covariance.masked_fill(constant, 0), cross.masked_fill(constant, 0)
        ridge = torch.where(constant[:, 0, 0], 1, self.ridge * spread)
        left = covariance + ridge[:, None, None] * torch.eye(covariance.shape[1]).to(covariance)
        after = before + torch.linalg.solve(left, cross - covariance @ before)
        weight.copy_(after.mT.reshape(weight.shape))
        if shifts:
            mean = (moments.y - torch.einsum("gi,gio->go", moments.x, after)).reshape(-1)
            if bias is not None:
                bias.copy_(mean)
            elif running_mean is not None:
                running_mean.sub_(mean)

    def _rows(
        self, application: Application, wanted: Float[Tensor, "rows outputs"], generator: torch.Generator
    ) -> Iterator[Rows]:
        """Yield the equations in pieces: what the weight multiplies, and what should come of it."""
        num_entries = application.weight[0].numel()
        num_samples = len(application.inputs)
        share = min(1.0, max(self.num_places, 4 * num_entries) / len(wanted))
        per_sample = len(wanted) // num_samples
        step = max(1, CHUNK // (per_sample * application.groups * num_entries))
        for start in range(0, num_samples, step):
            num_rows = min(step, num_samples - start) * per_sample
            results = wanted[start * per_sample :][:num_rows].reshape(num_rows, application.groups, -1)
            drawn = torch.randperm(num_rows, generator=generator)[: math.ceil(share * num_rows)]
            patches = application.patches_at(slice(start, start + step), drawn)
            yield patches.double(), results[drawn.to(results.device)].double()


def _first(samples: Sequence[Batch], num: int) -> tuple[Tensor, ...]:
    """Return the inputs of the first samples in one batch."""
    found, left = list[tuple[Tensor, ...]](), num
    for given, _ in samples:
        found.append(tuple(tensor[:left] for tensor in as_tuple(given)))
        left -= len(found[-1][0])
        if left <= 0:
            break
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moments:
    """Means over all equations, group by group."""

    x: Float64[Tensor, "groups entries"]
    y: Float64[Tensor, "groups outputs"]
    xx: Float64[Tensor, "groups entries entries"]
    xy: Float64[Tensor, "groups entries outputs"]

    @staticmethod
    def of(pieces: Iterator[Rows]) -> "_Moments":
        total: list[Tensor] = []
        num_rows = 0
        for x, y in pieces:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
            found = [x.sum(1), y.sum(1), x.mT @ x, x.mT @ y]
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
            num_rows += x.shape[1]
        x, y, xx, xy = (part / num_rows for part in total)
        return _Moments(x=x, y=y, xx=xx, xy=xy)

    def central(self) -> tuple[Float64[Tensor, "groups entries entries"], Float64[Tensor, "groups entries outputs"]]:
        """Return the covariance of x and that of x with y."""
        return self.xx - self.x[:, :, None] * self.x[:, None], self.xy - self.x[:, :, None] * self.y[:, None]
