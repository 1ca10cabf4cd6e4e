"""Feed damaged and hostile files to the readers of recipes, policies, plans and manifests.

    python benchmarks/fuzz_readers.py [--inputs 100000] [--seed 0] [--most-s 300] [--results FILE]

Every reader is given so many inputs, in pieces: the results are written after each, and the same command goes on from
there, for ``--most-s`` seconds at most. Every input is a valid file with a few changes: bytes flipped, cut out,
repeated and spliced, values replaced by hostile ones (huge numbers, wrong types, references to themselves, deep
nesting, tags that name Python objects), keys renamed. Whatever it is, a reader may return or raise SecateurError, and
nothing else; it may not import a module.
"""

import argparse
import contextlib
import copy
import functools
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import SecateurError
from secateur.manifest import MANIFEST, Artefact, Link, Manifest, Origin, read_manifest, write_manifest
from secateur.pipeline.structure.plan import Plan
from secateur.provenance import commit
from secateur.recipe_file import read_policy, read_recipe
from secateur.recipe_template import write_template
from secateur.storage import sha256, write

HOSTILE: tuple[str, ...] = (
    "1e999", "-1e999", ".nan", "NaN", "9" * 5000, "0x" + "f" * 400, "null", "~", "[]", "{}", '""', "true", "'\\0'",
    "!!python/object/apply:os.system [id]", "!!python/name:os.system", "!!binary aGVsbG8=", "!!timestamp 2001-99-99",
    "2001-99-99", "1:2:3:4:5", "&a [*a]", "&a {k: *a}", "*nowhere", "<<: {a: 1}", "? [1, 2]\n: 3", "${HOME}",
    "${NO_VAR}",
    "\ud7ff\uffff", "\u202e", "\x00", "[" * 2000, "{a: " * 500, "- " * 800, '{"a":' * 900, "../../etc/passwd",
    "/dev/zero", "os:system", "subprocess:run", "1" * 30 + ".0", "0b102", "0o9", "1__0", "12e03", "=", "|", ">",
    "%TAG ! x",
)  # fmt: skip

PIECE = 2_500
"""Inputs between two times that the results are written."""
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
DIGEST = re.compile(rb'"digest": "[0-9a-f]*"')
POLICY = "gates:\n  - {quantity: speedup, at_least: 1.5}\n  - {quantity: top1_drop, at_most: 0.01}\n"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader, the name its file has, and valid files."""

    read: Callable[[Path], object]
    name: str
    seeds: tuple[str, ...]


def readers(folder: Path) -> dict[str, Reader]:
    """Return the readers with seeds; those of recipes are the template and the recipes beside this folder."""
    write_template(folder / "template.yaml")
    recipes = [(folder / "template.yaml").read_text()]
    recipes += [path.read_text() for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))]
    return {
        "recipe": Reader(read=read_recipe, name="recipe.yaml", seeds=tuple(recipes)),
        "policy": Reader(read=read_policy, name="policy.yaml", seeds=(POLICY,)),
        "plan": Reader(read=Plan.load, name="plan.json", seeds=(plan_seed(),)),
        "manifest": Reader(read=lambda path: read_manifest(path.parent), name=MANIFEST, seeds=(manifest_seed(),)),
    }


def plan_seed() -> str:
    """Write a plan as `Plan.save` does."""
    import torch
    from torch import nn

    from secateur.pipeline.structure import trace

    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with tempfile.TemporaryDirectory() as place:
        Plan.random(trace(module, (torch.randn(2, 4),))).save(Path(place) / "plan.json")
        return (Path(place) / "plan.json").read_text()


def manifest_seed() -> str:
    """Write a manifest as a run does."""
    sha = "ab" * 32
    manifest = Manifest(
        name="run", version="0.1.0", commit="", verdict="pass", recipe={"name": "run", "prune": {"macs": 0.5}},
        origin=Origin(model="m:f", weights_sha256=sha, data="d", data_digest=sha, fingerprint=sha), steps=(),
        lineage=(Link(what="weights", sha256=sha), Link(what="a.onnx", sha256=sha, parents=("weights",))), sbom=None,
        artefacts=(Artefact(path="report.json", sha256=sha, size_bytes=10, step=""),),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        write_manifest(Path(place), manifest)
        return (Path(place) / MANIFEST).read_text()


def changed(seed: str, draw: random.Random) -> bytes:
    """Return a seed with up to six changes."""
    text = structured(seed, draw) if draw.random() < 0.5 else seed
    for _ in range(draw.randrange(4)):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + int(draw.expovariate(1 / 12)))
        way = draw.randrange(5)
        if way == 0:
            text = text[:start] + text[end:]
        elif way == 1:
            text = text[:end] + text[start:end] * draw.randrange(1, 4) + text[end:]
        elif way == 2:
            text = text[:start] + draw.choice(HOSTILE) + text[end:]
        elif way == 3:
            text = text[:start] + draw.choice("{}[]:,&*!|>'\"%@`#?-\n\t ") + text[start:]
        else:
            other = draw.randrange(len(text) + 1)
            text = text[:start] + text[other : other + end - start] + text[end:]
    content = bytearray(text.encode("utf-8", errors="surrogatepass"))
    if content and draw.random() < 0.3:
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


@functools.cache
def parsed(seed: str) -> Any:
    return yaml.safe_load(seed)


def structured(seed: str, draw: random.Random) -> str:
    """Replace, rename, remove or wrap values within the seed's structure."""
    tree = copy.deepcopy(parsed(seed))
    for _ in range(draw.randrange(1, 4)):
        places = list(walk(tree))
        if not places:
            break
        holder, key = draw.choice(places)
        way = draw.randrange(4)
        if way == 0:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif way == 1 and isinstance(holder, dict):
            holder[draw.choice(("", "name", "macs", 7, "\u00e9", "__class__", str(key)[:-1]))] = holder.pop(key)
        elif way == 2:
            del holder[key]
        else:
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"function": holder[key]}
    return json.dumps(tree) if seed.startswith("{") else yaml.dump(tree, Dumper=DUMPER, allow_unicode=True)


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, -0.0, 1e308, float("inf"), float("nan"), "", "x" * 10_000, [], {}, [[]], {"": None},
    {"a": {"b": {"c": []}}}, "../..", "a:b", "a:b:c", ":", "${X}", list(range(50)),
)  # fmt: skip


