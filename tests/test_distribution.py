"""Estimating, pruning and drawing the operation distribution."""

import doctest

import pytest

from search import distribution
from supernet.errors import UserError
from tests.conftest import tiny_space


def test_estimate_counts_and_normalises():
    space = tiny_space()
    p = distribution.estimate(space, [(0, 1, 2), (0, 1, 2), (1, 1, 2), (2, 3, 2)])
    assert p == [[0.5, 0.25, 0.25], [0, 0.75, 0, 0.25], [0, 0, 1, 0]]
    with pytest.raises(UserError, match="no architectures"):
        distribution.estimate(space, [])


def test_pruning_removes_what_is_at_most_the_threshold():
    space = tiny_space()
    p = [[0.98, 0.01, 0.01], [0.3, 0.02, 0.009, 0.671], [0.25] * 4]
    assert distribution.prune(space, p, 0.01).allowed == ((0,), (0, 1, 3), (0, 1, 2, 3))
    assert distribution.sparsity(space, p, 0.01) == pytest.approx(3 / 11)


def test_no_layer_is_emptied_and_nothing_closed_is_opened():
    space = tiny_space().restrict([(0, 1, 2), (1, 2), (0, 3)])
    p = distribution.estimate(space, [(0, 1, 0), (1, 2, 3), (2, 2, 0)])
    assert distribution.prune(space, p, 0.9).allowed == ((0,), (2,), (0,))
    assert distribution.prune(space, p, 0.0).allowed == space.allowed
    once = distribution.prune(space, p, 0.4)
    assert once.fingerprint == space.fingerprint  # indices keep their meaning
    assert all(set(a) <= set(b) for a, b in zip(once.allowed, space.allowed, strict=True))


def test_what_is_not_rare_in_enough_redraws_stays():
    """An operation that one of four redraws has is rare in 75 % of them."""
    space = tiny_space()
    p = [[1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    once = [[0.5, 0.5, 0], [1, 0, 0, 0], [0.5, 0, 0, 0.5]]
    assert distribution.prune(space, p, 0.1, [p, p, p, once], 0.75).allowed == ((0,), (0,), (0,))
    assert distribution.prune(space, p, 0.1, [p, p, p, once], 0.8).allowed == ((0, 1), (0,), (0, 3))


def test_the_heat_map(tmp_path):
    space = tiny_space()
    p = distribution.estimate(space, [(0, 1, 2), (1, 1, 2)])
    layers = distribution.by_name(space, p, distribution.prune(space, p, 0.01))
    first = space.genes[0]
    assert layers[0]["p"] == {choice.name: p[0][i] for i, choice in enumerate(first.choices)}
    assert layers[0]["kept"] == [first.choices[0].name, first.choices[1].name]
    distribution.heat_map(tmp_path / "d.png", layers, "title")
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_examples_hold():
    assert doctest.testmod(distribution).failed == 0
