"""A finished step is never lost, never half written, and redone only when something it depends on has changed."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import StorageError
from secateur.runs import content_hash, open_run, storage_errors

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=8,
)


def count(folder: Path) -> None:
    path = folder.parent.parent / "count"
    path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))
    (folder / "result").write_text("finished")


def saying(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "result").write_text(text) and None


def steps_run(run_folder: Path) -> int:
    return int((run_folder / "count").read_text())


@given(st.dictionaries(st.text(), JSON))
def test_hash_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    assert content_hash(value) == content_hash(dict(reversed(value.items())))


def test_a_finished_step_is_taken_from_the_folder(tmp_path: Path) -> None:
    for expected in (False, True):
        with open_run(tmp_path / "run") as run:
            step = run.step("one", {"a": 1}, (), count)
            assert step.reused is expected
            assert (step.folder / "result").read_text() == "finished"
    assert steps_run(tmp_path / "run") == 1


def test_a_changed_setting_redoes_the_step_and_what_reads_it(tmp_path: Path) -> None:
    def chain(first: int, last: int) -> list[bool]:
        with open_run(tmp_path / "run") as run:
            one = run.step("one", {"a": first}, (), saying(f"{first}"))
            two = run.step("two", {}, (one.content,), saying(f"{first} read"))
            three = run.step("three", {"a": last}, (two.content,), saying(f"{last}"))
            return [one.reused, two.reused, three.reused]

    assert chain(1, 1) == [False, False, False]
    assert chain(1, 2) == [True, True, False]
    assert chain(2, 1) == [False, False, False]
    assert chain(1, 1) == [True, True, True]


def test_a_step_done_again_brings_with_it_what_reads_it_unless_it_wrote_the_same(tmp_path: Path) -> None:
    def chain(said: str) -> list[bool]:
        with open_run(tmp_path / "run") as run:
            one = run.step("one", {}, (), saying(said))
            two = run.step("two", {}, (one.content,), saying("two"))
        shutil.rmtree(one.folder)
        return [one.reused, two.reused]

    assert chain("once") == [False, False]
    assert chain("otherwise") == [False, False]
    assert chain("otherwise") == [False, True]


def test_fresh_redoes_everything(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.step("one", {}, (), count)
    with open_run(tmp_path / "run", fresh=True) as run:
        assert not run.step("one", {}, (), count).reused
    assert steps_run(tmp_path / "run") == 2


def test_a_failed_step_keeps_what_it_can_resume_from(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "checkpoint").write_text("half way")
        raise ValueError("broken")

    def resumes(folder: Path) -> None:
        assert (folder / "checkpoint").read_text() == "half way"

    with open_run(tmp_path / "run") as run:
        run.step("before", {}, (), count)
        with pytest.raises(ValueError, match="broken"):
            run.step("one", {}, (), fails)
    with open_run(tmp_path / "run") as run:
        assert run.step("before", {}, (), count).reused
        assert not run.step("one", {}, (), resumes).reused


def _killed(folder: Path) -> None:
    with open_run(folder) as run:
        run.step("one", {}, (), count)

        def hang(partial: Path) -> None:
            (partial / "started").write_text("")
            time.sleep(60)

        run.step("two", {}, (), hang)


def test_kill_loses_nothing_finished(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path / "run",))
    process.start()
    for _ in range(600):
        if list((tmp_path / "run" / "partial").glob("*/started")):
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with open_run(tmp_path / "run") as run:
        assert run.step("one", {}, (), count).reused
        assert not run.step("two", {}, (), count).reused


def test_a_damaged_record_is_redone(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        step = run.step("one", {}, (), count)
    (step.folder / "step.json").write_text("{")
    with open_run(tmp_path / "run") as run:
        assert not run.step("one", {}, (), count).reused


def test_a_step_whose_files_were_changed_is_redone_and_says_so(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        step = run.step("one", {}, (), count)
        assert not step.damaged
    (step.folder / "result").write_text("altered")
    with open_run(tmp_path / "run") as run:
        again = run.step("one", {}, (), count)
    assert (again.reused, again.damaged) == (False, True)
    assert (again.folder / "result").read_text() == "finished"


def test_what_a_kill_left_half_written_is_swept_away(tmp_path: Path) -> None:
    def leaves(folder: Path) -> None:
        (folder / "checkpoint").mkdir()
        for name in (".result.x1", "checkpoint/state.part", "checkpoint/state"):
            (folder / name).write_text("half")
        raise ValueError("killed")

    with open_run(tmp_path / "run") as run, pytest.raises(ValueError, match="killed"):
        run.step("one", {}, (), leaves)
    (tmp_path / "run" / ".report.html.x2").write_text("half")
    with open_run(tmp_path / "run") as run:
        step = run.step("one", {}, (), count)
    assert sorted(p.name for p in step.folder.rglob("*")) == ["checkpoint", "result", "state", "step.json"]
    assert not list((tmp_path / "run").glob(".*"))


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "run"),
        pytest.raises(StorageError, match="another run writing there"),
        open_run(tmp_path / "run"),
    ):
        pytest.fail("the lock did not hold")


def test_steps_are_listed_in_order_with_what_they_were_made_with(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        for name in ("one", "two"):
            run.step(name, {}, (), count)
    assert [step.record.name for step in run.steps] == ["one", "two"]
    assert all(step.record.distributions["pydantic"] == pydantic.VERSION for step in run.steps)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:868] . PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_a_full_disk_is_a_storage_error(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"No space left.*Free some space"), storage_errors(tmp_path):
        raise error


def test_limits_on_files_and_storage_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"File too large.*ulimit"), storage_errors(tmp_path):
        raise OSError(errno.EFBIG, "File too large")
    with pytest.raises(StorageError, match=r"Free it\.$"), storage_errors(tmp_path):
        raise StorageError("here", "File too large", "space", "Free it.")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "No such file", "image.png")


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StorageError, match="--set folder=PATH"), open_run(tmp_path / "run"):
        pytest.fail("the file was not noticed")
