"""A sweep makes one run a share, leaves out what cannot be reached, and goes on where it was."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import write_tiny

from secateur.errors import BackendError, RecipeError
from secateur.manifest import read_manifest
from secateur.recipe import Recipe
from secateur.recipe_file import read_recipe
from secateur.sweep import Sweep, sweep, swept
from secateur.verify import verify


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return read_recipe(write_tiny(tmp_path, "sweptnet"), [f"folder={tmp_path / 'runs'}"])


@pytest.mark.parametrize("kind", ["macs", "parameters", "bytes", "latency"])
def test_the_kind_of_budget_stays_and_its_share_is_replaced(recipe: Recipe, kind: str) -> None:
    budget = recipe.prune.model_copy(update={"macs": None, kind: 0.6})
    found = swept(recipe.model_copy(update={"prune": budget}), [0.7, 0.35])
    assert [one.prune.budget for one in found] == [(kind, 0.7), (kind, 0.35)]
    assert [one.folder / one.name for one in found] == [
        recipe.folder / "tiny-sweep" / "keep-0.7", recipe.folder / "tiny-sweep" / "keep-0.35",
    ]  # fmt: skip
    same = {"name", "folder", "prune"}
    assert all(one.model_dump(exclude=same) == recipe.model_dump(exclude=same) for one in found)


@pytest.mark.parametrize(
    ("keep", "message"),
    [([], "one or more different shares"), ([0.5, 0.5], "different shares"), ([0.5, 1.5], "prune.macs = 1.5"),
     ([0.0], "prune.macs = 0.0")],
)  # fmt: skip
def test_shares_that_are_none_are_refused(recipe: Recipe, keep: list[float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        swept(recipe, keep)


def test_a_recipe_without_a_share_cannot_be_swept(recipe: Recipe) -> None:
    budget = recipe.prune.model_copy(update={"macs": None, "allowed_loss": 0.1})
    with pytest.raises(RecipeError, match="whose only budget is allowed_loss"):
        swept(recipe.model_copy(update={"prune": budget}), [0.5])


def test_a_sweep_ends_with_the_comparison_and_resumes(recipe: Recipe, tmp_path: Path) -> None:
    found = sweep(recipe, [0.7, 0.0001], beside=tmp_path)
    folder = Path(found.folder)
    assert [Path(row.run).name for row in found.compared.runs] == ["keep-0.7"]
    assert found.failed.keys() == {"keep-0.0001"}
    assert "smallest" in found.failed["keep-0.0001"]
    assert Sweep.model_validate_json((folder / "compare.json").read_text()) == found
    text = (folder / "compare.md").read_text()
    assert "| Run |" in text
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "- keep-0.0001: " in text
    assert verify(folder / "keep-0.7", parity=False).exit_code == 0
    again = sweep(recipe, [0.7], beside=tmp_path)
    assert all(stage.reused for stage in read_manifest(folder / "keep-0.7").steps)
    assert again.compared.runs == found.compared.runs


def test_without_ray_that_is_told(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"no ray .*pip install 'secateur\[ray\]'"):
        sweep(recipe, [0.7], beside=tmp_path, ray="auto")


@pytest.mark.timeout(900)
def test_a_cluster_of_two_workers_makes_the_runs(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from ray import shutdown
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        found = sweep(recipe, [0.7, 0.0001], beside=tmp_path, ray=cluster.address)
        nodes = {node["NodeID"] for node in ray_nodes()}
        assert len(nodes) == 2
    finally:
        shutdown()
        cluster.shutdown()
    assert [Path(row.run).name for row in found.compared.runs] == ["keep-0.7"]
    assert "smallest" in found.failed["keep-0.0001"]
    for row in found.compared.runs:
        assert verify(Path(row.run), parity=False).exit_code == 0


def ray_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Resources"].get("CPU", 0) > 0]
