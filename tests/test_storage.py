"""Files appear whole or not at all."""

import os
import tempfile
from pathlib import Path

import pytest

from secateur.errors import StorageError
from secateur.storage import read, sha256, write, written


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write(path, b"content")
    assert read(path) == b"content"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def interrupted() -> None:
        with written(path, b"new") as unnamed:
            assert unnamed.read_bytes() == b"new"
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert read(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_absent_files_and_blocked_folders(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent: found No such file or directory; wanted a file that can be read"):
        read(tmp_path / "absent")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"(File exists|Not a directory).*space left"):
        write(tmp_path / "file" / "x", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every write to this device fails for want of space, as the operating system does it.
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "unmade")))
    with pytest.raises(StorageError, match="x: found No space left on device"):
        write(tmp_path / "x", b"content")
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_that_of_sha256sum() -> None:
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(StorageError, match="at most 100"):
        read(Path("/dev/zero"), 100)
