"""Images with a class for each pixel: what is drawn, Cityscapes' folders and classes, mean IoU, the network."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from experiments import _scenes, segmentation
from supernet import spaces
from supernet.data.images import MemoryImages
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.size import Size
from supernet.training import standalone
from supernet.training.loop import FitConfig
from tests.conftest import refused
from tests.test_train import images


def squares() -> MemoryImages:
    """Two items of four pixels: one all bright, of class 3, one bright in its upper half, of class 5."""
    pixels = torch.full((2, 4, 4, 1), 255, dtype=torch.uint8)
    pixels[1, 2:] = 0
    return MemoryImages(pixels, np.array([3, 5]), (0.5,), (0.5,), 0, False)


def test_drawn_scenes_are_labelled_where_an_item_shows():
    scenes = _scenes.drawn(squares(), 40, Size(12, 20), seed=0)
    x, y = next(scenes.in_order(40))
    assert x.shape == (40, 1, 12, 20)
    assert y.shape == (40, 12, 20)
    assert set(y.unique().tolist()) == {0, 4, 6}
    assert (x[:, 0][y > 0] == 1).all()  # white, normalised; there is no other brightness in an item
    counts = (y > 0).flatten(1).sum(1)
    assert counts.min() >= 8  # the smaller item
    assert counts.max() <= 4 * 16
    again = next(_scenes.drawn(squares(), 40, Size(12, 20), seed=0).in_order(40))
    other = next(_scenes.drawn(squares(), 40, Size(12, 20), seed=1).in_order(40))
    assert torch.equal(y, again[1])
    assert not torch.equal(y, other[1])
    assert "or larger" in refused(_scenes.drawn, squares(), 1, Size(3, 20), 0)


def test_augmentation_mirrors_image_and_classes_together():
    scenes = _scenes.drawn(squares(), 30, Size(8, 16), seed=0)
    plain = {x.numpy().tobytes(): y for x, y in zip(*next(scenes.in_order(30)), strict=True)}
    mirrored = 0
    for x, y in zip(*next(scenes.batches(30, seed=0, epoch=1, augment=True, drop_last=True)), strict=True):
        if (before := plain.get(x.contiguous().numpy().tobytes())) is None:
            mirrored, before = mirrored + 1, plain[x.flip(-1).contiguous().numpy().tobytes()].flip(-1)
        assert torch.equal(y, before)
    assert 5 < mirrored < 25


@pytest.fixture
def city(tmp_path):
    """Two pictures of 8 × 16 pixels in Cityscapes' folders: a road on the left, a car right of it, then nothing."""
    classes = np.zeros((8, 16), dtype=np.uint8)
    classes[:, :8], classes[:, 8:12] = 7, 26  # of labelIds; 0 is unlabelled
    for part in ("train", "val"):
        for kind, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            folder = tmp_path / kind / part / "aachen"
            folder.mkdir(parents=True)
            picture = classes if kind == "gtFine" else np.full((8, 16, 3), 124, dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"aachen_000000_000019_{name}.png")
    return tmp_path


def test_cityscapes_has_its_19_classes_and_void(city):
    scenes = _scenes.cityscapes(city, "val", Size(4, 8), threads=2)
    x, y = next(scenes.in_order(4))
    assert x.shape == (1, 3, 4, 8)
    assert x[0, 0].flatten().tolist() == pytest.approx([(124 / 255 - 0.485) / 0.229] * 32, abs=1e-6)
    assert y[0, 0].tolist() == [0, 0, 0, 0, 13, 13, _scenes.VOID, _scenes.VOID]
    assert "expected its folders" in refused(_scenes.cityscapes, city / "nowhere", "val", Size(4, 8), 1)


class Left(nn.Module):
    """Says class 0 on the left half of an image, class 1 on the right."""

    def __init__(self):
        super().__init__()
        self.any = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        right = torch.arange(x.shape[3]) >= x.shape[3] // 2
        logits = torch.stack((~right, right)).float()[None, :, None]
        return nn.functional.pad(logits, (0, 0, 0, 0, 0, 17)).expand(len(x), 19, x.shape[2], x.shape[3])


def test_mean_iou_leaves_void_out(city):
    """The road is all found; the car is taken for class 1, so neither of the two has any pixel in common."""
    scenes = _scenes.cityscapes(city, "val", Size(4, 8), threads=1)
    assert _scenes.mean_iou(Left(), scenes, 19) == pytest.approx((1 + 0 + 0) / 3)
    assert doctest.testmod(_scenes).failed == 0


def test_iou_is_that_of_sets():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(4, size=500), rng.integers(4, size=500)
    confusion = torch.zeros(5, 5, dtype=torch.long)
    for a, b in zip(true, predicted, strict=True):
        confusion[a, b] += 1
    expected = [
        len(set(np.flatnonzero(true == c)) & set(np.flatnonzero(predicted == c)))
        / len(set(np.flatnonzero(true == c)) | set(np.flatnonzero(predicted == c)))
        for c in range(4)
    ]
    assert _scenes.iou(confusion) == pytest.approx(np.mean(expected))


def test_a_network_of_a_space_segments_images_that_are_not_square(tmp_path):
    """Its head sees the last feature map and one of four times as many pixels a side, or the first one."""
    space = spaces.get("mobile-small", 1, 28, 10)
    data = segmentation_images()
    standalone.train(space, (1, 3, 1, 3, 2, 1), data, FitConfig(0), tmp_path, torch.device("cpu"), kernels="eager")
    model = segmentation.Segmenter(tmp_path, 11).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 32, 64)).shape == (2, 11, 32, 64)
        maps = model.backbone(torch.zeros(1, 1, 32, 64))
    assert maps["low"].shape == (1, 16, 16, 32)
    assert maps["high"].shape == (1, 64, 8, 16)


def segmentation_images():
    return TrainVal(images(20), images(20, seed=1), 10, 1, 28, tuple(map(str, range(10))))


def test_networks_come_from_the_results_of_the_search(tmp_path):
    space = spaces.get("mobile-large-small", 1, 28, 10)
    path = tmp_path / "found.json"
    archs = ([0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [2, 2, 5, 7, 5, 7])
    front = [{"arch": arch, "cost": cost} for arch, cost in zip(archs, (4.0, 5.0, 6.0), strict=True)]
    known = {"space": space.to_json(), "seeds": [{"fronts": {"PAD": front, "I": front[2:]}}]}
    known["seeds"][0]["by_hand"] = {"k3_e4": {"cost": 5.5}}
    path.write_text(json.dumps(known))
    found, archs = segmentation.networks(segmentation.Args(found=path))
    assert found == space
    assert list(archs) == ["PAD", "I", "k3_e4 in every layer"]
    assert archs["PAD"] == (1, 2, 3, 4, 5, 6)  # the last is dearer than the network by hand
    assert archs["I"] == (2, 2, 5, 7, 5, 7)  # where all are dearer, the cheapest
    assert set(space.describe(archs["k3_e4 in every layer"]).split()) == {"k3_e4"}
    with pytest.raises(UserError, match="expected one of k3_e1"):
        segmentation.networks(segmentation.Args(found=path, by_hand="k9_e9"))
    path.write_text(json.dumps({"seeds": [{}]}))
    assert "run python -m experiments.pad_nas first" in refused(segmentation.networks, segmentation.Args(found=path))
