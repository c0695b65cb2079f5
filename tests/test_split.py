"""The split: how it is drawn, that it is written down by name, and that it holds whatever happens to the files."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from supernet.data import sets
from supernet.data.split import Draw, Files, Split
from supernet.errors import UserError
from supernet.runs import RunFolder
from tests.conftest import refused, whole

NAMES = tuple("abcdefgh")


def labels_of(*counts):
    return np.repeat(np.arange(len(counts)), counts)


def counted(labels, places, classes):
    return np.bincount(labels[places], minlength=classes).tolist()


# Drawing


def test_of_a_folder_a_tenth_of_each_class_validates_and_fifty_at_most():
    labels = labels_of(1300, 500, 60, 40, 9, 2)
    val = Draw(few=50)(labels, NAMES[:6])
    assert counted(labels, val, 6) == [50, 50, 6, 4, 1, 1]
    train = np.bincount(np.delete(labels, val))
    assert train[1] / train[2] < 500 / 60 + 0.1  # it was 45 : 1 with 50 of each


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9, 0.999])
def test_a_fraction_leaves_every_class_on_both_sides(fraction):
    labels = labels_of(400, 30, 3, 2)
    val = counted(labels, Draw(val_fraction=fraction)(labels, NAMES[:4]), 4)
    for held, size in zip(val, (400, 30, 3, 2), strict=True):
        assert 1 <= held < size
        assert abs(held - fraction * size) <= 1
    assert len(Draw(val_fraction=0.0)(labels, NAMES[:4])) == 0


@pytest.mark.parametrize("parts", [2, 5, 7])
def test_folds_are_together_all_images_once(parts):
    labels = np.random.default_rng(0).permutation(labels_of(31, 20, 7))
    folds = [Draw(seed=3, fold=(i, parts))(labels, NAMES[:3]) for i in range(parts)]
    assert sorted(np.concatenate(folds)) == list(range(len(labels)))
    theirs = StratifiedKFold(parts).split(labels, labels)
    sizes = sorted(len(test) for _, test in theirs)
    assert abs(min(map(len, folds)) - sizes[0]) <= 2
    for label in range(3):
        held = [(labels[fold] == label).sum() for fold in folds]
        assert max(held) - min(held) <= 1
        assert min(held) >= 1
    assert not np.array_equal(folds[0], Draw(seed=4, fold=(0, parts))(labels, NAMES[:3]))


def test_too_few_images_are_told_with_the_classes():
    labels = labels_of(50, 1, 4, 1)
    told = refused(Draw(few=50), labels, NAMES[:4])
    assert "expected at least 2 training images in every class, one of them to validate on" in told
    assert "class 'b' has 1, 'd' has 1; add images" in told
    assert "'c' has 4" in refused(Draw(fold=(0, 5)), labels_of(50, 9, 4), NAMES[:3])
    assert counted(labels_of(5, 0, 5), Draw(few=50)(labels_of(5, 0, 5), NAMES[:3]), 3) == [1, 0, 1]  # has none at all
    for message, options in (
        ("such as 0/5, the first of five, got 5/5", {"fold": (5, 5)}),
        ("got 0/1", {"fold": (0, 1)}),
        ("expected one of val_fraction, val_per_class and fold", {"fold": (0, 2), "val_fraction": 0.1}),
    ):
        assert message in refused(Draw, **options)


# Written down


def test_files_stand_by_side_class_and_name(tmp_path):
    names = ["a/10.png", "a/9.png", "a/deep/1.png", "b/\udcff.png", "b/x y.jpg"]
    files = Files(("a", "b"), names, labels_of(3, 2), np.arange(5) + 7)
    split = Split(3, 5, np.array([1, 4]), files)
    split.write(tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text()) == {
        "schema": 1,
        "channels": 3,
        "files": {
            "train": {"a": {"10.png": 7, "deep/1.png": 9}, "b": {"\udcff.png": 10}},
            "val": {"a": {"9.png": 8}, "b": {"x y.jpg": 11}},
        },
    }
    read = Split.read(tmp_path / "split.json")
    assert read.files.names == sorted(names[:3], key=os.path.split) + sorted(names[3:], key=os.path.split)
    assert [read.files.names[i] for i in read.val] == ["a/9.png", "b/x y.jpg"]
    sizes = dict(zip(names, range(7, 12), strict=True))
    assert read.files.sizes.tolist() == [sizes[name] for name in read.files.names]
    assert (read.channels, read.images) == (3, 5)
    Split(1, 9, np.array([0, 8])).write(tmp_path / "rows.json")
    rows = Split.read(tmp_path / "rows.json")
    assert (rows.channels, rows.images, rows.val.tolist(), rows.files) == (1, 9, [0, 8], None)
    assert Split.read(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": 1, "channels": 3}',
        '{"schema": 2, "channels": 3, "rows": {"images": 3, "val": []}}',
        '{"schema": 1, "channels": 3, "rows": {"images": 3, "val": [3]}}',
        '{"schema": 1, "channels": 3, "rows": {"images": 3, "val": [1, 1]}}',
        '{"schema": 1, "channels": 3, "rows": {"images": 3, "val": [-1]}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {}}, "val": {}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {"x": 1}}, "val": {"a": {"x": 1}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {"../../x": 1}}, "val": {"a": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {"/etc/x": 1}}, "val": {"a": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"..": {"x": 1}}, "val": {"..": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {"x": -2}}, "val": {"a": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {"x": true}}, "val": {"a": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": {"x": 1e5}}, "val": {"a": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a": 5}, "val": {"a": {}}}}',
        '{"schema": 1, "channels": 3, "files": {"train": {"a/b": {"x": 1}}, "val": {"a/b": {}}}}',
    ],
)
def test_a_split_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match=r"split.json is not a readable split of images") as caught:
        Split.read(tmp_path / "split.json")
    assert caught.value.missing == "another run"
    assert "\n" not in str(caught.value)


# It holds


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two classes of 60 and 40 training images, each of a colour that says which it is."""
    root = tmp_path_factory.mktemp("drawn")
    for part, counts in (("train", (60, 40)), ("val", (2, 2))):
        for name, count in zip("ab", counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                save(root / part / name / f"{i:02}.png", i)
    return root


def save(path, number):
    """A picture of its number: the red channel."""
    Image.new("RGB", (8, 8), (number, 100 * (path.parent.name == "b"), 7)).save(path)


@pytest.fixture
def begun(drawn, tmp_path):
    """A run that has begun, and its images then."""
    shutil.copytree(drawn, tmp_path / "images")
    return begin(tmp_path)


def begin(tmp_path, **options):
    run = RunFolder(tmp_path / "run")
    images = sets.open_train("folder", tmp_path / "images", resolution=8, **options)
    settings = {"data": "folder", "data_root": str(tmp_path / "images"), "seed": 0, "resolution": 8}
    run.begin(settings, images=images)
    return run, images


def numbers(images, batches=None):
    """Class and number of each picture that is served."""
    x, y = whole(images) if batches is None else map(torch.cat, zip(*batches, strict=True))
    red = (x[:, 0, 4, 4] * images.std[0] + images.mean[0]) * 255
    return [(int(label), round(float(value))) for label, value in zip(y, red, strict=True)]


def sides(images):
    """Names of the files that train and of those that validate."""
    names = images.train._names
    return set(images.train.names.tolist()), set(names[images.val.index].tolist())


def test_every_image_keeps_its_side_whatever_is_added_replaced_or_deleted(begun, tmp_path, caplog):
    run, before = begun
    root, (train, val) = tmp_path / "images" / "train", sides(before)
    assert (len(train), len(val)) == (90, 10)
    gone = [sorted(train)[3], sorted(train)[77], sorted(val)[2]]
    for name in gone:
        (root / os.fsdecode(name)).unlink()
    for i in range(60, 200):
        save(root / "a" / f"{i:02}.png", i)
    (root / "a" / "..." / ".hidden").mkdir(parents=True)
    (root / "c").mkdir()
    save(root / "c" / "1.png", 1)
    Image.new("RGB", (50, 20), (250, 0, 7)).save(root / os.fsdecode(sorted(train)[5]))
    with caplog.at_level(logging.WARNING):
        after = run.images()
    again = sides(after)
    assert again[0] == train  # which keeps its length, the places of what is gone are others'
    assert again[1] == val - set(gone)
    told = [record.getMessage() for record in caplog.records]
    assert any("3 images are gone, others of their classes train in their places: 'a/" in line for line in told)
    assert any("1 image has been replaced and is used as it is" in line for line in told)
    assert any("140 images have been added and are not used: 'a/100.png', 'a/101.png'" in line for line in told)
    assert any("classes have been added and are not used: 'c'" in line for line in told)
    assert before.identity["digest"] != after.identity["digest"]  # scores of the others are not taken for theirs
    # Drawn again, most would have changed sides.
    shutil.rmtree(root / "c")
    assert len(sides(sets.open_train("folder", tmp_path / "images", resolution=8))[1] & train) > 5


def test_another_of_the_class_stands_in_for_a_picture_that_is_gone(begun, tmp_path):
    run, before = begun
    epoch = {"seed": 1, "epoch": 2, "augment": False, "drop_last": False}
    first = numbers(before.train, before.train.batches(8, **epoch))
    a = [number for label, number in numbers(before.train) if label == 0]
    (tmp_path / "images" / "train" / "a" / f"{a[4]:02}.png").unlink()
    (tmp_path / "images" / "train" / "a" / f"{a[-1]:02}.png").unlink()
    second = numbers(run.images().train, run.images().train.batches(8, **epoch))
    stands_in = {(0, a[4]): (0, a[5]), (0, a[-1]): (0, a[0])}  # the next one; behind the last the first
    assert second == [stands_in.get(pair, pair) for pair in first]
    ranks = [numbers(before.train, run.images().train.batches(4, **epoch, rank=r, world=2)) for r in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(second)


def test_what_is_added_changes_no_batch(begun, tmp_path):
    run, before = begun
    epoch = {"seed": 1, "epoch": 2, "augment": True, "drop_last": True}
    expected = list(before.train.batches(8, **epoch))
    save(tmp_path / "images" / "train" / "a" / "000.png", 9)
    for (x, y), (v, w) in zip(run.images().train.batches(8, **epoch), expected, strict=True):
        assert torch.equal(x, v)
        assert torch.equal(y, w)


def test_the_same_settings_continue_a_run_with_its_own_split(begun, tmp_path):
    run, _ = begun
    (tmp_path / "images" / "train" / "b" / "00.png").unlink()
    images = sets.open_train("folder", tmp_path / "images", resolution=8, **run.opening())
    settings = {**run.config(), "data_root": "elsewhere"}
    settings.pop("made_with")
    written = run.split_path.read_bytes()
    assert not run.begin(settings, images=images)
    assert run.split_path.read_bytes() == written
    assert run.begin(settings, images=sets.open_train("folder", tmp_path / "images", resolution=8), restart=True)
    assert run.split_path.read_bytes() != written


def test_another_folder_is_not_the_run_s(begun, tmp_path):
    run, _ = begun
    for path in sorted((tmp_path / "images" / "train").rglob("*.png"))[:55]:
        path.rename(path.with_name("other-" + path.name))
    assert "has 45 of the 100 images that the run began with: expected the same folder" in refused(run.images)


def test_a_class_without_images_on_a_side_is_refused(begun, tmp_path):
    run, before = begun
    for name in before.val.names[before.val.labels == 1].tolist():
        (tmp_path / "images" / "train" / os.fsdecode(name)).unlink()
    assert "class 'b' has no validation image left that can be read: restore some" in refused(run.images)
    shutil.rmtree(tmp_path / "images" / "train" / "b")
    assert "images/train has other classes than the run began with: 'b' missing; restore" in refused(run.images)
    shutil.rmtree(tmp_path / "images" / "val" / "b")
    assert "images/val has other classes than the run began with: 'b' missing; restore" in refused(run.test_images)


def test_a_test_set_that_has_gone_is_told_before_a_search(begun, tmp_path, caplog):
    run, before = begun
    shutil.rmtree(tmp_path / "images" / "val" / "b")
    assert len(run.images().val) == len(before.val)
    assert "val has other classes than the run began with: 'b' missing" in caplog.text
    assert "a network cannot be tested until then" in caplog.text


def test_folds_and_channels_are_those_that_the_run_began_with(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "images")
    run, images = begin(tmp_path, fold=(1, 4), channels=1)
    assert len(images.val) == 25
    found = run.images()
    assert sides(found) == sides(images)
    assert found.channels == run.test_images().channels == 1


def test_a_run_without_the_file_goes_on_as_it_did(drawn, tmp_path):
    """By its seed, 50 of every class; grey files are colour."""
    for name in "ab":
        (tmp_path / "images" / "val" / name).mkdir(parents=True)
        for i in range(70):
            save(tmp_path / "images" / "val" / name / f"{i}.png", i)
    shutil.copytree(tmp_path / "images" / "val", tmp_path / "images" / "train")
    (tmp_path / "images" / "train" / "a" / ".ipynb_checkpoints").mkdir()
    save(tmp_path / "images" / "train" / "a" / ".ipynb_checkpoints" / "0.png", 1)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "train" / "a" / "animated.gif")  # which was not read
    run = RunFolder(tmp_path / "run")
    settings = {"data": "folder", "data_root": str(tmp_path / "images"), "seed": 3, "resolution": 8}
    run.begin(settings)
    found = run.images()
    assert np.bincount(found.val.labels).tolist() == [50, 50]
    assert np.bincount(found.train.labels).tolist() == [21, 20]  # with the hidden one
    assert found.channels == 3
    again = sets.open_train("folder", tmp_path / "images", resolution=8, seed=3, val_per_class=50, old=True)
    assert sides(found) == sides(again)
    assert not run.split_path.exists()


def test_images_with_numbers_keep_their_sides(tmp_path):
    run, images = RunFolder(tmp_path / "run"), sets.open_train("digits", tmp_path, seed=5, fold=(2, 3))
    run.begin({"data": "digits", "data_root": ".", "seed": 5, "resolution": None}, images=images)
    found = run.images()
    assert np.array_equal(found.val.index, images.val.index)
    assert np.array_equal(found.train.index, images.train.index)
    assert len(found.val) == pytest.approx(1437 / 3, abs=10)
    read = json.loads(run.split_path.read_text())
    assert read["rows"] == {"images": 1437, "val": images.val.index.tolist()}
    run.split_path.write_text(json.dumps({**read, "rows": {"images": 1436, "val": []}}))
    assert "digits has 1,437 training images, the run began with 1,436" in refused(run.images)


# Class folders that differ


def test_class_folders_that_differ_are_told_before_anything_else(drawn, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(drawn, root)
    (root / "val" / "a").rename(root / "val" / "A")
    (root / "train" / "b").rename(root / "train" / "B-1")
    (root / "val" / "b").rename(root / "val" / "b 1")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    told = refused(sets.open_train, "folder", root)
    assert f"{root}/val lacks 'B-1', 'a'; {root}/train lacks 'A', 'b 1'" in told
    assert "('B-1' and 'b 1', 'a' and 'A' seem to be one class); rename or delete folders, or add images" in told
    assert told == refused(sets.open_test, "folder", root)
