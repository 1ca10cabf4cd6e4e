import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.workloads.classification.pictures import IMAGENET, CropAndFlip, Normalisation, Pictures

LAWS = settings(max_examples=40, deadline=None)


def picture(seed, height=8, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@LAWS
@given(seed=st.integers(0, 10**6), mean=st.floats(0, 1), std=st.floats(0.1, 1))
def test_normalisation_can_be_undone(seed, mean, std):
    normalise = Normalisation(mean=(mean, 0.4, 0.5), std=(std, 0.2, 0.3))
    values = normalise(picture(seed))
    assert values.shape == (3, 8, 6)
    assert values.dtype == torch.float32
    back = values * torch.tensor(normalise.std)[:, None, None] + torch.tensor(normalise.mean)[:, None, None]
    assert (back.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy().tolist() == picture(seed).tolist()


@LAWS
@given(seed=st.integers(0, 10**6), padding=st.integers(0, 3), flip=st.booleans())
def test_an_augmented_picture_is_a_window_of_the_padded_one(seed, padding, flip):
    torch.manual_seed(seed)
    original = picture(seed)
    found = CropAndFlip(padding=padding, flip=flip)(original)
    padded = np.pad(original, ((padding, padding), (padding, padding), (0, 0)))
    windows = [
        padded[down : down + 8, right : right + 6]
        for down in range(2 * padding + 1)
        for right in range(2 * padding + 1)
    ]
    mirrored = [window[:, ::-1] for window in windows] if flip else []
    assert any(np.array_equal(found, window) for window in windows + mirrored)


def test_every_window_and_both_sides_come_up_alike():
    torch.manual_seed(0)
    original = picture(0)
    augment = CropAndFlip(padding=1)
    counts = {}
    for _ in range(1800):
        drawn = augment(original).tobytes()
        counts[drawn] = counts.get(drawn, 0) + 1
    assert len(counts) == 18
    assert 60 < min(counts.values()) <= max(counts.values()) < 150


class Decode:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return np.stack([picture(seed) for seed in range(3)])


def test_pictures_are_decoded_once_when_the_first_is_read():
    decode = Decode()
    pictures = Pictures(decode=decode, labels=np.array([2, 0, 1]))
    assert len(pictures) == 3
    assert decode.calls == 0
    items = [pictures[i] for i in range(3)]
    assert decode.calls == 1
    assert [int(label) for _, label in items] == [2, 0, 1]
    assert all(label.dtype == torch.int64 and label.ndim == 0 for _, label in items)
    torch.testing.assert_close(items[1][0], IMAGENET(picture(1)))


def test_a_data_set_can_be_sent_to_another_process():
    pictures = Pictures(decode=Decode(), labels=np.array([2, 0, 1]), augmentation=CropAndFlip())
    copy = pickle.loads(pickle.dumps(pictures))
    assert len(copy) == 3
    torch.manual_seed(0)
    expected = pictures[2][0]
    torch.manual_seed(0)
    assert torch.equal(copy[2][0], expected)


def test_an_item_beyond_the_end_is_an_index_error():
    with pytest.raises(IndexError):
        Pictures(decode=Decode(), labels=np.array([2, 0, 1]))[3]
