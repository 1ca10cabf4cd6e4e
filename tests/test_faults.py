"""Runs that are killed at their writes, cramped, or damaged lose nothing that was finished and end as if undisturbed.

SECATEUR_KILLS sets how often a run is killed, and SECATEUR_KILLS_SEED where.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parent / "support"
KILLS = int(os.environ.get("SECATEUR_KILLS", "3"))
SEED = os.environ.get("SECATEUR_KILLS_SEED", "0")
DETERMINISTIC = ("estimate", "prune", "finetune", "evaluate", "export")
"""Steps that write the same bytes whenever they are done; engines and latencies carry seconds."""

pytestmark = pytest.mark.timeout(600 + 30 * KILLS)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("killed")
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "killing.py"), str(KILLS), SEED], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + "".join(path.read_text() for path in folder.glob("*.log"))
    return json.loads((folder / "seen.json").read_text())


def test_it_was_killed_as_often_as_asked_in_the_midst_of_writes(seen: dict[str, Any]) -> None:
    assert seen["undisturbed"] == 0
    assert seen["events"] > 50
    assert seen["ends"].count(-signal.SIGKILL) == KILLS
    assert set(seen["ends"]) <= {-signal.SIGKILL, 0}


def test_no_kill_left_a_finished_step_half_written(seen: dict[str, Any]) -> None:
    assert seen["half_written"] == 0
    assert seen["left_over"] == []


def test_the_run_after_the_kills_is_the_undisturbed_one(seen: dict[str, Any]) -> None:
    assert (seen["after_kills"], seen["verified"]) == (0, 0)
    assert seen["contents"].keys() == seen["reference"].keys()
    assert {name: seen["contents"][name] for name in DETERMINISTIC} == {
        name: seen["reference"][name] for name in DETERMINISTIC
    }


def test_without_space_it_exits_with_2_says_so_and_keeps_whole_steps(seen: dict[str, Any]) -> None:
    for code, said, half_written in seen["limits"]:
        assert code == 2, said
        assert "File too large" in " ".join(said.split()) or "space" in said
        assert "Traceback" not in said
        assert not half_written


def test_damaged_files_are_named_and_their_steps_done_again(seen: dict[str, Any]) -> None:
    assert [Path(path).parts[1].split("-")[0] for path in sorted(seen["damaged"])] == ["build", "export", "prune"]
    assert (seen["mended"], seen["mended_verified"]) == (0, 0)
    assert {name: seen["mended_contents"][name] for name in DETERMINISTIC} == {
        name: seen["reference"][name] for name in DETERMINISTIC
    }
