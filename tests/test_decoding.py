"""Decoding: at reduced size, by processes that stay, and pixels that are the same by every way."""

import contextlib
import io
import os
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from supernet.data import pictures, sets, transforms
from supernet.data.decoding import normalise, tensor
from supernet.data.folder import FolderImages
from supernet.errors import UserError
from supernet.size import Size
from tests.conftest import refused


def waves(width, height):
    """A smooth picture with detail of a few pixels, as photographs have."""
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / a) + np.cos(y / b) + 0.3 * np.sin((x + y) / 3) for a, b in ((20, 31), (44, 9), (13, 50))]
    picture = np.stack(channels, -1)
    return Image.fromarray(np.uint8(255 * (picture - picture.min()) / np.ptp(picture)))


def jpeg(image):
    """The image as a JPEG file that is opened, not decoded."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=92)
    file.seek(0)
    return Image.open(file)


def seeded(call, image, seed):
    random.seed(seed)
    torch.manual_seed(seed)
    return call(image)


@pytest.mark.parametrize("size", [(500, 375), (200, 300), (130, 131), (40, 64)])
@pytest.mark.parametrize("augment", [False, True])
def test_images_that_are_not_reduced_are_those_of_timm(size, augment):
    """To the bit, and with the same random draws: a JPEG file that is decoded first, and PNG's modes."""
    ours = transforms.photograph(Size.of(112))[augment]
    options = {"is_training": True, "interpolation": "random"} if augment else {"interpolation": "bicubic"}
    theirs = create_transform(112, mean=transforms.IMAGENET[0], std=transforms.IMAGENET[1], crop_pct=0.875, **options)
    for seed, mode in enumerate(("RGB", "L", "P", "RGBA", "RGB")):
        image = waves(*size).convert(mode)
        x = normalise(tensor(seeded(ours, image, seed))[None], *transforms.IMAGENET)[0]
        assert torch.equal(x, seeded(theirs, image.convert("RGB"), seed))


@pytest.mark.parametrize(("size", "factor"), [((125, 94), 1), ((251, 189), 2), ((500, 375), 4), ((1000, 750), 8)])
def test_a_jpeg_file_is_decoded_no_larger_than_needed(size, factor):
    image, middle = waves(*size), pictures.Fit((56, 56), (64, 64))
    whole = jpeg(image)
    x = np.asarray(middle(whole), dtype=float)
    assert whole.size == tuple(-(-side // factor) for side in size)
    full = np.asarray(middle(jpeg(image).convert("RGB")), dtype=float)
    assert np.abs(x - full).mean() < 1.5
    assert np.abs(x - full).max() < 30 if factor > 1 else np.array_equal(x, full)


def test_random_parts_of_reduced_files_lie_where_they_should():
    """Against parts of the decoded image by the same draws; a part that is off by a pixel differs far more."""
    part, picture, reduced = transforms.RandomPart(Size.of(80)), waves(320, 240), 0
    for seed in range(20):
        file = jpeg(picture)
        x = np.asarray(seeded(part, file, seed), dtype=float)
        full = np.asarray(seeded(part, picture, seed), dtype=float)
        reduced += file.size != picture.size
        off = np.abs(full[1:, 1:] - full[:-1, :-1]).mean()
        assert np.abs(x - full).mean() < 0.25 * off
    assert 0 < reduced < 20


def test_the_part_keeps_as_many_pixels_as_it_is_resized_to():
    for side in (224, 225, 226):
        file = jpeg(waves(451, 460))
        pictures.Fit((side, side), interpolation="bilinear")(file)
        assert file.size == ((226, 230) if side <= 225 else (451, 460))


def test_normalising_is_that_of_torchvision():
    from torchvision.transforms.functional import normalize, to_tensor

    images = [waves(33, 33) for _ in range(3)]
    rows = torch.stack([tensor(image) for image in images])
    x = normalise(rows, *transforms.IMAGENET)
    assert torch.equal(x, torch.stack([normalize(to_tensor(image), *transforms.IMAGENET) for image in images]))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert normalise(torch.empty(0, 8, 8, 1, dtype=torch.uint8), (0.5,), (0.5,)).shape == (0, 1, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    for i in range(24):
        path = root / ("val" if i < 4 else "train") / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        waves(60 + i, 50).save(path)
    return root


def opened(folder, workers):
    return sets.open_train("folder", folder, val_per_class=3, resolution=16, workers=workers)


def children():
    """The processes of ours that decode."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{task}/children") as file:
            found |= {int(pid) for pid in file.read().split()}  # a thread that has ended meanwhile left them to another
    return found


def epoch(images, number, **options):
    return [x for x, _ in images.batches(4, seed=1, epoch=number, augment=True, drop_last=False, **options)]


def test_processes_outlive_an_epoch_and_serve_every_part(folder):
    before, data = children(), opened(folder, 2)
    first = epoch(data.train, 0)
    processes = children() - before
    assert len(processes) == 2
    next(data.train.batches(4, seed=1, epoch=7, augment=True, drop_last=False))  # ended after a batch
    second, alone = epoch(data.train, 1), opened(folder, 0)
    plain = [x for x, _ in data.val.plain_batches(2)]
    assert children() - before == processes
    for mine, expected in ((first, epoch(alone.train, 0)), (second, epoch(alone.train, 1))):
        assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
    assert all(torch.equal(a, b) for a, (b, _) in zip(plain, alone.val.plain_batches(2), strict=True))
    del data
    assert not children() & processes


def test_a_process_that_ends_is_told_in_one_line(folder, monkeypatch):
    data, this, decode = opened(folder, 1), os.getpid(), FolderImages.pixels

    def pixels(self, index, transform):
        if os.getpid() != this and index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, index, transform)

    monkeypatch.setattr(FolderImages, "pixels", pixels)
    assert "a process that decodes images has ended" in refused(epoch, data.train, 0)
    monkeypatch.undo()
    assert len(epoch(data.train, 0)) == len(epoch(opened(folder, 0).train, 0))  # others take its place


def test_a_negative_number_of_processes_is_refused(folder):
    with pytest.raises(UserError, match="workers >= 0, got None and -1"):
        sets.open_train("folder", folder, workers=-1)
