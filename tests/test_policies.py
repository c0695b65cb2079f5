"""Random operations on images: what they depend on, and that plain images have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import seeding
from supernet.data.folder import open_folder
from supernet.data.images import ImageSet, MemoryImages
from supernet.data.policies import transform
from supernet.size import Size

POLICIES = ("rand", "trivial")


def in_memory(channels: int) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (24, 16, 16, channels), dtype=np.uint8))
    return MemoryImages(pixels, np.arange(24) % 3, (0.5,) * channels, (0.25,) * channels, 0, False)


@pytest.fixture
def in_files(tmp_path) -> ImageSet:
    rng = np.random.default_rng(0)
    for i in range(27):
        file = tmp_path / ("train" if i < 24 else "val") / "abc"[i % 3] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file)
    images, *_ = open_folder(tmp_path, "train", Size(16, 16), 0, lambda count, grey: 3, False)
    return images


def served(images: ImageSet, augment: bool = True, epoch: int = 0, **share: int) -> torch.Tensor:
    options = {"seed": 0, "epoch": epoch, "augment": augment, "drop_last": True}
    return torch.cat([x for x, _ in images.batches(12 // share.get("world", 1), **options, **share)])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_training_images_change_and_plain_ones_do_not(policy, channels):
    images = in_memory(channels)
    other = images.with_auto_augment(policy)
    assert torch.equal(served(images, augment=False), served(other, augment=False))
    assert not torch.equal(served(images), served(other))
    assert served(other).shape == served(images).shape
    assert not torch.equal(served(other), served(other, epoch=1))


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_drawn_depends_on_the_image_alone(policy):
    """Not on global generators, nor on the number of processes."""
    images = in_memory(1).with_auto_augment(policy)
    torch.manual_seed(1)
    whole = served(images)
    torch.manual_seed(2)
    halves = [served(images, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(whole[0::2], halves[0])
    assert torch.equal(whole[1::2], halves[1])


@pytest.mark.parametrize("policy", POLICIES)
def test_images_of_files_end_with_the_operations_in_any_process(in_files, policy):
    other = in_files.with_auto_augment(policy)
    assert torch.equal(served(in_files, augment=False), served(other, augment=False))
    before, after = served(in_files), served(other)
    assert not torch.equal(before, after)
    assert torch.equal(before, served(in_files))  # the first set stays as it was
    assert torch.equal(after, served(other))


def test_generators_stay_as_they_were():
    images = in_memory(1).with_auto_augment("rand")
    before = torch.get_rng_state()
    served(images)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_every_draw_can_be_done_and_keeps_mode_and_size(policy, mode, channels):
    """Of so many draws each operation has had all its strengths."""
    seeding.seed(0)
    image, operate = Image.effect_noise((14, 10), 80).convert(mode), transform(policy, channels)
    for _ in range(3000):
        done = operate(image)
        assert (done.mode, done.size) == (mode, (14, 10))
