"""Imports point one way, and optional runtimes are imported only where they are used."""

import ast
from pathlib import Path

import pytest

import secateur

ROOT = Path(secateur.__file__).parent
ORDER = [
    {"errors"},
    {"artifacts", "provenance", "storage"},
    {"bfloat16", "equality", "onnx_reading"},
    {"calibration"},
    {"pipeline", "backends", "report"},
    {"workloads"},
    {"recipe_section"},
    {"backend_options", "recipe_pruning", "recipe_quantization"},
    {"deploy", "recipe_engines"},
    {"serving", "triton"},
    {"recipe"},
    {"launched", "listening", "loading", "recipe_file", "recipe_objects", "recipe_template", "runs", "sbom"},
    {"layer_precision", "manifest", "steps", "terminal"},
    {"judging", "quantization", "sealing", "trackers"},
    {"deployment"},
    {"chain", "comparing", "deploying", "verify"},
    {"check", "ray_sweep"},
    {"sweep"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
RUNTIMES = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "mlflow", "ray", "pycuda", "cuda", "av", "pynvml"}
FILES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "secateur" else {node.module}
            )
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    mine = part(path)
    if mine in {"__init__", "__main__"}:
        return
    for name in imported(path):
        if name.startswith("secateur."):
            theirs = name.split(".")[1]
            if theirs == "__version__":
                continue
            assert theirs == mine or RANK[theirs] < RANK[mine], f"{mine} imports {theirs}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_runtimes_are_imported_where_they_are_used(path: Path) -> None:
    top = {
        alias.name.split(".")[0]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not top & RUNTIMES


def test_files_stay_short() -> None:
    assert {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 320} == {}
