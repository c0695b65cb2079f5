"""A gene for the resolution before the genes of any family, and resolutions that strides use up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import refused, tiny_space
from torch.nn import functional as F

from search import priced
from supernet import extremes, families, spaces
from supernet.cli.methods import Spos
from supernet.families import ir_resnet, resolutions
from supernet.model import Supernet
from supernet.space import Choice, Space

SIZES = (20, 24, 28)


@pytest.fixture(params=["mobile-small", "shufflenet-small", "residual-small", "elastic-small"])
def space(request):
    return families.with_resolutions(spaces.get(request.param, 1, 28, 10), SIZES)


def at(space: Space, size: int) -> Space:
    """The space without the gene, for images of one resolution, by its genes alone."""
    return dataclasses.replace(resolutions.without(space), resolution=size)


def test_costs_are_those_of_the_space_at_each_resolution(space):
    """A few architectures; the table's entries add up to the layers' own counts."""
    costs, rng = priced.costs(space, {}), np.random.default_rng(0)
    for _ in range(20):
        arch = space.sample(rng)
        for name in ("flops", "params", "activations"):
            assert costs[name](arch) == getattr(families, name)(space, arch)
        assert families.input_shape(space, arch)[1:] == (SIZES[arch[0]],) * 2
        if not isinstance(families.of(space), type(families.elastic.FAMILY)):
            assert families.lower(space, arch) == families.lower(at(space, SIZES[arch[0]]), arch[1:])


def test_a_path_resizes_the_images_and_shares_the_weights(space):
    supernet, x = Supernet(space).eval(), torch.randn(4, 1, 28, 28)
    arch = tuple(open_[0] for open_ in space.allowed)
    for choice, size in enumerate(SIZES):
        own = (choice, *arch[1:])
        small = F.interpolate(x, size=size, mode="bicubic")
        network = supernet.extract(own).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(x), network(small))
            torch.testing.assert_close(supernet(x, own), network(small))
    plain = at(space, 28) if space.name != "elastic-small" else space
    assert Supernet(plain).state_dict().keys() == supernet.state_dict().keys()


def test_the_largest_and_the_smallest_network(space):
    """Of a space small enough to list: one choice of two is open in each other gene."""
    space = space.restrict([open_ if i == 0 else open_[-2:] for i, open_ in enumerate(space.allowed)])
    space = space.restrict([open_ if i < 8 else open_[-1:] for i, open_ in enumerate(space.allowed)])
    flops = {arch: families.flops(space, arch) for arch in space.enumerate()}
    assert flops[extremes.smallest(space)] == min(flops.values())
    assert flops[extremes.largest(space)] == max(flops.values())


def test_a_gene_that_cannot_be():
    space = tiny_space()
    assert "ascending ones, the last 14" in refused(families.with_resolutions, space, (14, 9))
    assert "ascending ones, the last 14" in refused(families.with_resolutions, space, (9, 12))
    sized = families.with_resolutions(space, (9, 14))
    assert families.with_resolutions(sized, (9, 14)) is sized
    assert resolutions.of(families.with_resolutions(sized, (12, 14))) == [12, 14]
    for choices in ((Choice("resolution", count=14), Choice("resolution", count=9)), (Choice("resolution"),)):
        gene = dataclasses.replace(sized.genes[0], choices=choices)
        wrong = dataclasses.replace(
            sized, genes=(gene, *sized.genes[1:]), allowed=(tuple(range(len(choices))), *sized.allowed[1:])
        )
        assert "expected ascending counts of at least 1" in refused(families.layout, wrong)
    alone = dataclasses.replace(sized, genes=sized.genes[:1], allowed=sized.allowed[:1])
    assert "for the resolution only" in refused(families.layout, alone)


def test_resolutions_that_are_no_numbers():
    for wrong in (",", "20,", "20,many"):
        expected = f"--resolutions {wrong}: expected whole numbers with commas between"
        assert refused(Spos(resolutions=wrong).sized, tiny_space()) == expected
    assert resolutions.of(Spos(resolutions="9,14").sized(tiny_space())) == [9, 14]


def test_weights_that_depend_on_the_size_cannot_be_shared():
    space = families.with_resolutions(ir_resnet.space((1, 1, 1, 1), 8, 3, 32), (16, 32))
    assert "layer embedding depend on the size" in refused(Supernet, space)


def test_methods_that_cannot_take_it():
    presets = (spaces.get(name, 1, 28, 10) for name in ("mobile-small", "residual-small"))
    mobile, residual = (families.with_resolutions(space, (20, 28)) for space in presets)
    assert "gene for the resolution" in refused(families.require_layers, mobile)
    assert "gene for the resolution" in refused(families.residual.require, residual)
    families.require_layers(mobile, resolution=True)


@pytest.mark.parametrize("name", spaces.presets())
def test_one_pixel_before_a_stride_is_refused(name):
    """The resolution that the message names is the least that is taken: one that leaves every stride two pixels."""
    message = refused(spaces.get, name, 3, 2, 10)
    assert "expected a resolution of at least" in message
    least = int(message.rsplit(" ", 1)[1])
    space = spaces.get(name, 3, 2 * least, 10)
    if not resolutions.varies(space):  # those have resolutions in proportion to that of the images
        refused(spaces.get, name, 3, least - 1, 10)
        spaces.get(name, 3, least, 10)
        assert "not for images of 2² pixels" in refused(families.with_resolutions, space, (2, 2 * least))
