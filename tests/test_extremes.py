"""The largest and the smallest network of a space, against all of its networks."""

from __future__ import annotations

import dataclasses

import pytest

from supernet import spaces
from supernet.extremes import largest, smallest
from supernet.families import layout
from supernet.space import Choice
from tests.conftest import refused, tiny_space


def multiply_adds(space, arch):
    return sum(spec.flops for spec in layout(space).pick(arch))


@pytest.mark.parametrize("name", ["tiny", "mobile-small", "residual-small", "elastic-small"])
def test_the_most_and_the_fewest_multiply_adds(name):
    space = tiny_space() if name == "tiny" else spaces.get(name, 1, 28, 10)
    keep = [open_[-2 if len(space.genes) > 4 else -3 :] for open_ in space.allowed]
    space = space.restrict(keep)
    costs = {arch: multiply_adds(space, arch) for arch in space.enumerate()}
    assert costs[largest(space)] == max(costs.values())
    assert costs[smallest(space)] == min(costs.values())


def test_elastic_networks_are_parts_of_the_largest():
    space = spaces.get("ofa-mobilenetv3", 3, 32, 10)  # resolutions of 31 and 32 pixels cost the same
    assert largest(space) == tuple(len(gene.choices) - 1 for gene in space.genes)


def test_two_largest_networks_are_refused_by_name():
    space = tiny_space()
    first, second, third = space.genes
    twins = dataclasses.replace(second, choices=(Choice("identity"), Choice("max_pool", 3)))
    space = dataclasses.replace(
        space, genes=(first, twins, third), allowed=(space.allowed[0], (0, 1), space.allowed[2])
    )
    told = refused(largest, space)
    assert "no largest network" in told
    assert second.name in told
