"""Which paths a step trains."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from supernet import spaces
from supernet.families import layout
from supernet.training import paths
from tests.conftest import tiny_space


def multiply_adds(space, arch):
    return sum(spec.flops for spec in layout(space).pick(arch))


@given(st.integers(0, 2**31), st.integers(0, 10**6))
def test_a_fair_step_has_every_choice_of_every_gene_as_often(seed, step):
    space = tiny_space()
    space = space.restrict([space.allowed[0][:3], space.allowed[1][:2], space.allowed[2]])
    m = max(map(len, space.allowed))
    drawn = paths.fair_paths(space, seed)(step)
    assert len(drawn) == m
    assert drawn == paths.fair_paths(space, seed)(step)
    for gene, open_ in enumerate(space.allowed):
        counts = Counter(arch[gene] for arch in drawn)
        assert set(counts) == set(open_)
        assert set(counts.values()) <= {m // len(open_), -(-m // len(open_))}


def test_fair_paths_combine_choices_independently():
    space = tiny_space()
    draw = paths.fair_paths(space, 0)
    pairs = Counter((arch[0], arch[1]) for step in range(600) for arch in draw(step))
    n = len(space.allowed[0]) * len(space.allowed[1])
    expected = 600 * max(map(len, space.allowed)) / n
    assert len(pairs) == n
    assert all(abs(count - expected) < 5 * expected**0.5 for count in pairs.values())


@pytest.mark.parametrize("name", ["mobile-small", "elastic-small"])
def test_attentive_candidates_cost_about_the_same_as_uniform_paths_do(name):
    space = spaces.get(name, 1, 28, 10)
    draw = paths.attentive_path(space, 1)
    drawn = [draw(n).arches for n in range(300)]
    assert drawn[7] == paths.attentive_path(space, 1)(7).arches
    rng = np.random.default_rng(5)
    prior = np.array([multiply_adds(space, space.sample(rng)) for _ in range(2000)])
    width = np.ptp(prior) / paths.BINS
    costs = np.array([[multiply_adds(space, space.check(arch)) for arch in arches] for arches in drawn])
    assert (np.ptp(costs, 1) <= 1.2 * width).all()  # the pool's range is a little wider than that of 2,000
    assert ks_2samp(costs[:, 0], prior).pvalue > 1e-3
