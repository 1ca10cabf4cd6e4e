"""Runs that are killed at their writes, interrupted, cramped, or damaged lose nothing finished, and end as undisturbed.

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


def deterministic(contents: dict[str, str]) -> dict[str, str]:
    return {name: contents[name] for name in DETERMINISTIC}


def test_it_was_killed_as_often_as_asked_in_the_midst_of_writes(seen: dict[str, Any]) -> None:
    assert seen["undisturbed"] == 0
    assert seen["events"] > 50
    assert seen["killed"]["ends"].count(-signal.SIGKILL) == KILLS
    assert set(seen["killed"]["ends"]) <= {-signal.SIGKILL, 0}


def test_no_kill_left_a_finished_step_half_written(seen: dict[str, Any]) -> None:
    assert seen["killed"]["half_written"] == 0
    assert seen["left_over"] == []


def test_the_run_after_the_kills_is_the_undisturbed_one(seen: dict[str, Any]) -> None:
    assert (seen["after_kills"], seen["verified"]) == (0, 0)
    assert seen["contents"].keys() == seen["reference"].keys()
    assert deterministic(seen["contents"]) == deterministic(seen["reference"])


def test_an_interruption_exits_with_2_and_says_that_it_resumes(seen: dict[str, Any]) -> None:
    code, said = seen["interrupted"]
    assert code == 2, said
    assert "finished steps are kept" in " ".join(said.split())


def test_of_two_processes_in_one_folder_the_second_is_refused_and_the_first_undisturbed(seen: dict[str, Any]) -> None:
    code, said = seen["shared"]["second"]
    assert code == 2, said
    assert "another run writing there" in " ".join(said.split())
    assert seen["shared"]["first"] == 0
    assert deterministic(seen["shared"]["contents"]) == deterministic(seen["reference"])


def test_beyond_a_limit_on_files_it_exits_with_2_says_so_and_keeps_whole_steps(seen: dict[str, Any]) -> None:
    for code, said, half_written in seen["limits"]:
        assert code == 2, said
        assert "File too large" in " ".join(said.split()) or "space" in said
        assert "Traceback" not in said
        assert not half_written


def test_on_a_full_disk_it_exits_with_2_says_so_and_goes_on_where_there_is_space(seen: dict[str, Any]) -> None:
    full = seen["full"]
    if "impossible" in full:
        pytest.skip(f"no small file system: {full['impossible']}")
    *cramped, (code, said, states) = full["ends"]
    for small, told, kept in cramped:
        assert small == 2, told
        assert "No space left on device" in " ".join(told.split())
        assert "Traceback" not in told
        assert "half written" not in kept
    assert code == 0, said
    assert "half written" not in states
    assert full["left_over"] == []
    assert deterministic(full["contents"]) == deterministic(seen["reference"])


def test_damaged_files_are_named_and_their_steps_done_again(seen: dict[str, Any]) -> None:
    assert [Path(path).parts[1].split("-")[0] for path in sorted(seen["damaged"])] == ["build", "export", "prune"]
    assert (seen["mended"], seen["mended_verified"]) == (0, 0)
    assert deterministic(seen["mended_contents"]) == deterministic(seen["reference"])
