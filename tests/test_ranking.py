"""Rank correlations against their definitions, intervals against a known population."""

import math

import numpy as np
import pytest

from search import ranking
from supernet.errors import UserError


def tau_b(x, y):
    """Kendall (1945), by counting pairs."""
    pairs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    score = sum(a * b for a, b in pairs)
    return score / math.sqrt(sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs))


def spearman(x, y):
    """Pearson's correlation of the ranks, ties at the mean rank."""
    ranks = [[(np.sum(v < value) + np.sum(v <= value) + 1) / 2 for value in v] for v in (x, y)]
    return np.corrcoef(ranks)[0, 1]


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_follow_their_definitions(ties):
    rng = np.random.default_rng(0)
    for n in (3, 8, 33):
        x = rng.integers(0, 4, n).astype(float) if ties else rng.normal(size=n)
        x[0], x[1] = 9, -9  # not constant
        y = x + rng.normal(size=n)
        found = ranking.rank(x, y, draws=20)
        assert found.tau == pytest.approx(tau_b(x, y))
        assert found.rho == pytest.approx(spearman(x, y))
        assert found.gap == pytest.approx(np.mean(y) - np.mean(x))
        assert found.n == n


def test_intervals_cover_the_value_of_the_population():
    """τ of a bivariate normal is 2/π · asin(r). About 95 % of the intervals must hold it."""
    rng = np.random.default_rng(1)
    r, covered = 0.7, 0
    true = 2 / math.pi * math.asin(r)
    for _ in range(60):
        x, z = rng.normal(size=(2, 40))
        low, high = ranking.rank(x, r * x + math.sqrt(1 - r * r) * z, draws=100).tau_interval
        covered += low <= true <= high
        assert low < high
    assert 50 <= covered <= 60


def test_paired_differences_are_tighter_than_separate_ones():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=60)
    shared = truth + rng.normal(size=60)  # both miss in the same places
    first, second = shared + 0.3 * rng.normal(size=60), shared + 0.1 * rng.normal(size=60)
    difference, (low, high) = ranking.paired_difference(first, second, truth)
    assert difference == pytest.approx(tau_b(second, truth) - tau_b(first, truth))
    assert low <= difference <= high
    a, b = (ranking.rank(scores, truth).tau_interval for scores in (first, second))
    assert high - low < (a[1] - a[0] + b[1] - b[0]) / 2


def test_residuals_do_not_depend_on_the_cost():
    cost = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    noise = np.array([0.1, -0.2, 0.1, 0.1, -0.2, 0.1])
    left = ranking.residuals(0.5 + 0.03 * np.log(cost) + noise, cost)
    assert abs(np.corrcoef(left, np.log(cost))[0, 1]) < 1e-9
    assert ranking.residuals([0.1, 0.3], [5, 5]) == pytest.approx([-0.1, 0.1])


def test_what_has_no_order():
    constant = ranking.rank([1, 1, 1, 1], [1, 2, 3, 4], draws=20)
    assert (constant.tau, constant.rho, constant.tau_interval, constant.rho_interval) == (None,) * 4
    assert "τ —" in ranking.describe(constant)
    with pytest.raises(UserError, match="got 2 and 2"):
        ranking.rank([1, 2], [1, 2])
    with pytest.raises(UserError, match="got 4 and 3"):
        ranking.rank([1, 2, 3, 4], [1, 2, 3])


def test_the_picture(tmp_path):
    x = np.linspace(0.5, 0.6, 8)
    ranking.plot(tmp_path / "p.png", x, x + 0.2, ranking.rank(x, x + 0.2, draws=20), "title")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
