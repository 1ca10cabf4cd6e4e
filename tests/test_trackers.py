"""The trackers that a recipe names are made, asked first, and told of the finished run."""

import json
from pathlib import Path

import pytest
from tiny import run_tiny, write_tiny

from secateur.errors import LoadError, StorageError
from secateur.loading import importable
from secateur.manifest import read_manifest
from secateur.recipe import Call
from secateur.recipe_file import read_recipe
from secateur.trackers import trackers


def test_a_finished_run_is_told_to_the_recipes_trackers(tmp_path: Path) -> None:
    lines = tmp_path / "runs.jsonl"
    named = Call(function="secateur.report.json_lines:JsonLines", arguments={"path": str(lines)})
    for _ in range(2):
        folder = run_tiny(tmp_path, "trackednet", trackers=[named])
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["run"] for line in told] == [str(folder)] * 2
    assert told[0]["figures"]["mac_ratio"] > 1.5
    assert all(stage.reused for stage in read_manifest(folder).steps), "trackers change nothing that was computed"


def test_what_is_no_tracker_or_cannot_keep_runs_is_refused_before_the_run(tmp_path: Path) -> None:
    recipe = read_recipe(write_tiny(tmp_path, "untrackednet"))
    with importable(tmp_path):
        with pytest.raises(LoadError, match=r"trackers\.0: untrackednet:build: found it returned Sequential"):
            trackers(recipe.model_copy(update={"trackers": [Call(function="untrackednet:build")]}))
        blocked = Call(function="secateur.report.json_lines:JsonLines", arguments={"path": str(tmp_path)})
        with pytest.raises(StorageError, match="Is a directory"):
            trackers(recipe.model_copy(update={"trackers": [blocked]}))
    assert trackers(recipe) == ()
