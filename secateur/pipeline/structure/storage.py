"""Keep a cut network on disk without pickle, and put it back onto the class it was made from."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.artifacts import Model
from secateur.calibration.randomness import randomness_kept
from secateur.errors import LoadError, StorageError
from secateur.pipeline.structure.capture import device_of
from secateur.pipeline.structure.copying import canonical_names, copy_of, tensors
from secateur.pipeline.structure.numbers import kept_numbers, put_numbers
from secateur.pipeline.structure.resize import resized
from secateur.pipeline.structure.stand_in import VALUE, Place, StandIn, put, stand_ins

TENSORS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT = 2


def save_model(model: Model, folder: Path) -> None:
    """Write all parameters and buffers to model.safetensors, their shapes and the kept channels to model.json.

    Each file appears whole or not at all; the description carries the digest of the tensors and is written last. Raises
    StorageError where the folder cannot be written.
    """
    first = canonical_names(model.module)
    named = tensors(model.module)
    stored = {name: named[name].detach().cpu().contiguous() for name in set(first.values())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / TENSORS, lambda path: save_file({n: t.clone() for n, t in stored.items()}, path))
        description = {
            "format": FORMAT,
            "network": type(model.module).__name__,
            "sha256": _digest(folder / TENSORS),
            "shapes": {name: list(tensor.shape) for name, tensor in named.items()},
            "dtypes": {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in named.items()},
            "aliases": {name: to for name, to in first.items() if name != to},
            "kept": {name: indices.tolist() for name, indices in model.kept.items()},
            "numbers": kept_numbers(model.module),
            "stand_ins": {path: owner.place.model_dump() for path, owner in stand_ins(model.module).items()},
        }
        text = json.dumps(description, indent=1)
        _replace(folder / DESCRIPTION, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise StorageError(
            str(folder), f"{type(error).__name__}: {error}", "a folder that can be written",
            "Check the space that is left and the permissions.",
        ) from error  # fmt: skip


def load_model(folder: Path, skeleton: nn.Module, example_inputs: tuple[Tensor, ...]) -> Model:
    """Read a network that `save_model` wrote, given an uncut network of the same class; that one is left as it is.

    Tensors arrive on the skeleton's devices. Raises LoadError naming the first tensor that differs in more than its
    channels, and where files are absent, damaged or of another network.
    """
    module, description = _loaded(folder, skeleton)
    kept = {name: torch.tensor(indices, dtype=torch.int64) for name, indices in description["kept"].items()}
    _check_runs(folder, module, example_inputs)
    return Model(module=module, example_inputs=example_inputs, kept=kept)


def _loaded(folder: Path, skeleton: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Return a copy of the skeleton with the tensors that were saved, and their description."""
    description, stored = _read(folder)
    shapes = {name: tuple(shape) for name, shape in description["shapes"].items()}
    skeleton = _with_biases(_without_branches(skeleton, folder, description), shapes)
    own, first = tensors(skeleton), canonical_names(skeleton)
    aliases = description["aliases"]
    for name in [*own, *(n for n in shapes if n not in own)]:
        saved = shapes.get(name)
        if name not in own or saved is None or not _fits(skeleton, name, saved):
            raise LoadError(
                f"{folder}, tensor {name}",
                f"{_shape(saved)} saved, {_shape(own[name].shape if name in own else None)} in the skeleton",
                "a skeleton of the network that was saved, whole, and a file with no more channels than it",
                f"Build the {description['network']} as it was before it was cut.",
            )
        if aliases.get(name, name) != first[name]:
            raise LoadError(
                f"{folder}, tensor {name}", f"it shares its values with {aliases.get(name, 'no other tensor')}",
                f"{first[name]} as in the skeleton", "Tie the same parameters as when the network was saved.",
            )  # fmt: skip
    numbers = [{(path, name) for path, kept in some.items() for name in kept}
               for some in (kept_numbers(skeleton), description["numbers"])]  # fmt: skip
    if numbers[0] != numbers[1]:
        raise LoadError(
            f"{folder}, numbers that modules keep as attributes", f"{sorted(numbers[0] - numbers[1])} in the skeleton",
            f"{sorted(numbers[1] - numbers[0])} as in the network that was saved",
            f"Build the {description['network']} as it was before it was cut.",
        )  # fmt: skip
    placed = {name: tensor.to(own[name].device) for name, tensor in stored.items()}
    module = resized(skeleton, placed)
    put_numbers(module, description["numbers"])
    return module, description


