"""From the names in a recipe to what they stand for: the network, its data, its task, each checked before use."""

import contextlib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from secateur.artifacts import Data, Metric, Model, Task, as_tuple
from secateur.calibration.batches import batches, per_sample
from secateur.calibration.finite import require_finite
from secateur.errors import DataError, LoadError, SecateurError
from secateur.recipe import Call, CustomTask, Recipe
from secateur.workloads import TASKS, kullback_leibler, log_probabilities, squared_error


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The network, data and task of a recipe, the further teachers, and the hash of all that they are made of."""

    model: Model
    data: Data
    task: Task
    fingerprint: str
    teachers: tuple[Model, ...] = ()


def load(recipe: Recipe) -> Workload:
    """Resolve and check what a recipe names; call it within `importable`.

    Raises:
        LoadError: a name that does not import, a result of the wrong type, weights that are not finite, a loss or
            metric of the wrong shape.
        DataError: an empty set, or samples that the network rejects.
    """
    torch.manual_seed(recipe.seed)
    data = _as_data(call(recipe.data, "data"))
    module = _as_network(recipe.model, "model")
    task = _as_task(recipe)
    inputs, targets = next(batches(data.calibration or data.train, 2, limit=2))
    model = Model(module=module, example_inputs=as_tuple(inputs))
    _check_call(model, task, targets)
    sources = [_source(c) for c in _calls(recipe)]
    named = recipe.model_dump_json(include={"model", "data", "task", "seed"})
    parts = [named, repr(module), hash_weights(module), hash_data(data), *sources]
    teachers = []
    for place, wanted in enumerate(recipe.finetune.distillation.teachers):
        key = f"finetune.distillation.teachers.{place}"
        teachers.append(replace(model, module=_as_network(wanted, key)))
        _check_call(teachers[-1], task, targets, key)
        _require_alike(teachers[-1], model, f"{key}: {wanted.function}")
        parts += [repr(teachers[-1].module), hash_weights(teachers[-1].module)]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Workload(model=model, data=data, task=task, fingerprint=fingerprint, teachers=tuple(teachers))


def _as_network(named: Call, key: str) -> nn.Module:
    """Return the network that a recipe names, on the CPU, in eval mode, with finite weights."""
    module = call(named, key)
    if not isinstance(module, nn.Module):
        raise LoadError(
            f"{key}: {named.function}", f"it returned {type(module).__name__}", "a torch.nn.Module",
            "Return the network itself, with its trained weights loaded.",
        )  # fmt: skip
    require_finite(module, f"{key}: {named.function}")
    return module.cpu().eval()


def _require_alike(teacher: Model, model: Model, where: str) -> None:
    """Raise LoadError where a further teacher predicts something else than the network."""
    with torch.inference_mode():
        leaves = (tree_leaves(m.module(*m.example_inputs)) for m in (teacher, model))
        theirs, mine = ([tuple(leaf.shape) for leaf in found if isinstance(leaf, Tensor)] for found in leaves)
    if theirs != mine:
        raise LoadError(
            where, f"outputs of shapes {theirs}", f"{mine}, as of the network itself",
            "Name teachers of the same task and the same number of outcomes.",
        )  # fmt: skip


def call(named: Call, key: str) -> Any:
    """Import the function a recipe names and call it with the recipe's arguments."""
    function = resolve(named, key)
    try:
        inspect.signature(function).bind(**named.arguments)
    except TypeError as error:
        raise LoadError(
            f"{key}: {named.function}", f"arguments {sorted(named.arguments)} ({error})",
            f"arguments of {named.function}{inspect.signature(function)}", "Correct the recipe's arguments.",
        ) from error  # fmt: skip
    except ValueError:  # a callable written in C has no signature: calling it will tell
        return _guarded(function, named, key)
    return _guarded(function, named, key)


def _guarded(function: Callable[..., Any], named: Call, key: str) -> Any:
    try:
        return function(**named.arguments)
    except SecateurError:
        raise
    except Exception as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        place = f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
        raise LoadError(
            f"{key}: {named.function}", f"{type(error).__name__}: {error}{place}", "a call that succeeds",
            "Call the function by itself in Python and mend it.",
        ) from error  # fmt: skip


def resolve(named: Call, key: str) -> Callable[..., Any]:
    """Import the function that a recipe names."""
    module_name, _, attribute = named.function.partition(":")
    where = f"{key}: {named.function}"
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise LoadError(
            where, f"the module {module_name!r} does not import ({type(error).__name__}: {error})",
            "package.module:function that Python can import",
            "Put the module beside the recipe or into the working folder, or install its package.",
        ) from error  # fmt: skip
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
            raise LoadError(
                where, f"no {part!r} in {module_name!r}", f"one of {', '.join(sorted(public)) or 'its functions'}",
                "Correct the name after the colon.",
            )  # fmt: skip
        found = getattr(found, part)
    if not callable(found):
        raise LoadError(where, f"a {type(found).__name__}", "a function", "Name a function that returns it.")
    return found


