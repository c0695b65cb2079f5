"""Data: splits, stateless batches, augmentation, folders, refusal of damaged files."""

import hashlib
import json
import pickle
import random
import shutil
import struct
import urllib.error
import urllib.request
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils.class_weight import compute_class_weight

from supernet.data import sets, sources
from supernet.data.folder import scan
from supernet.data.images import MemoryImages
from supernet.errors import UserError
from tests import untidy
from tests.conftest import whole

SEED = {"seed": 3, "epoch": 2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return sets.open_train("digits", tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def fashion_root():
    """The checkout's own data folder, so that the 31 MB are fetched once and not in every run."""
    root = Path(__file__).parents[1] / "data"
    name, reason = sets.default_name(root)
    if name != "fashion-mnist":
        pytest.skip(f"no Fashion-MNIST here: {reason}")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noise images, 12 and 9 to train on, 3 and 2 to test on, in several modes and formats."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for part, counts in (("train", (12, 9)), ("val", (3, 2))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                shape = (20 + i, 30) if i % 3 == 0 else (20 + i, 30, 3)
                suffix = "png" if i % 2 else "jpg"
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / part / name / f"{i}.{suffix}")
    return root


def open_folder(root, workers=0, **options):
    return sets.open_train("folder", root, **{"val_per_class": 3, "resolution": 16, "workers": workers, **options})


def epoch(images, batch_size=7, **options):
    return list(images.batches(batch_size, **{**SEED, "augment": True, "drop_last": False, **options}))


def assert_same(left, right):
    assert len(left) == len(right) > 0
    for (x1, y1), (x2, y2) in zip(left, right, strict=True):
        assert torch.equal(x1, x2)
        assert torch.equal(y1, y2)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# Splits


@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.25}, {"val_per_class": 20}, {"val_fraction": 0.0}])
def test_validation_is_carved_from_train_and_stratified(tmp_path, options):
    opened = sets.open_train("digits", tmp_path, **options)
    train, val = opened.train, opened.val
    assert sorted([*train.index, *val.index]) == list(range(1437))
    for c in range(10):
        in_class = (train.labels == c).sum() + (val.labels == c).sum()
        if "val_per_class" in options:
            assert (val.labels == c).sum() == 20
        else:
            assert abs((val.labels == c).sum() - options.get("val_fraction", 0.1) * in_class) < 1
    if "val_fraction" in options:
        assert len(val) == round(options["val_fraction"] * 1437)


def test_the_split_depends_on_the_seed_and_not_on_the_limit(tmp_path):
    first, again = (sets.open_train("digits", tmp_path, seed=1) for _ in range(2))
    limited = sets.open_train("digits", tmp_path, seed=1, limit=200)
    other = sets.open_train("digits", tmp_path, seed=2)
    assert np.array_equal(first.val.index, again.val.index)
    assert np.array_equal(first.val.index, limited.val.index)
    assert not np.array_equal(first.val.index, other.val.index)
    assert len(limited.train) == 200
    assert set(limited.train.index) < set(first.train.index)
    assert len(sets.open_train("digits", tmp_path, limit=10**6).train) == 1437 - 144


def test_digits_test_part_is_fixed_and_apart(digits, tmp_path):
    test = sets.open_test("digits", tmp_path)
    assert len(test) == 360
    assert np.bincount(test.labels).min() >= 34
    # Every original lands in exactly one part. Sampled where an enlarged pixel lies wholly in one of the 8x8.
    original = load_digits().images
    parts = [whole(s) for s in (digits.train, digits.val, test)]
    pixels = torch.cat([x for x, _ in parts])[:, 0] * digits.train.std[0] + digits.train.mean[0]
    corners = pixels[:, ::27, ::27].mul(16).round().numpy()
    assert np.allclose(np.sort(corners.reshape(-1, 4), 0), np.sort(original[:, ::7, ::7].reshape(-1, 4), 0))
    total = pixels.mean((1, 2)).sort().values.numpy() * 16
    assert np.abs(total - np.sort(original.mean((1, 2)))).max() < 0.25  # bilinear enlarging nearly keeps the mean


