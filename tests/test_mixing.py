"""Mixed images and labels against their definition; they depend on the seed and the step alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from supernet.data.images import MemoryImages
from supernet.model import Network
from supernet.training import mixing
from supernet.training.config import FitConfig
from supernet.training.distributed import parts
from supernet.training.mixing import Mixing
from tests.conftest import refused, tiny_space

MIXUP, CUTMIX = {"mixup": 0.4}, {"cutmix": 1.0}


def mixer(seed: int = 0, **options: float) -> Mixing:
    space = dataclasses.replace(tiny_space(), classes=16)
    return Mixing.of(FitConfig(1, seed=seed, **options), Network(space, (0, 0, 0), kernels="eager"))


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one value each, their numbers from 1 on, and labels that are all different."""
    return torch.arange(1.0, n + 1)[:, None, None, None].expand(n, 1, 14, 14).clone(), torch.arange(n)


@pytest.mark.parametrize("step", range(4))
def test_mixup_is_the_mean_of_an_image_and_the_one_half_a_batch_away(step):
    x, y = batch()
    mixed, labels = mixer(**MIXUP)(step, x.clone(), y)
    seen = set()
    for image, shares in zip(mixed, labels, strict=True):
        (one, other), share = shares.nonzero().flatten().tolist(), shares.max().item()
        assert abs(one - other) == 4
        assert shares.sum().item() == pytest.approx(1)
        value = shares[one] * (one + 1) + shares[other] * (other + 1)
        torch.testing.assert_close(image, torch.full_like(image, value.item()))
        seen.add(round(share, 5))
    assert len(seen) == 1  # one share for the whole step


@pytest.mark.parametrize("step", range(4))
def test_cutmix_fills_a_box_with_the_other_image_and_counts_its_pixels(step):
    x, y = batch()
    mixed, labels = mixer(**CUTMIX)(step, x.clone(), y)
    for image, shares in zip(mixed, labels, strict=True):
        for place in shares.nonzero().flatten().tolist():
            assert (image == place + 1).float().mean().item() == pytest.approx(shares[place].item(), abs=1e-6)


@pytest.mark.parametrize("options", [MIXUP, CUTMIX, MIXUP | CUTMIX])
def test_mixtures_are_the_same_in_parts(options):
    """Parts are what processes and accumulation make of a batch."""
    x, y = batch(16)
    mix = mixer(**options)
    whole, labels = mix(5, x.clone(), y)
    by_value = {tuple(s.tolist()): image for image, s in zip(whole, labels, strict=True)}
    for n in (2, 4, 8):
        for part in parts(x.clone(), y, n):
            for image, shares in zip(*mix(5, *part), strict=True):
                assert torch.equal(image, by_value[tuple(shares.tolist())])


def test_mixtures_are_a_function_of_seed_and_step():
    def mixed(seed, step):
        return mixer(seed, **MIXUP, **CUTMIX)(step, *batch())[1]

    np.random.seed(1)  # noqa: NPY002
    first = mixed(0, 3)
    after = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == after  # noqa: NPY002  # the global generator stays as it was
    assert torch.equal(first, mixed(0, 3))
    assert not torch.equal(first, mixed(0, 4))
    assert not torch.equal(first, mixed(1, 3))


def test_nothing_is_mixed_where_both_are_off():
    x, y = batch()
    same, labels = mixer()(0, x, y)
    assert same is x
    assert labels is y


def test_hits_count_what_is_most_of_an_image():
    logits = torch.eye(3)
    assert mixing.hits(logits, torch.tensor([0, 1, 0])) == 2
    assert mixing.hits(logits, torch.tensor([[0.6, 0.4, 0], [0.7, 0.3, 0], [0, 0, 1.0]])) == 2


def test_hits_of_maps_are_images_of_which_most_pixels_are_right():
    """All say class 1 everywhere; of four pixels four, three and two are."""
    logits = torch.tensor([0.0, 1.0])[None, :, None, None].expand(3, 2, 2, 2)
    y = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [1, 0]], [[1, 0], [1, 0]]])
    assert mixing.hits(logits, y) == 2


def test_what_cannot_be_mixed_is_refused():
    train = MemoryImages(torch.zeros(20, 14, 14, 1, dtype=torch.uint8), np.arange(20) % 2, (0.5,), (0.5,), 1, False)
    odd = FitConfig(1, batch_size=10, accumulate=2, **MIXUP)
    assert "5 images at once" in refused(mixing.require, train, odd, 10)
    weighted = train.balanced("loss")
    assert "--balance loss" in refused(mixing.require, weighted, FitConfig(1, **CUTMIX), 10)
    mixing.require(weighted, FitConfig(1), 10)
    mixing.require(train.balanced("sampling"), FitConfig(1, **CUTMIX), 10)
