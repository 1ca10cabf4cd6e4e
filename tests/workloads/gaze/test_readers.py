"""Readers of eye-tracking sets: a tiny set written here, every way it can be damaged, and the real sets."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.errors import DataError
from secateur.workloads.gaze import eyecrowd, osie, scene500
from secateur.workloads.gaze.readers import read_fixation_set
from secateur.workloads.gaze.recording import split_pictures


def write_set(folder: Path, num_pictures: int = 10, **changes) -> Path:
    """Write a set: picture i, 40 x 30 pixels (80 x 60 originally), one red pixel block, fixations on the block."""
    (folder / "images").mkdir(parents=True)
    names = np.array([f"{i}.webp" for i in range(num_pictures)])
    for i, name in enumerate(names):
        pixels = np.zeros((30, 40, 3), dtype=np.uint8)
        pixels[5:10, 2 * i : 2 * i + 5, 0] = 255
        Image.fromarray(pixels).save(folder / "images" / name, lossless=True)
    columns = {
        "image": np.repeat(np.arange(num_pictures, dtype=np.uint16), 3),
        "order": np.tile(np.array([0, 1, 2], dtype=np.uint8), num_pictures),
        "x": np.repeat(4 * np.arange(num_pictures) + 5.0, 3).astype(np.float32),
        "y": np.full(3 * num_pictures, 15.0, dtype=np.float32),
        "orig_wh": np.tile(np.array([[80, 60]], dtype=np.uint16), (num_pictures, 1)),
        "names": names,
    }
    columns.update(changes)
    np.savez(folder / "fixations.npz", **{key: value for key, value in columns.items() if value is not None})
    return folder


def test_fixations_fall_where_the_picture_shows_them(tmp_path):
    data = osie(write_set(tmp_path / "set"), mirror=True)
    assert (len(data.train), len(data.calibration), len(data.test)) == (14, 7, 2)
    for picture, counts in [data.train[0], data.train[7], data.test[1]]:
        assert picture.shape == (3, 192, 256)
        assert counts.sum() == 2  # the first of three fixations is dropped
        row, column = np.unravel_index(int(counts.argmax()), counts.shape)
        assert picture[0, 4 * row + 2, 4 * column + 2] > 0.9
    assert torch.equal(data.train[0][0], data.train[7][0].flip(-1))


def test_first_fixations_and_those_outside_are_dropped(tmp_path):
    x = np.tile(np.array([3.0, 80.0, 79.9], dtype=np.float32), 10)
    y = np.tile(np.array([3.0, 3.0, 59.9], dtype=np.float32), 10)
    counts = read_fixation_set(write_set(tmp_path / "set", x=x, y=y)).counts
    assert counts.sum(axis=(1, 2)).tolist() == [1] * 10
    assert (counts[:, 47, 63] == 1).all()


def test_not_finite_coordinates_are_outside(tmp_path):
    x = np.tile(np.array([3.0, np.nan, 40.0], dtype=np.float32), 10)
    assert read_fixation_set(write_set(tmp_path / "set", x=x)).counts.sum() == 10


def test_split_is_a_partition_that_the_seed_decides():
    split = split_pictures(700)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [490, 70, 140]
    together = np.sort(np.concatenate([split.train, split.validation, split.test]))
    assert together.tolist() == list(range(700))
    assert split_pictures(700).test.tolist() == split.test.tolist()
    assert split_pictures(700, seed=1).test.tolist() != split.test.tolist()


def test_pictures_are_decoded_once_and_lazily(tmp_path):
    folder = write_set(tmp_path / "set")
    data = osie(folder)
    before = data.test[0][0]
    assert len(data.test.picture.decoded) == 1
    shutil.rmtree(folder / "images")
    assert torch.equal(data.test[0][0], before)


def test_the_fingerprint_follows_content_and_settings(tmp_path):
    folder = write_set(tmp_path / "set")
    prints = {
        osie(folder).fingerprint,
        osie(folder, seed=1).fingerprint,
        osie(folder, mirror=False).fingerprint,
        osie(write_set(tmp_path / "other", y=np.full(30, 20.0, dtype=np.float32))).fingerprint,
    }
    assert len(prints) == 4
    assert osie(folder).fingerprint in prints


def test_a_missing_folder_says_what_to_set(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"found no such folder; wanted a folder with images/\*\.webp and fix"):
        osie(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found no fixations\.npz; .* set SECATEUR_DATA"):
        eyecrowd(tmp_path / "empty")
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    with pytest.raises(DataError, match=r"data set gaze_scene500: found neither a folder nor .* SECATEUR_DATA"):
        scene500()


def test_the_environment_names_the_folder_of_all_sets(tmp_path, monkeypatch):
    write_set(tmp_path / "gaze_scene500")
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    assert len(scene500().test) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, r"found an unreadable archive \(.*x.*\); wanted arrays image, order, x, y, orig_wh, names"),
        ({"x": np.zeros(7, dtype=np.float32)}, r"found arrays of lengths \[30, 30, 7, 30, 10, 10\]"),
        ({"orig_wh": np.zeros((10, 2), dtype=np.uint16)}, "found arrays of lengths"),
        ({"image": np.full(30, 10, dtype=np.uint16)}, "found a fixation on picture 10; wanted an index below 10"),
        ({"image": np.full(30, 4, dtype=np.uint16)}, r"found no fixation inside picture 0\.webp"),
        ({"names": np.array([f"{i}.png" for i in range(10)])}, r"found 10 missing pictures, the first 0\.png"),
    ],
)  # fmt: skip
def test_damaged_fixations_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        osie(write_set(tmp_path / "set", **changes))


@pytest.mark.parametrize("keep_bytes", [0, 100, 2000])
def test_a_truncated_archive_is_unreadable(tmp_path, keep_bytes):
    folder = write_set(tmp_path / "set")
    archive = folder / "fixations.npz"
    archive.write_bytes(archive.read_bytes()[:keep_bytes])
    with pytest.raises(DataError, match=r"fixations\.npz: found an unreadable archive .* Fetch the data set again"):
        osie(folder)


def test_a_set_without_pictures_is_no_set(tmp_path):
    nothing = {key: np.zeros(0, dtype=np.uint16) for key in ("image", "order", "x", "y")}
    folder = write_set(tmp_path / "set", num_pictures=0, **nothing, orig_wh=np.zeros((0, 2)), names=np.zeros(0, "<U1"))
    with pytest.raises(DataError, match="found no pictures"):
        osie(folder)


def test_a_damaged_picture_is_named_when_it_is_read(tmp_path):
    folder = write_set(tmp_path / "set")
    data = osie(folder)
    broken = data.test.picture.files[data.test.indices[0]]
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{broken.name}: found an unreadable picture .* that Pillow can decode"):
        data.test[0]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("read", "folder", "sizes", "stated_nss"),
    [
        (osie, "gaze_osie", (490, 140), 0.84),
        (eyecrowd, "gaze_eyecrowd", (350, 100), 1.06),
        (scene500, "gaze_scene500", (350, 100), 1.17),
    ],
)
def test_the_real_sets_read_and_their_centre_bias_scores_as_stated(shared_data, read, folder, sizes, stated_nss):
    data = read(shared_data / folder, mirror=False)
    assert (len(data.train), len(data.test)) == sizes
    picture, counts = data.test[3]
    assert picture.std() > 0.05
    assert counts.sum() > 20
    # Stated for another choice of pictures and another fit.
    assert data.facts["centre_bias_nss"] == pytest.approx(stated_nss, abs=0.2)
    assert 0.65 < data.facts["centre_bias_auc"] < 0.85
