"""One code for TensorRT 10.13 and 11: every name that it uses is in the bindings of both, none that 11 removed."""

import ast
import inspect
import json
from pathlib import Path

import pytest

from secateur.backends import tensorrt, tensorrt_engine, tensorrt_log, tensorrt_progress

VERSIONS: dict[str, dict[str, frozenset[str]]] = {
    version: {name: frozenset(told.split()) for name, told in classes.items()}
    for version, classes in json.loads(Path(__file__).with_name("tensorrt_interface.json").read_text()).items()
}
"""Public names by version and class, "" for the module itself, as tests/support/tensorrt_interface.py reads them."""
MODULES = (tensorrt, tensorrt_engine, tensorrt_log, tensorrt_progress)
OWNERS = {
    "trt": "", "_trt": "", "builder": "Builder", "config": "IBuilderConfig", "profile": "IOptimizationProfile",
    "parser": "OnnxParser", "_runtime": "Runtime", "_engine": "ICudaEngine", "_context": "IExecutionContext",
    "refitter": "Refitter", "weights": "OnnxParserRefitter", "inspector": "EngineInspector", "error": "ParserError",
}  # fmt: skip
"""What the code calls an object, and what it is."""
ASKED_FOR_FIRST = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
"""Names that the code takes only where they are there: TensorRT for RTX has them."""


def called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def used() -> set[tuple[str, str]]:
    """Return (class, name) of everything that the code takes from TensorRT."""
    found = {("BuilderFlag", flag) for flag in tensorrt.FLAGS.values()}
    for module in MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                if isinstance(node.value, ast.Attribute) and called(node.value.value) in ("trt", "_trt"):
                    found.add((node.value.attr, node.attr))
                elif called(node.value) in OWNERS and not node.attr.startswith("__"):
                    found.add((OWNERS[called(node.value)], node.attr))
            elif isinstance(node, ast.Call) and called(node.func) == "getattr":
                owner, name = node.args[:2]
                if called(owner) == "trt":
                    found.add(("", ast.literal_eval(name)))
                elif isinstance(owner, ast.Attribute) and called(owner.value) == "trt":
                    found.add((owner.attr, ast.literal_eval(name)))
    return {(owner, name) for owner, name in found if name not in ASKED_FOR_FIRST}


def test_the_search_finds_what_is_known_to_be_used() -> None:
    assert {
        ("", "OnnxParser"), ("BuilderFlag", "TF32"), ("BuilderFlag", "STRIP_PLAN"), ("Builder", "create_network"),
        ("IBuilderConfig", "builder_optimization_level"), ("IExecutionContext", "execute_async_v3"),
        ("MemoryPoolType", "WORKSPACE"), ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("OnnxParserRefitter", "refit_from_file"), ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_engine_inspector"), ("IOptimizationProfile", "set_shape"),
    } <= used()  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_used_is_there(version: str) -> None:
    absent = {f"{owner}.{name}" for owner, name in used() if name not in VERSIONS[version][owner]}
    assert not absent


def test_no_string_names_what_11_removed() -> None:
    """Names may be looked up by strings too; what 11 removed must not be among these either."""
    old, new = (VERSIONS[version] for version in sorted(VERSIONS))
    removed = frozenset().union(*(old[owner] - new[owner] for owner in old))
    assert {
        "FP16",
        "INT8",
        "EXPLICIT_BATCH",
        "int8_calibrator",
        "platform_has_fast_fp16",
        "QuantizationFlag",
    } <= removed
    strings = {
        node.value
        for module in MODULES
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not strings & removed


def test_rtx_has_the_interface_as_well() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'secateur[rtx]'")
    lacking = {"HardwareCompatibilityLevel"}  # asked for first; refused with its reason where it is not there
    owners = {owner: trt if owner == "" else getattr(trt, owner, None) for owner, _ in used()}
    assert {
        f"{owner}.{name}" for owner, name in used() - {("", "HardwareCompatibilityLevel")}
        if owner not in lacking and not hasattr(owners[owner], name)
    } == set()  # fmt: skip
