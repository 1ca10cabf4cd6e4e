"""Reading recipes and policies: YAML in, frozen objects out, or an error that names line, key and what is allowed."""

import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from secateur.errors import RecipeError
from secateur.recipe import Policy, Recipe

S = TypeVar("S", bound=BaseModel)

MOST_BYTES = 1 << 20
MOST_ENTRIES, DEEPEST = 100_000, 64
"""What a recipe may hold once its references are followed; more is no recipe but an attempt to exhaust memory."""
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_QUOTED = re.compile(r"'([^']*)'")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    ``${NAME}`` in a text stands for the environment variable of that name.

    Args:
        path: the YAML file.
        overrides: ``dotted.key=value`` strings, the value read as YAML; they win over the file.

    Raises:
        RecipeError: no such file, no YAML, an unknown key, a value that is not allowed.
    """
    values, root = _parsed(
        path, "a recipe", "name, model, data, task and prune", "Check the path, or write a first recipe with "
        "`secateur init`.",
    )  # fmt: skip
    for override in overrides:
        _override(values, override)
    return validate_recipe(_expanded(values, str(path)), str(path), root)


def read_policy(path: Path) -> Policy:
    """Read and validate a policy, as `read_recipe` does a recipe; raises `RecipeError`."""
    values, root = _parsed(path, "a policy", "gates", "Check the path; docs/release.md shows a policy.")
    return _validated(
        Policy, _expanded(values, str(path)), str(path), root, "A policy has a list of gates, written as in a recipe."
    )


def _parsed(path: Path, what: str, keys: str, remedy: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """Return a YAML file's mapping and its nodes, which know their lines."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecipeError(str(path), f"{path.stat().st_size:,} bytes", f"at most {MOST_BYTES:,}", "Check the path.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(str(path), f"no readable file ({error.strerror})", f"{what} in YAML", remedy) from error
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), "a file that is not text", f"{what} in YAML (UTF-8)", "Check the path.") from error
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        twice = _twice(root)  # before merge keys are followed, which may name a key again
        values = None if root is None else loader.construct_document(root)
    except Exception as error:  # PyYAML raises whatever its conversions do: dates that are none, numbers too long, tags
        raise RecipeError(
            str(path), f"YAML that cannot be read: {' '.join(str(error).split())}", "valid YAML",
            "Look at the indentation and the colons of that line.",
        ) from error  # fmt: skip
    if not isinstance(values, dict):
        raise RecipeError(str(path), f"{type(values).__name__} at the top", f"a mapping with {keys}", remedy)
    if twice:
        raise RecipeError(str(path), f"{twice} twice", "each key once", "Put what belongs to it under one of them.")
    if odd := [key for key in values if not isinstance(key, str)]:
        raise RecipeError(str(path), f"the key {odd[0]!r} at the top", f"a mapping with {keys}", remedy)
    return values, root


def _twice(root: yaml.Node | None) -> str:
    """Tell which key a mapping has more than once, with its line; of these YAML would take the last in silence."""
    left, seen = [root], set[int]()
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                left.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    return f"key {key.value} (lines {lines[name]} and {line})"
                lines[name] = line
    return ""


def validate_recipe(values: dict[str, Any], where: str, root: yaml.Node | None = None) -> Recipe:
    """Validate the values of a recipe; ``root`` gives the lines of the file they were read from."""
    return _validated(Recipe, values, where, root, "`secateur schema` prints every key with its meaning.")


