"""Sizes, and images that are not square in every part: counts, weights, latencies, exported files, photographs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import SMALL_SPACES, refused, tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from latency import build, sample
from latency.measure import Protocol
from latency.runtimes import TorchRuntime
from search import priced
from search.evaluator import Evaluator, images_at_once
from supernet import configurations, families, spaces
from supernet.data import sets, stored, transforms
from supernet.data.images import CUTOUT, MemoryImages, generator
from supernet.errors import UserError
from supernet.export import formats
from supernet.families import ir_resnet, module_stages, resolutions
from supernet.families.cells_blocks import Output, Part
from supernet.model import Network, Supernet
from supernet.size import Size
from supernet.space import Space
from supernet.spec import Conv, LayerSpec
from supernet.training.bn import recalibrate_bn

WIDE = Size(48, 80)
SPACES = {
    **SMALL_SPACES,
    "attentive-nas": lambda: spaces.get("attentive-nas", 3, 64, 10),
    "ofa-resnet50": lambda: spaces.get("ofa-resnet50", 3, 64, 10),
    "ir": lambda: ir_resnet.space((1, 1, 1, 1), 4, 3, 32),
    **{m: lambda m=m: module_stages.space(m, 3, 32, 10, width=4, deepest=3) for m in module_stages.KINDS},
}


def wide(name: str = "tiny", size: Size = WIDE) -> Space:
    return SPACES[name]().at(size)


def test_forms():
    assert Size.of(28) == Size.of("28") == Size.of((28, 28)) == (28, 28)
    assert (Size.of(28).plain, Size.of("96x160").plain, str(Size.of(28)), str(WIDE)) == (28, "96x160", "28²", "48×80")
    for text in ("", "x", "96x", "96×160", "9.5", "-3", "96x160x3"):
        assert "expected pixels such as 96, or HEIGHTxWIDTH" in refused(Size.of, text)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 7))
def test_strides_and_scales(height, width, stride):
    """A stride counts the pixels that it meets; a scaled image keeps its shape up to half a pixel."""
    size = Size(height, width)
    assert size.strided(stride) == (len(range(0, height, stride)), len(range(0, width, stride)))
    scaled = size.scaled(2 * height)
    assert scaled == (2 * height, 2 * width)
    assert abs(size.scaled(stride).width - width * stride / height) <= 0.5 or size.scaled(stride).width == 1


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=6, deadline=None)
@given(height=st.integers(5, 40), width=st.integers(5, 40), seed=st.integers(0, 99))
def test_counts_equal_those_of_a_forward_pass(name, height, width, seed):
    """Multiply-adds by PyTorch's counter, parameters, and the shape that every layer gives."""
    space = wide(name, Size(height, width))
    arch = space.sample(np.random.default_rng(seed))
    network = Network(space, arch, kernels="eager").eval()
    specs, shapes = families.layout(space).pick(arch), []
    for module in network.path():
        inner = module.op if isinstance(module, Part | Output) else module  # of a cell's state only what it makes
        inner.register_forward_hook(lambda module, x, y: shapes.append((y[1] if isinstance(y, tuple) else y).shape))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *families.input_shape(space, arch)))
    assert 2 * families.flops(space, arch) == counter.get_total_flops()
    assert families.params(space, arch) == sum(p.numel() for p in network.parameters())
    for spec, shape in list(zip(specs, shapes, strict=True))[:-1]:
        assert shape == (1, spec.out_channels, *spec.out_size)
    if not resolutions.varies(space):  # its choices are heights
        assert families.activations(space.at(Size(width, height)), arch) == families.activations(space, arch)


