"""The trackers that a recipe names are made, and asked before the run; test_release sees them told of it."""

from pathlib import Path

import pytest
from tiny import write_tiny

from secateur.errors import LoadError, StorageError
from secateur.loading import importable
from secateur.recipe import Call
from secateur.recipe_file import read_recipe
from secateur.trackers import trackers


def test_what_is_no_tracker_or_cannot_keep_runs_is_refused_before_the_run(tmp_path: Path) -> None:
    recipe = read_recipe(write_tiny(tmp_path, "untrackednet"))
    with importable(tmp_path):
        with pytest.raises(LoadError, match=r"trackers\.0: untrackednet:build: found it returned Sequential"):
            trackers(recipe.model_copy(update={"trackers": [Call(function="untrackednet:build")]}))
        blocked = Call(function="secateur.report.json_lines:JsonLines", arguments={"path": str(tmp_path)})
        with pytest.raises(StorageError, match="Is a directory"):
            trackers(recipe.model_copy(update={"trackers": [blocked]}))
    assert trackers(recipe) == ()