def hash_weights(module: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _as_data(value: Any) -> Data:
    if isinstance(value, Data):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, Dataset) for part in value):
        return Data(train=value[0], test=value[1])
    raise LoadError(
        "data", f"a {type(value).__name__}", "secateur.Data, or a pair of torch data sets (train, test)",
        "Return the training and the test set; items are (inputs, target).",
    )  # fmt: skip


def _as_task(recipe: Recipe) -> Task:
    if isinstance(recipe.task, str):
        return TASKS[recipe.task]()
    if isinstance(recipe.task, Call):
        task = call(recipe.task, "task")
        if not isinstance(task, Task):
            raise LoadError(
                f"task: {recipe.task.function}", f"it returned {type(task).__name__}", "a secateur.Task",
                "Return a Task, or give loss and metrics under task.",
            )  # fmt: skip
        return task
    return _custom_task(recipe.task)


def _custom_task(settings: CustomTask) -> Task:
    named = {"squared-error": squared_error, "kullback-leibler": kullback_leibler}
    distill = (
        named[settings.distill] if isinstance(settings.distill, str) else resolve(settings.distill, "task.distill")
    )
    named_metrics = [*settings.lower_is_better, *([settings.primary] if settings.primary else [])]
    unknown = sorted(set(named_metrics) - set(settings.metrics))
    if unknown:
        raise LoadError(
            "task", f"unknown metrics {unknown}", f"names among {sorted(settings.metrics)}",
            "Correct primary and lower_is_better.",
        )  # fmt: skip
    metrics = {
        name: Metric(
            per_sample=_bind(function, f"task.metrics.{name}"), higher_is_better=name not in settings.lower_is_better
        )
        for name, function in settings.metrics.items()
    }
    return Task(
        name="custom", loss=_bind(settings.loss, "task.loss"), metrics=metrics,
        primary=settings.primary or next(iter(settings.metrics)), distill=distill,
        log_probabilities=log_probabilities if settings.distill == "kullback-leibler" else None,
    )  # fmt: skip


def _bind(named: Call, key: str) -> Callable[..., Any]:
    function = resolve(named, key)
    return lambda outputs, targets: function(outputs, targets, **named.arguments)


def _check_call(model: Model, task: Task, targets: Any, key: str = "model") -> None:
    """Call network, loss and metrics once and check their shapes."""
    shapes = ", ".join(str(tuple(x.shape)) for x in model.example_inputs)
    with torch.inference_mode():
        try:
            outputs = model.module(*model.example_inputs)
        except Exception as error:
            raise DataError(
                "data", f"samples the network rejects: a batch of shape {shapes} gives {type(error).__name__}: {error}",
                "inputs of the shape that the network takes",
                "Make the data set's items (inputs, target) with inputs as the network was trained on.",
            ) from error  # fmt: skip
        if not all(torch.isfinite(leaf).all() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)):
            raise LoadError(
                key, "NaN or infinite outputs on the first samples", "finite outputs",
                "Check the weights and the normalisation of the inputs.",
            )  # fmt: skip
        size = model.example_inputs[0].shape[0]
        functions: Mapping[str, Callable[..., Any]] = {
            "loss": per_sample(task.loss),
            **{f"metric {name}": metric.per_sample for name, metric in task.metrics.items()},
        }
        for name, function in functions.items():
            try:
                value = function(outputs, targets)
            except Exception as error:
                raise LoadError(
                    f"task {task.name}: {name}", f"{type(error).__name__}: {error}",
                    "a function of (outputs, targets)", "Check that data, network and task belong together.",
                ) from error  # fmt: skip
            if not isinstance(value, Tensor) or value.shape != (size,):
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise LoadError(
                    f"task {task.name}: {name}", f"{shape} for a batch of {size}",
                    f"a tensor of shape ({size},), one value a sample", "Do not average over the batch.",
                )  # fmt: skip


@contextlib.contextmanager
def importable(beside: Path) -> Iterator[None]:
    """Let modules in the recipe's folder and in the working folder be imported, behind everything installed."""
    added = [str(beside.resolve()), str(Path.cwd())]
    sys.path.extend(added)
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)


def _calls(recipe: Recipe) -> list[Call]:
    task = recipe.task
    if isinstance(task, CustomTask):
        own = [task.loss, *task.metrics.values(), *([task.distill] if isinstance(task.distill, Call) else [])]
        return [recipe.model, recipe.data, *own]
    return [recipe.model, recipe.data, *([task] if isinstance(task, Call) else [])]


def _source(named: Call) -> str:
    """Return the hash of the source file in which a function stands, so that an edit there is noticed."""
    path = getattr(sys.modules[named.function.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""


def hash_data(data: Data) -> str:
    """Return the data's own fingerprint, or a hash of all sizes and of the first and last test items.

    Test items are hashed because training items are usually augmented at random.
    """
    if data.fingerprint is not None:
        return data.fingerprint
    digest = hashlib.sha256()
    for dataset in (data.train, data.test, data.calibration):
        digest.update(str(len(dataset) if dataset is not None else None).encode())  # type: ignore[arg-type]
    for index in (0, len(data.test) - 1):  # type: ignore[arg-type]
        for leaf in tree_leaves(data.test[index]):
            tensor = torch.as_tensor(leaf).detach().cpu().contiguous()
            digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
