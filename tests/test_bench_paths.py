"""The benchmark of draws: both forms give paths of the bins, and of the bins that there are equally many."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bench import paths as bench
from scipy.stats import chisquare

from supernet import families, spaces
from supernet.training import binned, paths


def test_rejection_draws_what_counting_draws():
    space = spaces.get("mobile-small", 1, 28, 10)
    low, high = np.quantile(paths.sampled(space, 0)[1], [0.2, 0.8])
    bins = (float(low), float(high), float(high - low) / 3)
    forms = bench.rejection(space, 0, bins, 10_000), binned.flops_binned_path(space, 0, bins)
    counts = [Counter(int((families.flops(space, draw(n)) - low) // bins[2]) for n in range(300)) for draw in forms]
    for found in counts:
        assert set(found) == {0, 1, 2}
        assert chisquare([found[place] for place in range(3)]).pvalue > 1e-3


def test_bins_that_rejection_does_not_reach_are_told():
    found = bench.run("shufflenet-small", 28, (1e6, 9e6, 2e6), 5, 1)
    assert found["missed"]["by counting"] == found["missed"]["uniform, no bin"] == 0
    assert 0 <= found["missed"]["by rejection"] <= 1
    assert {"by counting", "by rejection", "uniform, no bin"} == set(found["ms"])
    shown = bench.table(found)
    assert shown.rows[0][3] == "0.0 %"
    assert float(shown.rows[0][1]) == pytest.approx(found["ms"]["by counting"]["median"], abs=1e-3)