def test_square_images_are_as_they_were():
    """Fields, keys and fingerprints of square images do not know of a width; others have one that tells them apart."""
    space = tiny_space()
    assert "width" not in space.to_json()
    assert space.at(Size(14, 14)) == space
    assert dataclasses.replace(space, width=14).fingerprint == space.fingerprint
    other = space.at(Size(14, 20))
    assert other.to_json()["width"] == 20
    assert other.fingerprint != space.fingerprint
    assert Space.from_json(json.loads(json.dumps(other.to_json()))) == other
    assert "width -1: expected at least 0" in refused(dataclasses.replace, space, width=-1)
    stem, of_other = (families.layout(s).stem for s in (space, other))
    assert (stem.key, of_other.key) == ("stem_s2_relu6 1x14x14->8", "stem_s2_relu6 1x14x20->8")
    assert LayerSpec(stem.block, 1, 8, 14, 2, act="relu6") == stem  # a number stands for a square
    assert Conv(1, 8, 3, 14) == Conv(1, 8, 3, Size(14, 14))


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_a_path_is_the_network_that_is_extracted(name):
    space = wide(name, Size(20, 29))
    supernet, x = Supernet(space).eval(), torch.randn(6, 1, 20, 29)
    arch = tuple(open_[0] for open_ in space.allowed)
    recalibrate_bn(supernet, [x], arch)
    network = supernet.extract(arch).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x), supernet(x, arch))
    if resolutions.varies(space):
        height, width = network.input_shape[1:]
        assert height < 20
        assert width == round(29 * height / 20)


def test_scores_and_their_memory():
    space = wide()
    square = space.at(Size(62, 62))  # of almost as many pixels
    assert images_at_once(space, 2**24) == images_at_once(square, 2**24)
    supernet, batches = Supernet(space), [torch.randn(8, 1, *WIDE)]
    labels = torch.arange(8)
    archs = space.enumerate()[:4]
    scores = Evaluator(supernet, batches, [(batches[0], labels)])(archs)
    for arch, score in zip(archs, scores, strict=True):
        recalibrate_bn(supernet, batches, arch)
        with torch.no_grad():
            assert score == pytest.approx((supernet.eval()(batches[0], arch).argmax(1) == labels).double().mean())


