"""Files from elsewhere: readers refuse with SecateurError, run nothing, read nothing beside, and are not exhausted."""

import importlib.util
import io
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from external import weights_beside
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.backends.onnx_file import random_inputs, read_inputs, read_whole
from secateur.errors import BackendError, LoadError, RecipeError, SecateurError, StorageError
from secateur.pipeline.structure import load
from secateur.pipeline.structure.plan import Plan
from secateur.recipe_file import read_policy, read_recipe
from secateur.storage import read

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_readers", ROOT / "benchmarks" / "fuzz_readers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_readers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["recipe", "policy", "plan", "manifest"])
def test_damaged_and_hostile_files_are_read_or_refused(fuzzer: ModuleType, tmp_path: Path, name: str) -> None:
    reader = fuzzer.readers(tmp_path)[name]
    ends, crashes, _ = fuzzer.fuzz(reader, range(40), seed=1, folder=tmp_path)
    assert crashes == []
    assert ends.total() == 40
    assert set(ends) & {"RecipeError", "LoadError", "StorageError"}


def test_unknown_keys_that_look_like_parts_of_the_schema_are_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    for key in ("ga[tes", "Call", "literal"):
        path.write_text(json.dumps({"gates": [{"quantity": "speedup", "at_least": 1}], key: 1}))
        with pytest.raises(RecipeError, match="unknown key"):
            read_policy(path)


@given(content=st.binary(max_size=300))
@example(content=b"0: 1\nname: a")
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    for reader in (read_recipe, read_policy, Plan.load, read_inputs):
        with pytest.raises(SecateurError):
            reader(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates: &a [*a]", "entries without end"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + "\n".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]" for i in range(1, 20)
        ), "entries without end"),
        ("gates: " + "[" * 3000, "cannot be read"),
        ("gates: 2001-99-99", "cannot be read"),
        ("gates: !!timestamp x", "cannot be read"),
        ("gates: !!bool x", "cannot be read"),
        ("gates: " + "9" * 5000, "cannot be read"),
        ("gates: !!python/object/apply:os.system [id]", "cannot be read"),
        ("x" * (1 << 20), "1,048,576"),
    ],
    ids=["itself", "laughs", "nested", "date", "timestamp", "bool", "digits", "python", "large"],
)  # fmt: skip
def test_bombs_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text + " ")
    with pytest.raises(RecipeError, match=message):
        read_policy(path)


def test_plans_of_impossible_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for content in ({"kept": {"a": [1 << 70]}}, {"kept": {"a": [-1]}}):
        path.write_text(json.dumps({"format": 1, "fingerprint": "f", **content}))
        with pytest.raises(LoadError):
            Plan.load(path)
    with path.open("wb") as file:
        file.truncate(1 << 27)  # takes no space on the disk
    with pytest.raises(StorageError, match="at most 67,108,864"):
        Plan.load(path)
    with pytest.raises(StorageError, match="134,217,728 bytes"):
        read(path, 1000)


def test_weights_come_from_the_files_own_folder_only(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.bin").symlink_to(secret)
    for location in ("../secret.bin", str(secret), "link.bin", "a/../../secret.bin", "/dev/zero", ""):
        with pytest.raises(BackendError, match=r"net\.onnx"):
            read_whole(weights_beside(inside, location))
    (inside / "own.bin").write_bytes(secret.read_bytes())
    assert read_whole(weights_beside(inside, "own.bin")).content


def test_inputs_of_impossible_size_are_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, ["n", 1 << 40])], [value("y", 1, None)]
    )
    path = tmp_path / "large.onnx"
    onnx.save(onnx.helper.make_model(graph, ir_version=10), path)
    with pytest.raises(BackendError, match="at most 1,073,741,824 numbers"):
        random_inputs(read_inputs(path), 1, seed=0)


class Exploding:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('a pickle ran code')",)


def test_checkpoints_that_are_pickles_run_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": Exploding()}, buffer)
    for content in (pickle.dumps(Exploding()), buffer.getvalue()):
        for file in ("model.safetensors", "model.json"):
            (tmp_path / file).write_bytes(content)
        with pytest.raises(LoadError):
            load(nn.Linear(2, 2), tmp_path)
