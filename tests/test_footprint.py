"""Flash and working memory: by hand, and against the planner of LiteRT itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search import priced
from supernet import families, footprint
from supernet.modules import Head, InvertedBottleneck, MaxPool, Stem
from supernet.spec import LayerSpec
from tests.conftest import recorded_space

RECORDED = json.loads((Path(__file__).parent / "data" / "litert_memory.json").read_text())


def test_by_hand():
    stem = LayerSpec(Stem, 3, 16, 32, 2, act="relu6")
    # Padding by one before a stride of 2 is not TFLite's own: the image is copied with a margin.
    assert footprint.ram(stem, "int8") == 3 * 34**2 + 16 * 16**2
    assert footprint.flash(stem, "float32") == 4 * (16 * 27 + 16) + 1000
    block = LayerSpec(InvertedBottleneck, 8, 8, 10, kernel=3, expand=6, act="relu6")
    assert footprint.ram(block, "float32") == 4 * (48 + 48 + 8) * 100  # depthwise: its input, its output, the skip
    assert footprint.flash(block, "int8") == 8 * 48 * 2 + 48 * 9 + 28 * (48 + 48 + 8) + 3000
    strided = LayerSpec(InvertedBottleneck, 8, 12, 10, 2, kernel=5, expand=6, act="relu6")
    assert footprint.ram(strided, "int8") == 48 * 10**2 + 48 * 14**2
    swish = LayerSpec(Head, 8, 64, 4, act="hard_swish", classes=10)
    assert footprint.ram(swish, "int8") == 2 * 64 * 16  # an operator of its own reads one and writes the other
    assert footprint.ram(LayerSpec(MaxPool, 8, 8, 10, kernel=3), "float32") == 4 * 2 * 8 * 100


def test_odd_sizes_need_no_margin():
    """7 pixels at stride 2 are padded alike on both sides, as TFLite does."""
    odd = LayerSpec(InvertedBottleneck, 8, 12, 7, 2, kernel=3, expand=2, act="relu6")
    assert footprint.ram(odd, "int8") == max(8 * 49 + 16 * 49, 16 * 49 + 16 * 16)


@pytest.mark.parametrize("precision", footprint.VALUE)
def test_costs_of_a_space_are_those_of_its_networks(small_space, precision):
    costs = priced.memory(small_space, precision)
    image = (small_space.channels, *small_space.input_size)
    price = footprint.ram_of(image, precision)
    for place in (0, -1):
        arch = tuple(open_[place] for open_ in small_space.allowed)
        specs = families.lower(small_space, arch)
        assert costs["flash"](arch) == sum(footprint.flash(spec, precision) for spec in specs)
        assert costs["ram"](arch) == max(map(price, specs)) > 4 * image[0] * image[1] * image[2]


@pytest.mark.parametrize("entry", RECORDED["networks"], ids=lambda entry: f"{entry['space']}-{entry['precision']}")
def test_as_litert_plans_it(entry):
    """``tests/litert_memory.py`` makes files of these networks, and asks LiteRT where it would put each tensor."""
    space = recorded_space(entry["space"], *entry["images"])
    specs = families.lower(space, space.check(entry["arch"]))
    price = footprint.ram_of(specs[0].input_shape, entry["precision"])
    assert max(map(price, specs)) == pytest.approx(entry["arena"], rel=0.005)
    assert sum(footprint.flash(spec, entry["precision"]) for spec in specs) == pytest.approx(entry["file"], rel=0.05)