def test_a_table_of_layers(tmp_path):
    """Every layer is timed at its own size; whole networks too."""
    space = families.with_resolutions(tiny_space(2).at(Size(10, 16)), (8, 10))
    archs, protocol = space.enumerate()[::3], Protocol(rounds=10, attempts=0)
    table = build.Build(space, TorchRuntime(), protocol, archs).here(tmp_path / "lut.json")
    assert table.input == (1, 10, 16)
    assert {"10x16", "8x13"} <= {key.split(" ")[1].split("x", 1)[1].split("->")[0] for key in table.operations}
    cost = priced.additive(space, table.price)
    low, high = cost.bounds(space)
    assert 0 < low < high
    features = sample.features(build.unique(space))
    assert np.isfinite(features).all()


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_files_of_other_runtimes(suffix, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    space = families.with_resolutions(wide(), (24, 48))
    for arch in ((0, 1, 2, 3), (1, 0, 0, 0)):
        supernet, path = Supernet(space, kernels="eager").eval(), tmp_path / f"net.{suffix}"
        shape = families.input_shape(space, arch)
        assert shape == (1, *WIDE.scaled((24, 48)[arch[0]]))
        formats.export(supernet.extract(arch), lambda x, s=supernet, a=arch: s(x, a), path, shape, {})
        x = torch.randn(1, *shape)
        with torch.inference_mode():
            expected = supernet(x, arch).numpy()
        got = formats.FORMATS[suffix].run(path.read_bytes(), x.numpy())
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_counts_of_a_configuration():
    space = spaces.usual("attentive-nas", Size(192, 320))
    arch = configurations.arch(space, "min")
    counts = configurations.counts(space, arch)
    height = space.genes[0].choices[0].count
    assert counts["resolution"] == Size(192, 320).scaled(height).plain
    assert counts["macs"] == families.flops(space, arch)
    assert configurations.arch(space, configurations.configuration(space, arch)) == arch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures 120 across and 90 down, whose red grows from left to right and whose green from top to bottom."""
    root = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:90, :120]
    for part, count in (("train", 8), ("val", 3)):
        for label, blue in (("dark", 0), ("light", 255)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.stack([2 * x, 2 * y, np.full_like(x, blue)], -1).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


def test_photographs(folder, tmp_path):
    """The middle of the picture, in its shape; kept pixels are the same, and so is what processes decode."""
    data = sets.open_train("folder", folder, val_per_class=2, resolution="48x80")
    assert (data.size, data.resolution, data.width, data.val.size) == (WIDE, 48, 80, WIDE)
    x, _ = next(data.val.plain_batches(4))
    assert x.shape == (4, 3, *WIDE)
    red, green = (x[0, i] * transforms.IMAGENET[1][i] + transforms.IMAGENET[0][i] for i in (0, 1))
    # Resized to 91 across (80 / .875), 68 down; a pixel is 120/91 of the picture's, its middle stays the middle.
    assert torch.allclose(255 * red[:, 40].mean(), torch.tensor(120.0), atol=3)
    assert torch.allclose(255 * green[24].mean(), torch.tensor(90.0), atol=3)
    steps = 255 * (red[:, -10] - red[:, 10]).mean() / 60, 255 * (green[-10] - green[10]).mean() / 28
    assert torch.allclose(torch.stack(steps), torch.full((2,), 2 * 120 / 91), atol=0.05)
    kept = stored.in_file(data.val, tmp_path)
    assert torch.equal(next(kept.plain_batches(4))[0], x)
    augmented, _ = next(data.train.batches(4, seed=0, epoch=0, augment=True, drop_last=True))
    assert augmented.shape == (4, 3, *WIDE)
    apart = sets.open_train("folder", folder, val_per_class=2, resolution=WIDE, workers=1)
    other, _ = next(apart.train.batches(4, seed=0, epoch=0, augment=True, drop_last=True))
    assert torch.equal(other, augmented)
    assert sets.open_test("folder", folder, resolution="48x80").size == WIDE


def test_small_pictures_and_arrays():
    """Shifted over a margin and mirrored; a square is blanked anywhere in them."""
    plain, augmenting = transforms.picture(Size(12, 20), "L", mirror=True)
    picture = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20))
    assert np.array_equal(plain(picture), picture)
    assert augmenting(picture).size == (20, 12)
    pixels = torch.randint(1, 256, (64, 12, 20, 1), dtype=torch.uint8)
    images = MemoryImages(pixels, np.zeros(64, np.int64), (0.0,), (1 / 255,), 2, False)
    x, _ = next(images.in_order(64))
    assert torch.equal(x.permute(0, 2, 3, 1), pixels.float())
    cut, _ = next(images.with_cutout(4).batches(64, seed=0, epoch=0, augment=True, drop_last=True))
    whole, _ = next(images.batches(64, seed=0, epoch=0, augment=True, drop_last=True))
    blank = (cut == 0) & (whole != 0)
    assert blank[:, 0].any(0).any(0).sum() > 16  # beyond a square of the height


def test_cutout_draws_for_square_images_as_before():
    """Two draws of a side each are those of both at once."""
    both, apart = generator(CUTOUT, 1, 2, 3), generator(CUTOUT, 1, 2, 3)
    expected = torch.randint(28, (2, 100), generator=both)
    assert torch.equal(torch.stack([torch.randint(28, (100,), generator=apart) for _ in range(2)]), expected)


def test_spaces_for_wide_images(tmp_path):
    file = tmp_path / "wide.json"
    file.write_text(json.dumps(wide().to_json()))
    assert spaces.get(str(file), 1, WIDE, 10) == wide()
    assert "is for 1×48×80 images of 10 classes, the data has 1×48² of 10" in refused(spaces.get, str(file), 1, 48, 10)
    assert spaces.usual(str(file)).input_size == WIDE
    with pytest.raises(UserError, match="leave out the resolution"):
        spaces.usual(str(file), Size.of(48))
    small = resolutions.with_gene(wide("mobile-small"), (2, 48))
    file.write_text(json.dumps(small.to_json()))
    assert "not for images of 2×3 pixels" in refused(spaces.get, str(file), 1, WIDE, 10)
    assert "not for images of 2×200 pixels" in refused(spaces.get, "mobile", 3, Size(2, 200), 10)