def walk(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in items:
        yield tree, key
        yield from walk(below)


def fuzz(reader: Reader, inputs: range, seed: int, folder: Path) -> tuple[Counter[str], list[str], float]:
    """Return how inputs ended, the crashes with their inputs, and the longest seconds."""
    path, ends, crashes, longest = folder / reader.name, Counter[str](), [], 0.0
    for index in inputs:
        draw = random.Random(f"{seed}/{reader.name}/{index}")
        content = changed(draw.choice(reader.seeds), draw)
        if reader.name == MANIFEST and draw.random() < 0.8:  # let it past its digest, to what lies behind
            blank = DIGEST.sub(b'"digest": ""', content, count=1)
            content = DIGEST.sub(b'"digest": "' + sha256(blank).encode() + b'"', blank, count=1)
        path.write_bytes(content)
        before, started = len(sys.modules), time.process_time()
        try:
            reader.read(path)
            ends["read"] += 1
        except SecateurError as error:
            ends[type(error).__name__] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            crashes.append(f"{index}: {type(error).__name__}: {str(error)[:200]}")
        longest = max(longest, time.process_time() - started)
        if index > inputs.start and len(sys.modules) > before:  # the first may complete the reader itself
            crashes.append(f"{index}: imported {[*sys.modules][before:]}")
    return ends, crashes, longest


def known(path: Path, seed: int) -> dict[str, Any]:
    """Return what earlier pieces of the same seed found."""
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["seed"] == seed:
            return kept["readers"]
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-s", type=float, default=float("inf"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "fuzz_readers.json")
    arguments = parser.parse_args()
    found, started = known(arguments.results, arguments.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for name, reader in readers(Path(place)).items():
            for seed in reader.seeds:  # what readers import at their first file is there from now on
                (Path(place) / reader.name).write_text(seed)
                with contextlib.suppress(SecateurError):  # a variable that is not set here
                    reader.read(Path(place) / reader.name)
            row = found.setdefault(name, {"inputs": 0, "ends": {}, "crashes": [], "num_crashes": 0, "longest_s": 0.0})
            while row["inputs"] < arguments.inputs and time.monotonic() - started < arguments.most_s:
                piece = range(row["inputs"], min(arguments.inputs, row["inputs"] + PIECE))
                ends, crashes, longest = fuzz(reader, piece, arguments.seed, Path(place))
                row["inputs"] = piece.stop
                row["ends"] = dict(Counter(row["ends"]) + ends)
                row["crashes"] = [*row["crashes"], *crashes][:20]
                row["num_crashes"] += len(crashes)
                row["longest_s"] = max(row["longest_s"], longest)
                result = {"seed": arguments.seed, "commit": commit(), "readers": found}
                write(arguments.results, (json.dumps(result, indent=1) + "\n").encode())
            print(name, json.dumps(row), f"{time.monotonic() - started:.0f} s", flush=True)
    if any(row["num_crashes"] for row in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