def test_subset_is_stratified(digits):
    small = digits.train.subset(100, 5)
    assert len(small) == 100
    share = np.bincount(digits.train.labels) * 100 / len(digits.train)
    assert np.abs(np.bincount(small.labels) - share).max() < 1
    x, y = whole(small)
    whole_x, whole_y = whole(digits.train)
    place = np.searchsorted(digits.train.index, small.index)
    assert torch.equal(x, whole_x[place])
    assert torch.equal(y, whole_y[place])
    with pytest.raises(UserError, match="at least 1 image, got 0"):
        digits.train.subset(0, 5)


# Batches


def test_training_and_validation_are_together_the_training_part(digits, tmp_path):
    """In its order, and with the augmentation of the first."""
    whole = sets.open_train("digits", tmp_path, val_fraction=0).train
    both = digits.train.with_cutout(3).together(digits.val)
    assert both.cutout == 3
    for (x, y), (expected, labels) in zip(both.in_order(512), whole.in_order(512), strict=True):
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)
    assert len(digits.train) < len(both) == len(whole)  # the parts stay as they are


def test_batches_are_normalised_channels_last(digits):
    opened = digits
    assert (opened.classes, opened.channels, opened.resolution) == (10, 1, 28)
    assert (opened.train.mirror, opened.train.margin) == (False, 2)
    batches = epoch(opened.train, 64, augment=False)
    x, y = batches[0]
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((64, 1, 28, 28), torch.float32, (64,), torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.stride() == (784, 1, 28, 1)
    assert len(batches) == opened.train.steps(64, False) == 21  # 1293 images
    assert len(epoch(opened.train, 64, drop_last=True)) == opened.train.steps(64, True) == 20
    everything = torch.cat([whole(opened.train)[0], whole(opened.val)[0]])
    assert abs(everything.mean()) < 1e-5
    assert abs(everything.std() - 1) < 1e-4


def test_an_epoch_holds_every_image_once_with_its_label(digits):
    x, y = (torch.cat(parts) for parts in zip(*epoch(digits.val, augment=False), strict=True))
    whole_x, whole_y = whole(digits.val)
    place = (x.flatten(1)[:, None] == whole_x.flatten(1)[None]).all(2).nonzero()  # no two digits are the same image
    assert torch.equal(place[:, 0], torch.arange(len(digits.val)))
    assert torch.equal(place[:, 1].sort().values, torch.arange(len(digits.val)))
    assert torch.equal(y, whole_y[place[:, 1]])
    assert not torch.equal(place[:, 1], torch.arange(len(digits.val)))


def test_plain_batches_are_every_image_as_it_is(digits):
    x, y = (torch.cat(parts) for parts in zip(*digits.val.plain_batches(64), strict=True))
    whole_x, whole_y = whole(digits.val)
    label = {image.numpy().tobytes(): int(label) for image, label in zip(whole_x, whole_y, strict=True)}
    assert len(x) == len(digits.val) == len({image.numpy().tobytes() for image in x})
    assert [label[image.numpy().tobytes()] for image in x] == y.tolist()
    assert torch.equal(x, torch.cat([x for x, _ in digits.val.plain_batches(50)]))  # always in the same order


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(digits, start):
    whole = epoch(digits.val, 24)
    assert_same(epoch(digits.val, 24, start=start), whole[start:])
    assert epoch(digits.val, 24, start=len(whole)) == []


def test_seed_and_epoch_change_order_and_augmentation(digits):
    (x, y), *_ = epoch(digits.train)
    for other in ({"seed": 4}, {"epoch": 3}):
        (x2, y2), *_ = epoch(digits.train, **other)
        assert not torch.equal(x, x2)
        assert not torch.equal(y, y2)


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_out_the_global_batches(digits, drop_last):
    whole = epoch(digits.val, 30, drop_last=drop_last)  # 144 images: a last batch of 24
    ranks = [epoch(digits.val, 10, rank=r, world=3, drop_last=drop_last) for r in range(3)]
    assert [len(r) for r in ranks] == [len(whole)] * 3 == [digits.val.steps(10, drop_last, 3)] * 3
    for t, (x, y) in enumerate(whole):
        assert torch.equal(torch.stack([r[t][0] for r in ranks], 1).flatten(0, 1), x)
        assert torch.equal(torch.stack([r[t][1] for r in ranks], 1).flatten(), y)


def test_a_rank_may_get_an_empty_last_batch(digits, folder):
    assert [len(y) for _, y in epoch(digits.val.subset(31, 0), 10, rank=2, world=3)] == [10, 0]
    batches = epoch(open_folder(folder).val, 2, rank=2, world=3)  # 6 images: one batch of 2 each
    assert [x.shape for x, _ in batches] == [(2, 3, 16, 16)]
    batches = epoch(open_folder(folder).val, 1, rank=3, world=4)
    assert [x.shape for x, _ in batches] == [(1, 3, 16, 16), (0, 3, 16, 16)]


def test_impossible_batches_are_refused(digits):
    with pytest.raises(UserError, match="batch size of at least 1, got 0"):
        digits.train.steps(0, True)
    with pytest.raises(UserError, match=r"a batch of 2000 images needs .* this one has 1293: lower"):
        digits.train.batches(1000, **SEED, augment=True, drop_last=True, world=2)
    with pytest.raises(ValueError, match=r"start in \[0, 1\]"):
        digits.train.batches(2000, **SEED, augment=True, drop_last=False, start=2)
    with pytest.raises(ValueError, match="rank"):
        digits.train.batches(20, **SEED, augment=True, drop_last=False, rank=1)


# Classes of few images


def uneven(counts=(90, 30, 6)):
    """Labels in a mixed order, of pictures whose every pixel is the number of the picture."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 1)
    return MemoryImages(images.contiguous(), labels, (0.0,), (1 / 255,), 0, False)


@pytest.mark.parametrize("counts", [(90, 30, 6), (7, 5), (1, 40, 1, 1), (0, 3, 9)])
def test_sampling_draws_classes_equally_often(counts):
    images = uneven(counts).balanced("sampling")
    present, total = sum(n > 0 for n in counts), sum(counts)
    for number in range(3):
        x, y = (torch.cat(parts) for parts in zip(*epoch(images, 8, augment=False, epoch=number), strict=True))
        seen = np.bincount(x[:, 0, 0, 0].round().long(), minlength=total)
        assert len(y) == total
        for label, size in enumerate(counts):
            drawn = seen[images.labels == label]
            if size:
                assert abs(drawn.sum() - total / present) < 1
                assert drawn.max() - drawn.min() <= 1  # each as often as the others of its class
        assert torch.equal(y, torch.from_numpy(images.labels)[x[:, 0, 0, 0].round().long()])


def test_sampling_has_no_state_and_what_is_evaluated_is_whole():
    images = uneven().balanced("sampling")
    first = epoch(images, 9)
    assert_same(epoch(images, 9, start=4), first[4:])
    for rank in range(3):
        assert_same(epoch(images, 3, rank=rank, world=3), [(x[rank::3], y[rank::3]) for x, y in first])
    assert not torch.equal(epoch(images, 9, epoch=5)[0][0], first[0][0])
    for plain in (images.plain_batches(10), images.in_order(10)):
        assert torch.cat([x[:, 0, 0, 0] for x, _ in plain]).round().long().sort().values.tolist() == list(range(126))


def test_weights_of_classes_are_those_of_scikit_learn():
    images = uneven()
    assert images.class_weights() is None
    assert images.balanced("sampling").class_weights() is None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=images.labels)
    weights = images.balanced("loss").class_weights()
    assert np.allclose(weights, expected, rtol=1e-6)
    assert weights[images.labels].mean() == pytest.approx(1, rel=1e-6)
    assert images.balanced("loss").take(np.arange(50)).balance == "loss"


# Augmentation


@pytest.mark.parametrize(("channels", "margin", "mirror"), [(1, 2, False), (3, 2, True), (3, 4, True)])
def test_augmented_images_are_shifted_and_mirrored_copies(channels, margin, mirror):
    side, n = 9, 400
    images = torch.randint(1, 256, (n, side, side, channels), dtype=torch.uint8, generator=torch.manual_seed(0))
    mean, std = torch.arange(1.0, channels + 1) / 9, torch.arange(2.0, channels + 2) / 9
    labels = np.arange(n)
    images_set = MemoryImages(images, labels, tuple(mean.tolist()), tuple(std.tolist()), margin, mirror)
    seen = set()
    for x, y in epoch(images_set, 64):
        for picture, label in zip(x, y, strict=True):
            # Slow and independent: try every shift and flip, pixel copies with zeros outside.
            pixels = ((picture.permute(1, 2, 0) * std + mean) * 255).round().numpy()
            source = images[label].numpy()
            found = []
            for down in range(-margin, margin + 1):
                for right in range(-margin, margin + 1):
                    moved = np.zeros_like(source)
                    to = (
                        slice(max(0, -down), side - max(0, down)),
                        slice(max(0, -right), side - max(0, right)),
                    )
                    of = (
                        slice(max(0, down), side - max(0, -down)),
                        slice(max(0, right), side - max(0, -right)),
                    )
                    moved[to] = source[of]
                    found += [
                        (down, right, f) for f in (False, True) if (pixels == (moved[:, ::-1] if f else moved)).all()
                    ]
            assert len(found) == 1
            seen.add(found[0])
    flips = {f for _, _, f in seen}
    assert flips == ({False, True} if mirror else {False})
    assert len({(d, r) for d, r, _ in seen}) == (2 * margin + 1) ** 2


def test_shifts_and_flips_are_uniform():
    image = torch.zeros(1, 5, 5, 1, dtype=torch.uint8)
    image[0, 2, 2], image[0, 2, 1] = 255, 128  # the neighbour tells the direction
    images = MemoryImages(image.expand(20_000, 5, 5, 1), np.zeros(20_000, np.int64), (0.0,), (1 / 255,), 2, True)
    ((x, _),) = epoch(images, 20_000)
    place = (x[:, 0] == 255).flatten(1).float().argmax(1)
    count = torch.bincount(place, minlength=25)
    assert count.sum() == 20_000
    assert (count - 800).abs().max() < 5 * 800**0.5
    mirrored = (x[:, 0, :, 1:] == 128) & (x[:, 0, :, :-1] == 255)
    inside = place % 5 > 0
    inside &= place % 5 < 4
    assert abs(mirrored[inside].flatten(1).any(1).float().mean() - 0.5) < 0.02


def test_cutout_blanks_one_square_per_image():
    images = torch.full((400, 12, 12, 3), 255, dtype=torch.uint8)
    white = MemoryImages(images, np.zeros(400, np.int64), (0.5,) * 3, (0.25,) * 3, 0, False)  # white is 2, blank 0
    for untouched in (epoch(white, 50), epoch(white.with_cutout(4), 50, augment=False)):
        assert all((x == 2).all() for x, _ in untouched)
    x = torch.cat([x for x, _ in epoch(white.with_cutout(4), 50)])
    blank = x[:, 0] == 0
    assert ((x == 0) == blank[:, None]).all()
    rows, columns = blank.any(2), blank.any(1)
    assert (blank == rows[:, :, None] & columns[:, None, :]).all()  # a rectangle
    # A centre at pixel c covers c - 2 to c + 1 of 0 to 11: a full side from 2 to 10, cut at the border elsewhere.
    side = rows.sum(1)
    assert set(side.tolist()) == {2, 3, 4}
    assert 0.65 < (side == 4).double().mean() < 0.85  # 9 of 12 centres
    assert (rows[:, 1:].int() - rows[:, :-1].int() == 1).sum(1).max() == 1  # without gaps


def test_cutout_is_stateless(digits):
    cut = digits.train.with_cutout(4)
    whole = epoch(cut, 8)
    assert_same(epoch(cut, 8, start=5), whole[5:])
    for rank in range(2):
        part = epoch(cut, 4, rank=rank, world=2)
        assert_same(part, [(x[rank::2], y[rank::2]) for x, y in whole])
    assert (digits.train.cutout, cut.take(np.arange(5)).cutout) == (0, 4)


def test_the_global_generators_are_left_alone(digits, folder):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    opened = open_folder(folder), open_folder(folder, workers=1)
    before = state()
    epoch(digits.val)
    for images in opened:
        epoch(images.train)
    assert state() == before


# Folder


def test_folder_split_and_shapes(folder):
    opened = open_folder(folder)
    assert (opened.classes, opened.channels, opened.resolution) == (2, 3, 16)
    assert opened.class_names == ("cat", "dog")
    assert np.bincount(opened.val.labels).tolist() == [3, 3]
    assert np.bincount(opened.train.labels).tolist() == [9, 6]
    assert sorted([*opened.train.index, *opened.val.index]) == list(range(21))
    assert not set(opened.train.names[opened.train.labels == 0]) & set(opened.val.names[opened.val.labels == 0])
    assert len(sets.open_test("folder", folder, resolution=16)) == 5
    x, y = whole(opened.val)
    assert x.shape == (6, 3, 16, 16)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert y.tolist() == opened.val.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_folder_batches_do_not_depend_on_workers_or_history(folder):
    alone, helped = open_folder(folder).train, open_folder(folder, workers=2).train
    whole = epoch(alone, 4)
    random.seed(99)  # what the process drew before is of no consequence
    assert_same(whole, epoch(helped, 4))
    assert_same(whole[2:], epoch(helped, 4, start=2))
    assert whole[0][0].is_contiguous(memory_format=torch.channels_last)
    for other in ({"epoch": 3}, {"seed": 1}):
        assert not torch.equal(epoch(alone, 4, **other)[0][0], whole[0][0])


def test_two_folder_epochs_can_be_under_way_at_once(folder):
    train = open_folder(folder, workers=1).train
    outer = train.batches(4, **SEED, augment=True, drop_last=False)
    first = next(outer)
    inner = epoch(train, 4, epoch=9, augment=False)
    assert_same([first, *outer], epoch(train, 4))
    assert len(inner) == 4


def test_folder_ranks_share_out_the_global_batches(folder):
    train = open_folder(folder).train
    whole = epoch(train, 6, drop_last=True)
    ranks = [epoch(train, 3, rank=r, world=2, drop_last=True) for r in range(2)]
    for t, (x, y) in enumerate(whole):
        assert torch.equal(torch.stack([r[t][0] for r in ranks], 1).flatten(0, 1), x)
        assert torch.equal(torch.stack([r[t][1] for r in ranks], 1).flatten(), y)


def test_a_plain_folder_image_is_resized_cropped_and_normalised(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "red").mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 30), (255, 0, 128)).save(tmp_path / part / "red" / f"{i}.png")
    x, _ = whole(open_folder(tmp_path, val_per_class=1).val)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]
    assert torch.allclose(x, torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, 16, 16), atol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(folder, tmp_path, workers):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    bad = tmp_path / "train" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        epoch(open_folder(tmp_path, workers=workers, val_per_class=0).train)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_named(folder, tmp_path):
    def refuses(message, **options):
        with pytest.raises(UserError, match=message):
            open_folder(tmp_path / "images", **options)

    refuses("images/train with one folder of images per class")
    shutil.copytree(folder, tmp_path / "images")
    refuses("at least 10 training images in every class, 9 of them to .*: class 'dog' has 9; add", val_per_class=9)
    refuses("got val_fraction 0.1 and val_per_class 3; drop", val_fraction=0.1)
    refuses("resolution >= 1", resolution=0)
    (tmp_path / "images" / "train" / "axolotl").mkdir()
    (tmp_path / "images" / "val" / "axolotl").mkdir()
    refuses(r"images \(.jpg, .png, …\) in .*train/axolotl, found none")
    (tmp_path / "images" / "val" / "axolotl").rmdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "train" / "axolotl" / "0.png")
    refuses("the same class folders .*: .*images/val lacks 'axolotl'; rename or delete")
    shutil.rmtree(tmp_path / "images" / "train")
    (tmp_path / "images" / "train").mkdir()
    refuses("cannot read .*images/train")
    shutil.rmtree(tmp_path / "images" / "val")
    refuses("images/val with one folder")


def test_what_tools_and_systems_leave_is_no_image_and_told(tmp_path):
    drawn = untidy.draw(tmp_path)
    for name in ("stray.png", "another.JPG"):
        shutil.copy(tmp_path / "train/cat/000.png", tmp_path / "train" / name)
    data = sets.open_train("folder", tmp_path, val_fraction=0.0)
    assert data.class_names == ("cat", "dog", "owl")
    names = {f"train/{name.decode()}" for name in data.train.names}
    train = {name for name in (*drawn.shown, *drawn.damaged) if name.startswith("train")}
    assert names == {*train, "train/dog/deeper/050.PNG"}
    told = "\n".join(data.notes)
    hidden = "'.ipynb_checkpoints', '__MACOSX', 'dog/.ipynb_checkpoints', 'dog/deeper/.ipynb_checkpoints'"
    assert f"{tmp_path}/train: folders passed over: {hidden}" in told
    assert f"{tmp_path}/train: files passed over, as they are no images: 1 .heic, 1 .txt" in told
    assert f"{tmp_path}/val: folders passed over: '.ipynb_checkpoints'" in told
    assert f"{tmp_path}/train: 2 images lie beside the class folders, of no class, and passed over" in told
    assert f"{tmp_path}/val: 1 image" not in told


def test_files_are_listed_in_the_order_of_torchvision(tmp_path):
    """On which the digests of runs rest, and their splits where they have none by name."""
    for name in ("b/2.png", "b/10.png", "b/x/1.png", "b/x-1/1.png", "a/z.JPG", "a/B/1.bmp", "a b/1.webp"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "train" / name)
    theirs = torchvision.datasets.ImageFolder(tmp_path / "train")
    for old in (False, True):
        ours = scan(tmp_path / "train", old=old)
        assert [str(tmp_path / "train" / name) for name in ours.names] == [path for path, _ in theirs.samples]
        assert ours.labels.tolist() == theirs.targets
        assert list(ours.classes) == theirs.classes


# Fashion-MNIST


def test_fashion_mnist_is_the_published_set(fashion_root):
    opened, test = (
        sets.open_train("fashion-mnist", fashion_root),
        sets.open_test("fashion-mnist", fashion_root),
    )
    labels = np.concatenate([opened.train.labels, opened.val.labels])
    assert np.bincount(labels).tolist() == [6000] * 10
    assert np.bincount(opened.val.labels).tolist() == [600] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    # Mean and deviation as published all over, and torchvision's own reader as the witness for the pixels.
    assert opened.train.mean == test.mean == pytest.approx((0.2860,), abs=1e-4)
    assert opened.train.std == test.std == pytest.approx((0.3530,), abs=1e-4)
    assert opened.train.mirror
    witness = torchvision.datasets.FashionMNIST(fashion_root, train=False)
    x, y = whole(test)
    assert torch.equal(y, witness.targets)
    assert torch.allclose(x[:, 0] * 0.3530 + 0.2860, witness.data / 255, atol=2e-4)
    assert opened.class_names[9] == "Ankle boot"


def test_a_damaged_fashion_mnist_file_is_refused(fashion_root, tmp_path):
    shutil.copytree(fashion_root / "FashionMNIST", tmp_path / "FashionMNIST")
    for name, use in (("t10k-labels", sets.open_test), ("train-images", sets.open_train)):
        (path,) = (tmp_path / "FashionMNIST" / "raw").glob(f"{name}*")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{path} is damaged .*; delete it"):
            use("fashion-mnist", tmp_path)


def test_a_missing_fashion_mnist_file_is_fetched(fashion_root, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    shutil.copytree(fashion_root / "FashionMNIST" / "raw", raw)
    content = (raw / "t10k-labels-idx1-ubyte").read_bytes()
    (raw / "t10k-labels-idx1-ubyte").unlink()
    name, reason = sets.default_name(tmp_path)
    if name != "fashion-mnist":
        pytest.skip(f"Fashion-MNIST cannot be fetched here: {reason}")
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes() == content
    assert len(list(raw.iterdir())) == 4


def test_without_any_source_fashion_mnist_says_what_to_do(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(sources, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"put train-images-idx3-ubyte, .* there, uncompressed, or use digits"
    ) as caught:
        sets.open_train("fashion-mnist", tmp_path)
    assert "\n" not in str(caught.value)
    assert "no route to host" in str(caught.value)
    name, reason = sets.default_name(tmp_path)
    assert name == "digits"
    assert "no apt-get" in reason
    assert not (tmp_path / "FashionMNIST").exists()


def test_a_damaged_source_is_never_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "INSTALLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in sources.FASHION_MNIST:
        (tmp_path / f"{name}.gz").write_bytes(b"\x1f\x8b no gzip")
    name, reason = sets.default_name(tmp_path / "root")
    assert (name, "package: " in reason, (tmp_path / "root").exists()) == ("digits", True, False)


# The others, through torchvision


def test_kmnist_from_files_put_there(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28))
    for part in ("train", "t10k"):
        write_idx(tmp_path / "KMNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / "KMNIST" / "raw" / f"{part}-labels-idx1-ubyte", np.arange(40) % 10)
    test = sets.open_test("kmnist", tmp_path)
    x, y = whole(test)
    assert not test.mirror
    assert y.tolist() == [*range(10)] * 4
    assert np.allclose(x[:, 0] * images.std() + images.mean(), images, atol=1e-2)

    path = tmp_path / "KMNIST" / "raw" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    for damaged in (b"", content[:3], content[:-1], content[:16]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"KMNIST .* is missing or damaged.*delete"):
            sets.open_train("kmnist", tmp_path)
    path.write_bytes(content)
    write_idx(tmp_path / "KMNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(40) % 10 + 1)
    with pytest.raises(UserError, match=r"KMNIST is damaged: .* each with a label, got"):
        sets.open_train("kmnist", tmp_path)


def test_emnist_is_turned_upright(tmp_path):
    upright = np.zeros((47, 28, 28), np.uint8)
    upright[:, 2, 3:20] = 255  # a bar at the top
    for part in ("train", "test"):
        raw = tmp_path / "EMNIST" / "raw" / f"emnist-balanced-{part}"
        write_idx(raw.with_name(raw.name + "-images-idx3-ubyte"), upright.swapaxes(1, 2))
        write_idx(raw.with_name(raw.name + "-labels-idx1-ubyte"), np.arange(47))
    x, _ = whole(sets.open_test("emnist", tmp_path))
    assert torch.equal(x[:, 0] > 0, torch.from_numpy(upright > 0))
    assert not sets.open_test("emnist", tmp_path).mirror
    assert sets.open_train("emnist", tmp_path, val_fraction=0).class_names[10] == "A"


def test_cifar_from_files_put_there(tmp_path, monkeypatch):
    """The real layout with our own pixels, whose checksums take the place of the published ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    names = [f"class {c}" for c in range(10)]

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return [name, md5((base / name).read_bytes()).hexdigest()]

    cifar = torchvision.datasets.CIFAR10
    batch = {"data": pixels.reshape(20, -1), "labels": [*range(10)] * 2}
    monkeypatch.setattr(cifar, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(cifar, "test_list", [write("test_batch", batch)])
    meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(cifar, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    x, y = whole(sets.open_test("cifar10", tmp_path))
    assert y.tolist() == [*range(10)] * 2
    flat = pixels.transpose(1, 0, 2, 3).reshape(3, -1)
    back = x.numpy() * flat.std(1).reshape(3, 1, 1) + flat.mean(1).reshape(3, 1, 1)
    assert np.allclose(back, pixels, atol=1e-2)
    opened = sets.open_train("cifar10", tmp_path, val_per_class=1)
    assert (opened.class_names[3], opened.channels, opened.resolution) == ("class 3", 3, 32)
    assert opened.train.margin == 4
    assert opened.train.mirror


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "kmnist", "emnist"])
def test_a_failed_download_says_what_to_put_where(name, tmp_path, no_network):
    with pytest.raises(UserError, match=r"no download helped .*no route to host.*put the .*or use digits") as caught:
        sets.open_train(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused(tmp_path):
    for message, name, options in (
        ("digits, fashion-mnist, .*folder, hf:NAME, hf:FOLDER, or FILE.py:function, got 'mnist'", "mnist", {}),
        (r"val_fraction in \[0, 1\), got 1", "digits", {"val_fraction": 1.0}),
        ("got resolution 32", "digits", {"resolution": 32}),
        ("seed of at least 0", "digits", {"seed": -1}),
        (r"at least 1,001 training images in every class", "digits", {"val_per_class": 1000}),
        ("val_per_class of at least 0", "digits", {"val_per_class": -1}),
        ("at least 1 image, got 0", "digits", {"limit": 0}),
    ):
        with pytest.raises(UserError, match=message):
            sets.open_train(name, tmp_path, **options)


# What tells data from other data


def test_a_folder_has_the_same_identity_wherever_it_lies(folder, tmp_path):
    identity = open_folder(folder).identity
    assert identity["name"] == "folder"
    assert identity["classes"] == ["cat", "dog"]
    assert identity["images"] == {"train": 15, "val": 6}
    shutil.copytree(folder, tmp_path / "elsewhere")
    moved = open_folder(tmp_path / "elsewhere", resolution=8, workers=1, limit=5).identity
    assert json.loads(json.dumps(moved)) == identity
    sets.require_same(identity, moved, "the run")


def test_other_data_are_refused(folder, tmp_path):
    identity = open_folder(folder).identity

    def refuses(message, source="digits", **changes):
        other = open_folder(tmp_path / "other").identity if source == "folder" else changes
        with pytest.raises(UserError, match=message) as caught:
            sets.require_same(identity, other, "runs/a")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("runs/a was made with ")

    def fresh():
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "other")
        return tmp_path / "other"

    for part in ("train", "val"):
        (fresh() if part == "train" else tmp_path / "other").joinpath(part, "dog").rename(
            tmp_path / "other" / part / "wolf"
        )
    refuses("other classes: 'dog' is called 'wolf' now", "folder")
    other = fresh()
    for part in ("train", "val"):
        shutil.copytree(other / part / "dog", other / part / "elk")
    refuses("other classes: 'elk' added", "folder")
    other = fresh()
    shutil.copy(other / "train" / "dog" / "0.jpg", other / "train" / "dog" / "more.jpg")
    refuses("other numbers of images: train 15 -> 16", "folder")
    other = fresh()
    (other / "train" / "dog" / "0.jpg").rename(other / "train" / "dog" / "00.jpg")
    refuses("other images of the same number", "folder")
    other = fresh()
    with (other / "train" / "dog" / "0.jpg").open("ab") as file:
        file.write(b"more")
    refuses("other images of the same number", "folder")
    refuses("the data set folder, not digits", **sets.open_train("digits", tmp_path).identity)
    refuses("'cat', 'dog' missing; 'a', 'b', 'c' added", **{**identity, "classes": ["a", "b", "c"]})
    refuses("other classes: their order", **{**identity, "classes": ["dog", "cat"]})


def test_a_set_in_memory_is_told_by_its_labels(tmp_path):
    one, two = (sets.open_train("digits", tmp_path, seed=seed).identity for seed in (0, 1))
    assert one == two
    assert one["images"] == {"train": 1293, "val": 144}
    assert one["digest"] == hashlib.sha256(digits_labels().astype("<i8").tobytes()).hexdigest()[:16]


def digits_labels() -> np.ndarray:
    """Of the training part, in the order of the whole set."""
    raw = sources.digits(Path(), True)
    assert np.bincount(raw.labels).sum() == 1437
    return raw.labels


@pytest.mark.parametrize(
    ("name", "advice"),
    [("my pets", "it is --data folder --data-root 'my pets'"), ("nowhere", "got 'nowhere'; choose one of these")],
)
def test_a_folder_that_is_named_as_the_set_is_told_how_it_is_given(name, advice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my pets").mkdir()
    with pytest.raises(UserError, match=f"{advice}$"):
        sets.open_train(name, tmp_path)