def _with_biases(skeleton: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Return the skeleton with biases where it has none and the saved network does.

    Layers without a bias get one when it carries on the means of channels that were removed.
    """
    owners = dict(skeleton.named_modules(remove_duplicate=False))
    own = tensors(skeleton)
    lacking = [
        path for path, _, attribute in (name.rpartition(".") for name in shapes if name not in own)
        if attribute == "bias" and isinstance(owners.get(path), (_ConvNd, nn.Linear))
    ]  # fmt: skip
    if not lacking:
        return skeleton
    found = copy_of(skeleton, shares_parameters=True)
    for path in lacking:
        owner, weight = found.get_submodule(path), own[f"{path}.weight"]
        # Transposed convolutions have their inputs first.
        outputs = owner.out_channels if isinstance(owner, _ConvNd) else len(weight)
        owner.bias = nn.Parameter(weight.new_zeros(outputs))
    return found


def _without_branches(skeleton: nn.Module, folder: Path, description: dict[str, Any]) -> nn.Module:
    """Return the skeleton with stand-ins where the network that was saved has them; files may know of none."""
    places: dict[str, Any] = description.get("stand_ins", {})
    if not places:
        return skeleton
    result = copy_of(skeleton)
    paths = {path for path, _ in result.named_modules()}
    device = device_of(skeleton)
    for path, place in places.items():
        if path not in paths:
            raise LoadError(
                f"{folder}, module {path}", "no such module in the skeleton", "the network that was saved, whole",
                f"Build the {description['network']} as it was before it was cut.",
            )  # fmt: skip
        shape = description["shapes"].get(f"{path}.{VALUE}")
        value = None if shape is None else torch.zeros(shape, device=device)
        put(result, path, StandIn(Place.model_validate(place), value))
    return result


def save(module: nn.Module, folder: Path) -> None:
    """Write a cut network's tensors and shapes, see `save_model`; `load` puts them back onto a fresh original."""
    save_model(Model(module=module, example_inputs=()), folder)


def load(fresh: nn.Module, folder: Path) -> nn.Module:
    """Cut a freshly built original to the widths that `save` wrote and load the weights; ``fresh`` is left as it was.

    No class is ever unpickled. Raises LoadError as `load_model` does.
    """
    return _loaded(folder, fresh)[0]


def _fits(module: nn.Module, name: str, saved: tuple[int, ...]) -> bool:
    """Tell whether a saved tensor may be a cut of the one of this name: fewer channels, all else equal."""
    path, _, attribute = name.rpartition(".")
    whole = tuple(tensors(module)[name].shape)
    if len(saved) != len(whole) or any(one > two for one, two in zip(saved, whole, strict=True)):
        return False
    is_kernel = attribute == "weight" and isinstance(module.get_submodule(path), _ConvNd)
    return not is_kernel or saved[2:] == whole[2:]


def _shape(shape: Sequence[int] | None) -> str:
    return "no such tensor" if shape is None else f"shape {tuple(shape)}"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files and check that they belong together."""
    wanted = f"{TENSORS} and {DESCRIPTION} as save_model writes them"
    remedy = "Save the network again."
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        digest = _digest(folder / TENSORS)
        stored = load_file(folder / TENSORS)
    except FileNotFoundError as error:
        raise LoadError(str(folder), f"no file {error.filename}", wanted, "Check the folder.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise LoadError(str(folder), f"{type(error).__name__}: {error}", wanted, remedy) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise LoadError(str(folder / DESCRIPTION), "another format", f"format {FORMAT}", remedy)
    if description["sha256"] != digest:
        raise LoadError(str(folder / TENSORS), f"sha256 {digest}", description["sha256"], remedy)
    return description, stored


def _check_runs(folder: Path, module: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
    trial = copy_of(module, shares_parameters=True).eval()
    try:
        with torch.no_grad(), randomness_kept(device_of(trial)):
            trial(*(x.to(device_of(trial)) for x in example_inputs))
    except Exception as error:  # the network's own code fails in its own ways
        raise LoadError(
            f"{folder}, running the network", f"{type(error).__name__}: {str(error)[:300]}",
            "a network that accepts the example inputs", "Check the example inputs and the skeleton.",
        ) from error  # fmt: skip


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there once it is complete and on disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
