"""Readers of published layouts: small sets written here as they are published, and every way they can be damaged."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from secateur.errors import DataError
from secateur.workloads.gaze import combined, mit300, osie, split_set, task_of
from secateur.workloads.gaze.eye_movements import fixated_places
from secateur.workloads.gaze.readers import read_set

SIZE = (60, 80)
"""Height and width of the pictures."""


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def places(found) -> list[tuple[int, float, float]]:
    """Return the fixations as (picture, x, y), in pixels from the upper left corner."""
    fixations = found.fixations
    x, y = fixations.across * found.sizes[fixations.picture, 1], fixations.down * found.sizes[fixations.picture, 0]
    return [(int(p), round(float(a), 6), round(float(b), 6)) for p, a, b in zip(fixations.picture, x, y, strict=True)]


def write_cat2000(folder: Path) -> Path:
    for category, number, points in [("Action", 1, [(3, 5), (10, 20)]), ("Art", 1, [(59, 79)])]:
        write_picture(folder / "trainSet" / "Stimuli" / category / f"{number:03d}.jpg")
        write_picture(folder / "trainSet" / "Stimuli" / category / "Output" / f"{number:03d}_SaliencyMap.jpg")
        marks = np.zeros(SIZE, dtype=np.uint8)
        for row, column in points:
            marks[row, column] = 1
        path = folder / "trainSet" / "FIXATIONLOCS" / category / f"{number:03d}.mat"
        path.parent.mkdir(parents=True)
        savemat(path, {"fixLocs": marks})
    return folder


def write_mit1003(folder: Path) -> Path:
    """Two pictures, two viewers; each looks twice at each picture, with a saccade between, as raw x, y at 240 Hz."""
    for picture, name in enumerate(["i05june05_static", "istatic_submitted"]):
        write_picture(folder / "ALLSTIMULI" / f"{name}.jpeg", picture)
        for viewer in ("ajs", "CNG"):
            x = 10.0 * (picture + 1) + (viewer == "ajs")
            data = {"eyeData": samples((60, 50), (x, 20)), "calibrationData": np.zeros((3, 3))}
            path = folder / "DATA" / viewer / f"{name}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {name: {"DATA": data, "imgName": f"{name}.jpeg"}})
    return folder


def samples(*places, num=60, between=4, noise=0.0) -> np.ndarray:
    """Return the samples of an eye that stays at places, and takes so many samples from one to the next."""
    path = [np.repeat([places[0]], num, axis=0)]
    for before, after in itertools.pairwise(places):
        path += [np.linspace(before, after, between + 2)[1:-1], np.repeat([after], num, axis=0)]
    found = np.concatenate(path).astype(np.float64)
    return found + noise * np.random.default_rng(0).standard_normal(found.shape)


def write_osie(folder: Path) -> Path:
    """Two pictures, two viewers; the second looks once at the first picture, and not at all at the other."""
    looks = [[[(1, 1), (79.5, 59.5), (10.5, 20.5)], [(5, 5)]], [[(2, 2), (40.5, 30.5)], []]]
    entries = np.zeros(2, dtype=object)
    for picture, viewers in enumerate(looks):
        write_picture(folder / "data" / "stimuli" / f"{1001 + picture}.jpg", picture)
        subjects = np.zeros((2, 1), dtype=object)
        for viewer, points in enumerate(viewers):
            x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
            subjects[viewer, 0] = {"fix_x": x, "fix_y": y, "fix_duration": np.full(len(x), 200.0)}
        entries[picture] = {"img": f"{1001 + picture}.jpg", "subjects": subjects}
    (folder / "data" / "eye").mkdir()
    savemat(folder / "data" / "eye" / "fixations.mat", {"fixations": entries})
    return folder


def write_salicon(folder: Path, kind: str) -> Path:
    """Two pictures, two viewers; pixels count from one, x before y in MATLAB files, y before x in JSON."""
    names = ["COCO_train2014_000000000009", "COCO_train2014_000000000025"]
    points = [[[(1, 1), (80, 60)], [(11, 21)]], [[(41, 31)], [(42, 32), (43, 33)]]]
    for picture, name in enumerate(names):
        write_picture(folder / "images" / "train" / f"{name}.jpg", picture)
        if kind == "mat":
            gaze = np.zeros((2, 1), dtype=[("location", object), ("timestamp", object), ("fixations", object)])
            for viewer in range(2):
                gaze[viewer, 0] = (np.ones((4, 2)), np.arange(4.0), np.array(points[picture][viewer], dtype=np.uint16))
            path = folder / "fixations" / "train" / f"{name}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {"image": name, "resolution": np.array([[60, 80]]), "gaze": gaze})
    if kind == "json":
        annotations = [
            {"image_id": 9 + picture, "worker_id": viewer, "fixations": [[y, x] for x, y in points[picture][viewer]]}
            for picture in range(2) for viewer in range(2)
        ]  # fmt: skip
        images = [{"id": 9 + picture, "file_name": f"{name}.jpg"} for picture, name in enumerate(names)]
        (folder / "fixations_train.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


ROWS = [("a.png", 4.0, 6.0, "ann", 1), ("b.png", 79.9, 59.9, "bob", 1), ("a.png", 5.0, 6.0, "bob", 2)]
FIRST = ("a.png", 1.0, 1.0, "ann", 0)


def write_folder(folder: Path, kind: str, rows=(*ROWS, FIRST), columns=("image", "x", "y", "subject", "order")) -> Path:
    for seed, name in enumerate(["a.png", "b.png"]):
        write_picture(folder / "images" / name, seed)
    table = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    if kind == "csv":
        with (folder / "fixations.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([row[: len(columns)] for row in rows])
    elif kind == "npz":
        np.savez(folder / "fixations.npz", **{name: np.array(column) for name, column in table.items()})
    else:
        texts = {"image", "subject"}
        arrays = {n: np.array(c, dtype=object) if n in texts else np.array(c) for n, c in table.items()}
        savemat(folder / "fixations.mat", arrays)
    return folder


def test_cat2000_marks_are_where_the_matrix_has_ones(tmp_path):
    for folder in (write_cat2000(tmp_path), tmp_path / "trainSet"):
        found = read_set("cat2000", folder)
        assert [file.parent.name for file in found.files] == ["Action", "Art"]
        assert places(found) == [(0, 5.5, 3.5), (0, 20.5, 10.5), (1, 79.5, 59.5)]


def test_mit1003_fixations_are_found_in_raw_samples_and_the_first_is_dropped(tmp_path):
    found = read_set("mit1003", write_mit1003(tmp_path))
    # Viewers in order of name: CNG before ajs. Pixels count from one.
    assert places(found) == [(0, 9.5, 19.5), (0, 10.5, 19.5), (1, 19.5, 19.5), (1, 20.5, 19.5)]
    assert found.fixations.viewer.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_fixations_are_where_the_eye_stayed_whatever_the_noise(noise):
    stays = [(400, 300), (100, 50), (700, 500), (650, 450)]
    found = fixated_places(samples(*stays, noise=noise))
    np.testing.assert_allclose(found, stays, atol=4 * noise / np.sqrt(20) + 1e-9)


def test_drift_is_no_saccade_and_a_short_stay_no_fixation():
    drifting = samples((100, 100)) + np.linspace(0, 20, 60)[:, None]
    np.testing.assert_allclose(fixated_places(drifting), [[110, 110]])
    short = np.concatenate([samples((400, 300), (100, 50)), samples((300, 50), num=8), samples((700, 500))])
    np.testing.assert_allclose(fixated_places(short), [(400, 300), (100, 50), (700, 500)])


def test_samples_without_an_eye_count_for_no_place():
    blinking = samples((400, 300), (100, 50))
    blinking[80:85] = np.nan
    np.testing.assert_allclose(fixated_places(blinking), [(400, 300), (100, 50)])
    assert np.isnan(fixated_places(np.full((50, 2), np.nan))).tolist() == [[True, True]]
    assert fixated_places(np.zeros((0, 2))).shape == (0, 2)
    assert fixated_places(np.ones((3, 2))).tolist() == [[1.0, 1.0]]


def test_osie_is_read_as_it_is_published_without_first_fixations(tmp_path):
    for folder in (write_osie(tmp_path), tmp_path / "data"):
        found = read_set("osie", folder)
        assert [file.name for file in found.files] == ["1001.jpg", "1002.jpg"]
        assert places(found) == [(0, 79.5, 59.5), (0, 10.5, 20.5), (1, 40.5, 30.5)]
        assert found.fixations.viewer.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["mat", "json"])
def test_salicon_reads_alike_from_both_layouts(tmp_path, kind):
    found = read_set("salicon", write_salicon(tmp_path, kind))
    expected = [(0, 0.5, 0.5), (0, 79.5, 59.5), (0, 10.5, 20.5), (1, 40.5, 30.5), (1, 41.5, 31.5), (1, 42.5, 32.5)]
    assert places(found) == expected
    assert found.fixations.viewer.tolist() == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("kind", ["csv", "npz", "mat"])
def test_ones_own_tables_read_alike_whatever_their_kind(tmp_path, kind):
    found = read_set("folder", write_folder(tmp_path, kind))
    assert [file.name for file in found.files] == ["a.png", "b.png"]
    assert places(found) == [(0, 4.0, 6.0), (1, 79.9, 59.9), (0, 5.0, 6.0)]
    assert found.fixations.viewer.tolist() == [0, 1, 1]
    bare = write_folder(tmp_path / "bare", kind, rows=ROWS, columns=("image", "x", "y"))
    assert places(read_set("folder", bare)) == places(found)


def test_mit300_is_pictures_alone(tmp_path):
    for number in (1, 2):
        write_picture(tmp_path / "BenchmarkIMAGES" / f"i{number}.jpg", number)
    pictures = mit300(tmp_path)
    assert len(pictures) == 2
    assert pictures[1].shape == (3, 192, 256)
    with pytest.raises(DataError, match=r"found no such folder; wanted the folder BenchmarkIMAGES of MIT300"):
        mit300(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "write", "broken", "content", "message"),
    [
        ("cat2000", write_cat2000, "trainSet/FIXATIONLOCS/Art/001.mat", None, r"001\.mat: found an unreadable MATLAB"),
        ("cat2000", write_cat2000, "trainSet/FIXATIONLOCS/Art/001.mat", b"junk", "unreadable MATLAB file"),
        ("cat2000", write_cat2000, "trainSet/FIXATIONLOCS/Art/001.mat", {"other": 1}, "found no matrix fixLocs"),
        ("cat2000", write_cat2000, "trainSet/FIXATIONLOCS/Art/001.mat", {"fixLocs": np.zeros(SIZE)},
         r"no fixation inside picture 001\.jpg"),
        ("mit1003", write_mit1003, "DATA/ajs/i05june05_static.mat", b"", "unreadable MATLAB file"),
        ("mit1003", write_mit1003, "DATA/ajs/i05june05_static.mat", {"s": {"other": 1}}, "found no samples"),
        ("mit1003", write_mit1003, "DATA/ajs/i05june05_static.mat", {"s": {"DATA": {"eyeData": np.zeros(4)}}},
         r"samples of shape \(4,\)"),
        ("mit1003", write_mit1003, "ALLSTIMULI/i05june05_static.jpeg", b"no jpeg", "found an unreadable picture"),
        ("osie", write_osie, "data/eye/fixations.mat", {"fixations": np.zeros(3)}, "found no fixations"),
        ("osie", write_osie, "data/eye/fixations.mat", {"other": 1}, "found no fixations"),
        ("osie", write_osie, "data/stimuli/1001.jpg", None, r"1001\.jpg: found an unreadable picture"),
        ("salicon", lambda f: write_salicon(f, "mat"), "fixations/train/COCO_train2014_000000000009.mat", None,
         "unreadable MATLAB file"),
        ("salicon", lambda f: write_salicon(f, "mat"), "fixations/train/COCO_train2014_000000000009.mat", {"gaze": 3},
         "found no gaze"),
        ("salicon", lambda f: write_salicon(f, "json"), "fixations_train.json", b"{", "found unreadable annotations"),
        ("salicon", lambda f: write_salicon(f, "json"), "fixations_train.json", b'{"images": []}', "'annotations'"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", None, "found no table of fixations"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", b"image,x\na.png,1\n", "found no column y"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", b"image,x,y\na.png,1\n", "length, line 2"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", b"image,x,y\na.png,1,z\n", "that is no number"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", b"image,x,y\nc.png,1,1\n", r"the first c\.png"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", b"image,x,y\na.png,-1,1\n",
         r"no fixation inside picture a\.png"),
        ("folder", lambda f: write_folder(f, "csv"), "fixations.csv", b"\xff\xfe\x00", "found an unreadable table"),
        ("folder", lambda f: write_folder(f, "npz"), "fixations.npz", b"PK", "found an unreadable archive"),
        ("folder", lambda f: write_folder(f, "mat"), "fixations.mat", b"x" * 200, "found an unreadable MATLAB file"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path, name, write, broken, content, message):
    path = write(tmp_path) / broken
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        savemat(path, content)
    with pytest.raises(DataError, match=message):
        read_set(name, tmp_path)


@pytest.mark.parametrize("name", ["cat2000", "mit1003", "salicon", "folder"])
def test_an_absent_folder_is_named(tmp_path, name):
    with pytest.raises(DataError, match="found no such folder"):
        read_set(name, tmp_path / "nowhere")


def test_an_unknown_set_is_named():
    with pytest.raises(DataError, match=r"data set moon: found an unknown name; wanted one of osie, eyecrowd"):
        read_set("moon")


@pytest.fixture
def three_sets(tmp_path):
    """Three folders of ten pictures each, two viewers; fixations in another corner in each set."""
    for place, name in enumerate(["one", "two", "three"]):
        rows = [(f"{n}.png", 10 + 25 * place + v, 20 + n, f"v{v}", 1) for n in range(10) for v in (0, 1)]
        for n in range(10):
            write_picture(tmp_path / name / "images" / f"{n}.png", 10 * place + n)
        with (tmp_path / name / "fixations.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "x", "y", "subject", "order"))
            writer.writerows(rows)
    return {name: f"folder:{tmp_path / name}" for name in ("one", "two", "three")}


def test_trained_on_two_sets_and_tested_on_the_third(three_sets):
    one, two, three = (three_sets[name] for name in ("one", "two", "three"))
    data = combined(train=[one, two], test=three, seed=3)
    assert (len(data.train), len(data.calibration), len(data.test)) == (28, 14, 2)
    columns = [int(data.calibration[item][1].sum(0).argmax()) for item in range(14)]
    assert columns == [8] * 7 + [28] * 7  # ten and thirty-five of eighty pixels, in cells of 1.25
    assert [int(data.test[item][1].sum(0).argmax()) for item in range(2)] == [48, 48]
    alone = split_set("folder", three.partition(":")[2], seed=3)
    assert all((data.test[item][0] == alone.test[item][0]).all() for item in range(2))
    assert combined(train=[one, two], test=three, seed=3).fingerprint == data.fingerprint
    assert combined(train=[one, two], test=three, seed=4).fingerprint != data.fingerprint
    assert combined(train=[two, one], test=three, seed=3).fingerprint != data.fingerprint
    with pytest.raises(DataError, match="among the sets to train on"):
        combined(train=[one, two], test=two)
    with pytest.raises(DataError, match="found no set to train on"):
        combined(train=[], test=two)


def test_observers_and_elsewhere_come_from_the_training_parts(three_sets):
    one, three = three_sets["one"], three_sets["three"]
    facts = combined(train=[one], test=three, observers=True).facts
    assert facts["gold_standard_log_likelihood"] > 1
    assert (
        facts["gold_standard_information_gain"] > facts["gold_standard_log_likelihood"]
    )  # the bias is of other places
    gaze = task_of([one])
    elsewhere = gaze.metrics["shuffled_auc"].per_sample.measure.elsewhere
    assert elsewhere.sum() == 14  # two viewers, seven training pictures
    assert elsewhere.sum(0).argmax() == 8
    with pytest.raises(DataError, match="gaze task: found no set"):
        task_of([])


@pytest.mark.shared_data
def test_other_viewers_know_more_than_the_centre_bias_on_osie(shared_data):
    facts = osie(shared_data / "gaze_osie", observers=True).facts
    assert facts["gold_standard_information_gain"] > 1
    assert facts["gold_standard_log_likelihood"] > facts["gold_standard_information_gain"]
