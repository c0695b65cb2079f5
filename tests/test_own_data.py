"""Data sets from outside: every kind of image, the same batches with workers, and one line for all that goes wrong."""

import io
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from supernet.data import sets, transforms
from tests.conftest import refused, whole

DATA = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Subset


class Pictures:
    def __init__(self, count, side=12, make=lambda pixels: Image.fromarray(pixels)):
        self.count, self.side, self.make = count, side, make

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        pixels = np.random.default_rng(i).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return self.make(pixels), i % 3


def images():
    return Pictures(30), Pictures(6)
"""


NUMBER = itertools.count()  # a file is imported once


def pixels(i: int, side: int = 12) -> np.ndarray:
    """What the data set above shows, in [0, 1]."""
    return np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8) / 255


def with_images(body: str) -> str:
    return DATA[: DATA.index("def images")] + "def images():\n    " + body + "\n"


def opened(own_file, body="return Pictures(30), Pictures(6)", part="train", **options):
    reference = f"{own_file(f'my_data_{next(NUMBER)}.py', with_images(body))}:images"
    if part == "test":
        return sets.open_test(reference, "data", **options)
    return sets.open_train(reference, "data", **options)


def batches(images, **options):
    return list(images.batches(4, **{"seed": 1, "epoch": 2, "augment": True, "drop_last": False, **options}))


def assert_same(left, right):
    assert len(left) == len(right) > 0
    for (x1, y1), (x2, y2) in zip(left, right, strict=True):
        assert torch.equal(x1, x2)
        assert torch.equal(y1, y2)


def test_pictures_are_normalised_and_split(own_file):
    data = opened(own_file)
    assert (data.classes, data.channels, data.resolution, data.class_names) == (3, 3, 12, ("0", "1", "2"))
    assert (len(data.train), len(data.val)) == (27, 3)
    assert sorted([*data.train.index, *data.val.index]) == list(range(30))
    x, y = whole(data.train)
    mean, std = (np.array(v) for v in (data.train.mean, data.train.std))
    for image, label, index in zip(x, y, data.train.index, strict=True):
        assert label == index % 3
        assert np.allclose(image.permute(1, 2, 0).numpy() * std + mean, pixels(index), atol=1e-6)


def test_a_small_picture_is_shifted_with_a_black_margin(own_file):
    train = opened(own_file).train
    order = torch.cat([y for _, y in batches(train)])
    mean, std = (torch.tensor(v)[:, None, None] for v in (train.mean, train.std))
    shifts = set()
    sources = {i: torch.from_numpy(np.pad(pixels(i), ((2, 2), (2, 2), (0, 0)))).permute(2, 0, 1) for i in train.index}
    for x in torch.cat([x for x, _ in batches(train)]) * std + mean:
        found = [
            (i, down, right)
            for i, source in sources.items()
            for down in range(5)
            for right in range(5)
            if torch.allclose(source[:, down : down + 12, right : right + 12], x.double(), atol=1e-5)
        ]
        assert len(found) == 1  # so none is mirrored
        shifts.add(found[0][1:])
    assert len(order) == 27
    assert len(shifts) > 8


@pytest.mark.parametrize("mirror", [True, False])
def test_pictures_are_mirrored_where_the_data_say_so(own_file, mirror):
    body = f"train = Pictures(30); train.mirror = {mirror}; return train, Pictures(6)"
    transform = opened(own_file, body).train.transforms[1]
    image = Image.fromarray(np.full((12, 12, 3), 100, dtype=np.uint8))
    image.paste((255, 255, 255), (0, 0, 3, 12))
    sides = set()
    for seed in range(20):
        torch.manual_seed(seed)
        x = np.asarray(transform(image), dtype=int)
        sides.add(bool(x[:, :6].sum() > x[:, 6:].sum()))
    assert sides == ({True, False} if mirror else {True})


def test_batches_do_not_depend_on_workers_or_start(own_file):
    data = opened(own_file)
    whole = batches(data.train)
    assert_same(whole, batches(opened(own_file, workers=2).train))
    assert_same(whole[3:], batches(data.train, start=3))
    assert not torch.equal(whole[0][0], batches(data.train, epoch=3)[0][0])


def first_batch(images):
    """In another process."""
    return batches(images)[0]


def test_a_set_survives_another_process(own_file):
    train = opened(own_file, "train = Pictures(30, make=Image.fromarray); return train, Pictures(6)").train
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert_same([pool.submit(first_batch, train).result(120)], [first_batch(train)])


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        ("lambda p: p", 3),
        ("lambda p: torch.from_numpy(p)", 3),
        ("lambda p: torch.from_numpy(p).permute(2, 0, 1)", 3),
        ("lambda p: Image.fromarray(p).convert('RGBA')", 3),
        ("lambda p: p[:, :, 0]", 1),
        ("lambda p: p[:, :, :1]", 1),
        ("lambda p: torch.from_numpy(p[:, :, 0])", 1),
        ("lambda p: Image.fromarray(p[:, :, 0])", 1),
    ],
)
def test_every_kind_of_picture_is_the_same(own_file, make, channels):
    data = opened(own_file, f"return Pictures(30, make={make}), Pictures(6)")
    x, _ = whole(data.train)
    assert data.channels == channels
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.train.mean, data.train.std))
    expected = torch.from_numpy(pixels(data.train.index[5])[:, :, :channels]).permute(2, 0, 1)
    assert torch.allclose((x[5] * std + mean).double(), expected, atol=1e-6)


def test_float_tensors_are_taken_as_they_are(own_file):
    body = "make = lambda p: torch.from_numpy(p / 50.0 - 1).permute(2, 0, 1)[:2]; return [Pictures(30, make=make)] * 2"
    data = opened(own_file, body)
    assert (data.channels, data.resolution) == (2, 12)
    assert (data.train.mean, data.train.std) == ((0.0, 0.0), (1.0, 1.0))
    assert whole(data.train)[0].dtype == torch.float32
    for x in torch.cat([x for x, _ in batches(data.train)]):
        expected = (torch.from_numpy(pixels(i) * 255 / 50 - 1).permute(2, 0, 1)[:2] for i in data.train.index)
        assert sum(torch.allclose(x.double(), e, atol=1e-6) for e in expected) == 1


@pytest.mark.parametrize(
    ("side", "resolution", "expected"),
    [(12, None, 12), (95, None, 95), (96, None, 224), (12, 20, 20), (12, 100, 100), (200, 64, 64)],
)
def test_resolution(own_file, side, resolution, expected):
    body = f"return Pictures(30, {side}), Pictures(6, {side})"
    data = opened(own_file, body, resolution=resolution)
    test = opened(own_file, body, part="test", resolution=resolution)
    assert data.size == test.size == (expected, expected)
    for images in (data.val, test):
        assert {x.shape[1:] for augment in (True, False) for x, _ in batches(images, augment=augment)} == {
            (3, expected, expected)
        }


def test_oblong_pictures_are_cropped_to_a_square(own_file):
    data = opened(own_file, "return [Pictures(30, make=lambda p: p[:8])] * 2", resolution=8)
    assert whole(data.val)[0].shape == (3, 3, 8, 8)
    assert opened(own_file, "return [Pictures(30, make=lambda p: p[:8])] * 2").resolution == 224


def test_labels_and_names_are_taken_from_the_data_set(own_file):
    body = (
        "train = Pictures(30); train.classes = ['cat', 'dog', 'cow', 'unicorn']; "
        "train.targets = torch.arange(30) % 3; return train, Subset(Pictures(60), range(0, 60, 10))"
    )
    data, test = opened(own_file, body), opened(own_file, body, part="test")
    assert data.class_names == ("cat", "dog", "cow", "unicorn")
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert whole(test)[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(data.train.labels, data.train.index % 3)
    with_array = "make = torch.tensor; train = Pictures(9); train.labels = np.arange(9) % 3; return train, train"
    assert np.bincount(opened(own_file, with_array).train.labels).tolist() == [2, 2, 2]


def test_a_function_gets_the_root(own_file, tmp_path):
    text = DATA.replace("def images():", "def images(root):\n    assert (root / 'here').exists()")
    (tmp_path / "here").touch()
    assert len(sets.open_test(f"{own_file('my_data.py', text)}:images", tmp_path)) == 6


def test_an_installed_data_set_is_known_by_name(installed):
    installed("my_installed_data", DATA, "[supernet.data]\npictures = my_installed_data:images\n")
    assert len(sets.open_train("pictures", "data").train) == 27
    assert "folder, pictures, hf:NAME, hf:FOLDER, or FILE.py:function, got 'picture'" in refused(
        sets.open_train, "picture", "data"
    )


def test_the_test_set_is_not_read_before_its_time(own_file):
    body = "test = Pictures(6, make=lambda pixels: 1 / 0); return Pictures(30), test"
    assert len(opened(own_file, body).train) == 27
    assert "test set: item 0 raised ZeroDivisionError in line" in refused(opened, own_file, body, part="test")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 7", " returned 7, expected (training set, test set)"),
        ("return Pictures(30)", " returned a Pictures, expected (training set, test set)"),
        ("return iter([]), Pictures(6)", " returned a list_iterator as the training set, expected a dataset"),
        ("return Pictures(30), None", " returned None as the test set, expected a dataset with __len__"),
        ("return [], Pictures(6)", " returned an empty training set, expected at least one image"),
        ("return Pictures(30), []", " returned an empty test set"),
        ("raise OSError('no disk')", " raised OSError in line 21: no disk"),
        ("return [7] * 5, Pictures(6)", ", training set: item 0 is 7, expected a pair (image, label)"),
        ("return [Pictures(1)[0], 'ab c'], Pictures(6)", ", training set: item 1 is 'ab c', expected a pair"),
        ("return [(Pictures(1)[0][0], 1.5)], Pictures(6)", "item 0 has the label 1.5, expected an integer"),
        ("return [(Pictures(1)[0][0], 'cat')], Pictures(6)", "item 0 has the label 'cat', expected an integer"),
        (
            "return [(Pictures(1)[0][0], torch.ones(3))], Pictures(6)",
            "the label a tensor of float32 [3], expected an int",
        ),
        (
            "return [(Pictures(1)[0][0], i) for i in (0, 1, -1)], Pictures(6)",
            "item 2 has the label -1, expected 0 to 1",
        ),
        (
            "return [(Pictures(1)[0][0], i) for i in (1, 2, 2)], Pictures(6)",
            "no image has the label 0, the largest is 2",
        ),
        (
            "return [(Pictures(1)[0][0], i) for i in (0, 255)], Pictures(6)",
            "no image has the label 1, the largest is 255",
        ),
        (
            "x = Pictures(6); x.targets = [0, 1, 2, 3, 4, 5]; return Pictures(30), x",
            "test set: item 3 has the label 3, expected 0 to 2",
        ),
        (
            "x = Pictures(30); x.classes = ['a', 'b']; return x, x",
            "training set: item 2 has the label 2, expected 0 to 1",
        ),
        ("x = Pictures(30); x.classes = 'abc'; return x, x", "its classes are 'abc', expected a list of names"),
        ("x = Pictures(30); x.targets = [0] * 30; x.targets[1] = '1'; return x, x", "item 1 has the label '1'"),
        ("return [(None, 0)], Pictures(6)", "item 0 is None, expected a PIL image, uint8"),
        (
            "return [(np.zeros((3, 8, 8)), 0)], Pictures(6)",
            "item 0 is an array of float64 [3, 8, 8], expected a PIL image",
        ),
        ("return [(np.zeros((8, 8, 2), np.uint8), 0)], Pictures(6)", "of uint8 [8, 8, 2], expected a PIL image"),
        (
            "return [(Image.new('F', (8, 8), 7), 0)], Pictures(6)",
            "item 0 raised ValueError: its pixels are floats from 7",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(own_file, body, message):
    found = refused(opened, own_file, body)
    assert ".py:images" in found
    assert message in found


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("1 / 0", "item 20 raised ZeroDivisionError in line"),
        ("7", "item 20 is 7, expected a pair"),
        ("(Pictures(1)[0][0], 1)", "item 20 has the label 1, had 2 at first"),
        ("(torch.zeros(3, 12, 12), 2)", "item 20 is one of float tensors, the first was one of images"),
    ],
)
def test_an_item_that_fails_later_is_named(own_file, item, message, workers):
    text = DATA.replace(
        "def images():\n    return Pictures(30)",
        f"class Bad(Pictures):\n    targets = [i % 3 for i in range(30)]\n\n    def __getitem__(self, i):\n"
        f"        return {item} if i == 20 else super().__getitem__(i)\n\n\ndef images():\n    return Bad(30)",
    )
    data = sets.open_train(f"{own_file('my_data.py', text)}:images", "data", val_fraction=0, workers=workers)
    assert message in refused(batches, data.train)


def test_a_float_tensor_of_another_shape_is_named(own_file):
    body = "x = [(torch.zeros(1, 8, 8), 0)] * 9 + [(torch.zeros(1, 8, 9), 0)]; return x, x"
    data = opened(own_file, body, val_fraction=0)
    assert "item 9 is a float tensor of [1, 8, 9], expected [1, 8, 8]" in refused(batches, data.train)
    body = "return [[(torch.zeros(1, 8, 8), 0)]] * 2"
    assert "expected 16² pixels" in refused(opened, own_file, body, resolution=16)


def test_a_damaged_file_is_named(own_file, tmp_path):
    file = io.BytesIO()
    Image.fromarray((pixels(0) * 255).astype(np.uint8)).save(file, "png")
    whole = file.getvalue()
    (tmp_path / "whole.png").write_bytes(whole)
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    opening = f"Image.open(io.BytesIO(pathlib.Path('{tmp_path}', name + '.png').read_bytes()))"
    body = f"import io, pathlib; x = [({opening}, 0) for name in ('whole', 'half')]; return x, x"
    data = opened(own_file, body, val_fraction=0)
    assert "item 1 raised OSError" in refused(batches, data.train)


def test_pictures_are_normalised_as_timm_does():
    assert transforms.IMAGENET == (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    for grey, colours in zip(transforms.GREY, transforms.IMAGENET, strict=True):
        assert grey[0] == pytest.approx(np.mean(colours), abs=1e-3)
