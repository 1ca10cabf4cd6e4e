import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from secateur.deploy import prepared
from secateur.errors import DataError, RecipeError
from secateur.workloads.classification import image_folder
from secateur.workloads.classification.image_folder import MiddleSquare, RandomSquare

COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 60), "red": (220, 30, 20)}


def fill(folder, classes=COLOURS, num=10, suffix="png", size=(40, 24)):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(num):
            Image.new("RGB", size, COLOURS[name]).save(folder / name / f"{number}.{suffix}")
    return folder


def colours(dataset):
    """Map every class to its pictures' mean colour in bytes."""
    found = {}
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    for index in range(len(dataset)):
        picture, label = dataset[index]
        found.setdefault(int(label), []).append((picture.mean(dim=(1, 2)) * std + mean) * 255)
    return {label: torch.stack(values).mean(0).round().int().tolist() for label, values in found.items()}


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "JPEG"])
def test_classes_are_numbered_by_name_and_pictures_have_their_colour(tmp_path, suffix):
    data = image_folder(fill(tmp_path, suffix=suffix), 16)
    for dataset in (data.train, data.test, data.calibration):
        assert dataset[0][0].shape == (3, 16, 16)
        found = colours(dataset)
        for label, wanted in enumerate(COLOURS.values()):
            assert np.abs(np.subtract(found[label], wanted)).max() <= (0 if suffix in ("png", "bmp") else 8)


def test_deployed_engines_prepare_pictures_as_the_data_did(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    data = image_folder(fill(tmp_path), 16)
    Image.fromarray(noise).save(data.test.paths[0])
    assert data.classes == tuple(COLOURS)
    (found,) = prepared(noise[None], data.preparation)
    byte = 1 / 255 / min(data.preparation.std)
    np.testing.assert_allclose(found, data.test[0][0].numpy(), atol=1.01 * byte, err_msg="rounded to bytes there")


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.01, 0.6), seed=st.integers(0, 1000))
def test_a_split_is_disjoint_complete_and_repeatable(tmp_path_factory, share, seed):
    folder = tmp_path_factory.getbasetemp() / "many"
    if not folder.exists():
        fill(folder)
    data, again = (image_folder(folder, 8, test_share=share, seed=seed) for _ in range(2))
    train, test = set(data.train.paths), set(data.test.paths)
    assert not train & test
    assert len(train) + len(test) == 30
    assert np.bincount(data.test.labels).tolist() == [max(1, round(share * 10))] * 3
    assert data.train.paths == again.train.paths
    assert data.fingerprint == again.fingerprint
    assert all(
        path.parent.name == data.train.classes[label]
        for path, label in zip(data.train.paths, data.train.labels, strict=True)
    )


@pytest.mark.parametrize("name", ["test", "val"])
def test_train_and_test_folders_are_taken_as_they_are(tmp_path, name):
    fill(tmp_path / "train", num=4)
    fill(tmp_path / name, num=2)
    data = image_folder(tmp_path, 8)
    assert (len(data.train), len(data.test)) == (12, 6)
    assert {path.parents[1].name for path in data.test.paths} == {name}


def test_classes_come_mixed(tmp_path):
    labels = image_folder(fill(tmp_path), 8).train.labels
    assert sorted(labels) != list(labels)


def test_grey_transparent_and_palette_pictures_are_read(tmp_path):
    fill(tmp_path, num=3)
    Image.new("L", (30, 30), 77).save(tmp_path / "red" / "grey.png")
    Image.new("RGBA", (30, 30), (1, 2, 3, 4)).save(tmp_path / "red" / "clear.png")
    Image.new("P", (30, 30)).save(tmp_path / "red" / "palette.gif")
    data = image_folder(tmp_path, 8)
    assert all(data.train[i][0].shape == (3, 8, 8) for i in range(len(data.train)))


def test_the_middle_square_is_the_middle():
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[10:30, 30:50] = 255
    square = np.asarray(MiddleSquare(size=20, resize=40)(Image.fromarray(pixels)))
    assert square.shape == (20, 20, 3)
    assert (square == 255).all()


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 60), height=st.integers(1, 60), seed=st.integers(0, 10**6))
def test_random_squares_stay_inside_pictures_of_any_size(width, height, seed):
    torch.manual_seed(seed)
    part = np.asarray(RandomSquare(size=12)(Image.new("RGB", (width, height), (9, 99, 199))))
    assert part.shape == (12, 12, 3)
    assert np.abs(part.astype(int) - (9, 99, 199)).max() <= 1


def test_random_squares_differ_and_repeat_with_the_seed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = image_folder(tmp_path, 8)
    torch.manual_seed(0)
    first, second = data.train[0][0], data.train[0][0]
    torch.manual_seed(0)
    assert torch.equal(data.train[0][0], first)
    assert not torch.equal(first, second)
    plain = image_folder(tmp_path, 8, augment=False)
    assert torch.equal(plain.train[0][0], plain.calibration[0][0])


def test_folders_that_hold_no_classes_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent: found no such folder; wanted one subfolder a class"):
        image_folder(tmp_path / "absent")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"no picture in 'a'; wanted at least two subfolders.*\.avif"):
        image_folder(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match=r"1 subfolder\(s\)"):
        image_folder(tmp_path)
    (tmp_path / "b").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "b" / "1.png")
    with pytest.raises(DataError, match=r"1 picture\(s\); wanted at least two, for training and testing"):
        image_folder(tmp_path)


def test_parts_of_different_classes_are_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", classes=("blue", "green"))
    with pytest.raises(DataError, match=r"class 'red' in one part only; wanted the same classes in both parts"):
        image_folder(tmp_path)


def test_a_damaged_picture_is_named_when_it_is_read(tmp_path):
    data = image_folder(fill(tmp_path), 8)
    path = data.train.paths[0]
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(
        DataError, match=rf"{path.name}: found a picture that cannot be read.*Replace or remove the file"
    ):
        data.train[0]
    path.write_text("no picture")
    with pytest.raises(DataError, match="cannot be read"):
        data.train[0]


@pytest.mark.parametrize(
    "arguments", [{"size": 0}, {"size": 10, "resize": 9}, {"test_share": 0.0}, {"test_share": 1.0}]
)
def test_settings_out_of_range_are_refused(tmp_path, arguments):
    with pytest.raises(RecipeError, match="image_folder"):
        image_folder(tmp_path, **arguments)
