import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.artifacts import Model
from secateur.calibration.batches import evaluate
from secateur.errors import DataError, RecipeError
from secateur.workloads.classification import cifar10, resnet20, task
from secateur.workloads.classification.cifar_files import BinaryFiles, PickleFiles, Sheets, find

NUM = {"train": 50, "test": 10}
BATCH_OF = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def content(part):
    random = np.random.default_rng(len(part))
    pixels = random.integers(0, 256, (NUM[part], 32, 32, 3), dtype=np.uint8)
    return pixels, np.arange(NUM[part]) % 10


def write_binary(folder):
    folder.mkdir()
    for part, names in BATCH_OF.items():
        pixels, labels = content(part)
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels.transpose(0, 3, 1, 2).reshape(-1, 3072)], 1)
        for name, some in zip(names, np.split(records, len(names)), strict=True):
            (folder / f"{name}.bin").write_bytes(some.tobytes())
    return folder


def write_pickles(folder, protocol=2):
    folder.mkdir()
    for part, names in BATCH_OF.items():
        pixels, labels = content(part)
        planes = pixels.transpose(0, 3, 1, 2).reshape(-1, 3072)
        for name, some, few in zip(names, np.split(planes, len(names)), np.split(labels, len(names)), strict=True):
            batch = {b"batch_label": b"x", b"labels": few.tolist(), b"data": some, b"filenames": [b"a.png"] * len(few)}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    return folder


def write_sheets(folder):
    folder.mkdir()
    for part in NUM:
        pixels, labels = content(part)
        np.save(folder / f"{part}_labels.npy", labels.astype(np.uint8))
        (folder / part).mkdir()
        tiles = np.zeros((-(-len(pixels) // 12) * 12, 32, 32, 3), dtype=np.uint8)
        tiles[: len(pixels)] = pixels
        for number, twelve in enumerate(tiles.reshape(-1, 3, 4, 32, 32, 3)):
            sheet = twelve.transpose(0, 2, 1, 3, 4).reshape(96, 128, 3)
            Image.fromarray(sheet).save(folder / part / f"{number:03}.webp", lossless=True)
    return folder


WRITERS = {"sheets": write_sheets, "cifar-10-batches-bin": write_binary, "cifar-10-batches-py": write_pickles}
KINDS = {"sheets": Sheets, "cifar-10-batches-bin": BinaryFiles, "cifar-10-batches-py": PickleFiles}


@pytest.fixture(params=sorted(WRITERS))
def folder(request, tmp_path):
    return WRITERS[request.param](tmp_path / request.param)


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_format_gives_the_pictures_and_labels_that_were_written(folder, part):
    files = find(folder)
    pixels, labels = content(part)
    assert type(files) is KINDS[folder.name]
    assert files.labels(part).tolist() == labels.tolist()
    assert np.array_equal(files.pixels(part), pixels)
    if folder.name != "sheets":
        assert type(find(folder.parent)) is type(files)


def test_all_formats_are_the_same_data(tmp_path):
    sets = [cifar10(write(tmp_path / name), augment=False) for name, write in WRITERS.items()]
    for part in ("train", "test", "calibration"):
        first, *others = ([getattr(data, part)[i] for i in range(len(getattr(data, part)))] for data in sets)
        for other in others:
            assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, other, strict=True))


def test_parts_are_shuffled_complete_and_limited(folder):
    whole = cifar10(folder)
    assert sorted(whole.train.labels) == sorted(content("train")[1])
    assert whole.train.labels.tolist() != content("train")[1].tolist()
    some = cifar10(folder, num_train=20, num_test=4)
    assert (len(some.train), len(some.calibration), len(some.test)) == (20, 20, 4)
    assert some.train.labels.tolist() == whole.train.labels[:20].tolist()
    assert torch.equal(some.calibration[3][0], whole.calibration[3][0])
    other = cifar10(folder, seed=1)
    assert other.train.labels.tolist() != whole.train.labels.tolist()
    assert other.test.labels.tolist() == whole.test.labels.tolist()
    assert len({whole.fingerprint, some.fingerprint, other.fingerprint}) == 3


def test_only_training_pictures_are_augmented(folder):
    data = cifar10(folder)
    torch.manual_seed(0)
    drawn = [data.train[0][0] for _ in range(5)]
    assert any(not torch.equal(drawn[0], other) for other in drawn)
    assert torch.equal(data.calibration[0][0], data.calibration[0][0])
    assert torch.equal(cifar10(folder, augment=False).train[0][0], data.calibration[0][0])
    assert data.train.pixels is data.calibration.pixels


@pytest.mark.parametrize("argument", [{"num_train": 51}, {"num_train": 0}, {"num_test": 11}])
def test_limits_out_of_range_are_named(folder, argument):
    ((name, value),) = argument.items()
    with pytest.raises(RecipeError, match=rf"cifar10.{name}: found {value}; wanted 1 to {NUM[name[4:]]}"):
        cifar10(folder, **argument)


def test_a_folder_without_the_set_says_what_it_looked_for(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"none of its files; wanted data_batch_1.bin.*train_labels.npy.*Fetch CIFAR-10"
    ):
        cifar10(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        cifar10(tmp_path / "absent")
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    with pytest.raises(DataError, match=r"no folder.*Give folder, or set SECATEUR_DATA"):
        cifar10()


def test_the_default_folder_comes_from_the_environment(tmp_path, monkeypatch):
    write_sheets(tmp_path / "cifar10")
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    assert len(cifar10().train) == 50


def read_all(folder):
    data = cifar10(folder)
    return data.train[0], data.test[0]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, emptied, removed])
