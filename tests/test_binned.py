"""Paths of evenly drawn costs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from supernet import families, spaces
from supernet.errors import UserError
from supernet.training import binned, paths
from tests.conftest import tiny_space


def drawn(space, bins, n, seed=0):
    pick = binned.flops_binned_path(space, seed, bins)
    return Counter(pick(step) for step in range(n))


@pytest.mark.parametrize("narrow", [False, True])
def test_every_bin_and_every_path_of_a_bin_has_the_same_probability(narrow):
    space = spaces.get("mobile-small", 1, 28, 10)
    keep = [gene if i % 5 == 0 else gene[:1] for i, gene in enumerate(space.allowed)]
    space = space.restrict(keep)
    costs = {arch: families.flops(space, arch) for arch in space.enumerate()}
    low, high = min(costs.values()), max(costs.values())
    width = (high - low) / (40 if narrow else 4)  # of 40 some are empty
    bins = (low, low + width * (40 if narrow else 4), width)
    place = {arch: int((cost - low) / width) for arch, cost in costs.items() if cost < bins[1]}
    members = Counter(place.values())
    assert len(members) < 40 or not narrow
    n = 40 * len(place)
    found = drawn(space, bins, n)
    assert set(found) <= set(place)
    expected = [n / len(members) / members[place[arch]] for arch in place]
    assert chisquare([found[arch] for arch in place], expected).pvalue > 1e-3


def test_the_bins_of_spos_are_all_reached():
    space = spaces.get("shufflenet", 3, 224, 1000)
    counts = Counter()
    for arch, n in drawn(space, (290e6, 360e6, 10e6), 700).items():
        counts[int(families.flops(space, arch) // 10e6)] += n
    assert set(counts) == set(range(29, 36))
    assert chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("name", ["elastic-small", "mobile-small"])
def test_paths_lie_in_their_bins_where_costs_depend_on_several_genes_too(name):
    space = spaces.get(name, 1, 28, 10)
    low, high = np.quantile(paths.sampled(space, 0)[1], [0.2, 0.8])
    bins = (low, high, (high - low) / 5)
    costs = [families.flops(space, arch) for arch in drawn(space, bins, 200)]
    assert low <= min(costs)
    assert max(costs) < high
    assert set(np.floor((np.array(costs) - low) / bins[2]).astype(int)) == set(range(5))


@pytest.mark.parametrize("name", ["elastic-small", "mobile-small"])
def test_impossible_bins_say_what_is_there(name):
    space = spaces.get(name, 1, 28, 10)
    with pytest.raises(UserError, match=r"multiply-adds \(they have .* to .*\)"):
        binned.flops_binned_path(space, 0, (1e12, 2e12, 1e11))
    with pytest.raises(UserError, match="0 < step"):
        binned.flops_binned_path(tiny_space(), 0, (2e6, 1e6, 1e5))
    for endless in ((0, 1e12, 1e-6), (0, np.inf, 1e6), (0, np.inf, np.inf)):
        with pytest.raises(UserError, match="at most 10,000 bins"):
            binned.flops_binned_path(space, 0, endless)