def _validated(model: type[S], values: dict[str, Any], where: str, root: yaml.Node | None, remedy: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found, wanted = _explain(error, model, root)
        raise RecipeError(where, found, wanted, remedy) from error


def recipe_schema() -> str:
    """Return the JSON Schema of recipes, for editors that complete and check YAML."""
    schema = Recipe.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _expanded(value: Any, where: str, left: Iterator[int] | None = None, depth: int = 0) -> Any:
    """Replace ``${NAME}`` in every text by the environment variable of that name."""
    left = iter(range(MOST_ENTRIES)) if left is None else left
    if next(left, None) is None or depth > DEEPEST:
        raise RecipeError(
            where, "entries without end", f"at most {MOST_ENTRIES:,} entries, {DEEPEST} within one another",
            "Take out references (*name) that hold themselves or each other.",
        )  # fmt: skip
    if isinstance(value, dict):
        return {key: _expanded(below, where, left, depth + 1) for key, below in value.items()}
    if isinstance(value, list):
        return [_expanded(below, where, left, depth + 1) for below in value]
    return _VARIABLE.sub(lambda found: _variable(found[1], where), value) if isinstance(value, str) else value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise RecipeError(
            where, f"${{{name}}}, which is not set", f"an environment variable {name}",
            f"Set it, as in {name}=... secateur run {where}, or write the value into the recipe.",
        )  # fmt: skip
    return os.environ[name]


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(
            f"--set {override}", "no key=value", "a dotted key, =, a value", "For example --set prune.macs=0.5."
        )
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # see above: not only YAML's own errors
        raise RecipeError(
            f"--set {override}", f"a value that is no YAML: {text!r}", "a YAML value", "Quote it."
        ) from error
    node = values
    for part in parts[:-1]:
        below = node.setdefault(part, {})
        if isinstance(below, str) and ":" in below:  # the short form of a call: give it its long one
            below = node[part] = {"function": below}
        if not isinstance(below, dict):
            raise RecipeError(
                f"--set {override}", f"{part!r} is {below!r} in the recipe", "a section", "Set the whole key instead."
            )
        node = below
    node[parts[-1]] = value


def _explain(error: ValidationError, model: type[BaseModel], root: yaml.Node | None) -> tuple[str, str]:
    """Turn pydantic's list of problems into what was found and wanted, each with line, key and what is allowed."""
    problems: dict[str, tuple[str, str]] = {}
    for problem in error.errors():
        location = tuple(part for part in problem["loc"] if not _is_branch(part)) or problem["loc"][-1:]
        key = ".".join(str(part) for part in location) or "the file"
        line = _line(root, location)
        place = f"{key} (line {line})" if line else key
        kind, wanted = problem["type"], problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if kind == "extra_forbidden":
            allowed = sorted(_fields_at(model, location[:-1]))
            problems[place] = (f"unknown key {place}", f"one of {', '.join(allowed)}{_meant(location[-1], allowed)}")
            continue
        if kind == "missing":
            problems.setdefault(place, (f"no {key}", f"a value for {key}"))
            continue
        if kind == "literal_error":
            wanted += _meant(problem["input"], _QUOTED.findall(problem["ctx"]["expected"]))
        elif kind == "model_type":
            wanted = f"a mapping of {', '.join(sorted(_fields_at(model, location)))}"
        wanted, known = wanted[0].lower() + wanted[1:], problems.get(place, ("", ""))[1]
        if wanted not in known:
            problems[place] = (f"{place} = {problem['input']!r}", f"{known}, or {wanted}" if known else wanted)
    return "; ".join(found for found, _ in problems.values()), "; ".join(wanted for _, wanted in problems.values())


def _meant(given: Any, allowed: Sequence[str]) -> str:
    """Ask whether the name nearest to a wrong one was meant, where there is one."""
    close = difflib.get_close_matches(str(given), allowed, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_branch(part: int | str) -> bool:
    """Tell whether a part of pydantic's location names a validator or a member of a union and not a key."""
    return isinstance(part, str) and (
        "[" in part
        or part in {"Call", "CustomTask", "SignalName", "CombinedSignal"}
        or part.startswith(("literal", "function-", "lax-or-strict", "constrained-"))
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType, list, tuple):
        return [model for part in typing.get_args(annotation) for model in _models_in(part)]
    return []


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Return the keys that are allowed at a place in a file of this kind."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, str):
            models = [
                below
                for model in models
                if part in model.model_fields
                for below in _models_in(model.model_fields[part].annotation)
            ]
    return {name for model in models for name in model.model_fields}


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int | None:
    """Return the line, counted from 1, of a key in the file; None where an override or a default put it."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if match is None:
                return line
            line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