@pytest.mark.parametrize(
    ("write", "file"),
    [
        (write_binary, "data_batch_3.bin"), (write_pickles, "data_batch_2"), (write_sheets, "train/001.webp"),
        (write_sheets, "test_labels.npy"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, write, file, damage):
    folder = write(tmp_path / "set")
    damage(folder / file)
    # A sheet that is gone leaves too few pictures; every other damage is seen in the file itself.
    named = "train" if (file, damage) == ("train/001.webp", removed) else file
    with pytest.raises(DataError, match=rf"{named}.*Fetch CIFAR-10 again"):
        read_all(folder)


def test_labels_of_other_classes_are_refused(tmp_path):
    folder = write_sheets(tmp_path / "set")
    np.save(folder / "train_labels.npy", np.full(50, 10))
    with pytest.raises(DataError, match=r"train_labels.npy.*wanted classes from 0 to 9"):
        cifar10(folder)


class Evil:
    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (Evil(), r"damaged file \(it calls __builtin__.eval\)"),
        ([1, 2], "another content"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "another content"),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 0]}, "another content"),
        ({b"data": np.array([object()]), b"labels": [0]}, r"it calls __builtin__.object"),
        ({b"data": np.array(["a"], dtype=object), b"labels": [0]}, "another content"),
    ],
)
def test_pickles_run_no_code_and_hold_what_they_should(tmp_path, batch, said):
    folder = write_pickles(tmp_path / "set")
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=said):
        cifar10(folder)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_any_age_are_read(tmp_path, protocol):
    assert len(cifar10(write_pickles(tmp_path / "set", protocol)).train) == 50


@pytest.mark.shared_data
def test_a_trained_network_classifies_the_real_set(shared_data):
    data = cifar10(shared_data / "cifar10", num_test=1000)
    assert (len(data.train), len(data.test)) == (50_000, 1000)
    assert np.bincount(data.train.labels[:5000]).min() > 400
    weights = shared_data / "models" / "cifar10_resnet_akamaster" / "resnet20-12fca82f.th"
    model = Model(module=resnet20(weights), example_inputs=(torch.zeros(1, 3, 32, 32),))
    found = evaluate(model.module, task(10), data.test, 100)
    # 91.73 % on all 10,000 pictures; four standard errors of a thousand are 3.5 points.
    assert abs(found.metrics["top1"] - 0.9173) < 0.035
