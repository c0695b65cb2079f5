"""The ranking study on accuracies whose answer is known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from search.dynamic_ranking import schedule, study
from supernet.errors import UserError


def test_the_schedule_gives_larger_networks_longer_budgets():
    assert schedule([30, 10, 20, 40], 2).tolist() == [1, 0, 0, 1]
    assert schedule([3, 1, 2], 3).tolist() == [2, 0, 1]  # the paper's: one network for each budget
    assert np.bincount(schedule(np.arange(40), 6)).tolist() == [7, 7, 6, 7, 7, 6]


def test_a_gain_that_is_only_built_in_shows_in_the_control():
    """Accuracies grow with epochs alone: dynamic training then ranks by parameters, and permuted by nothing."""
    params = np.arange(60.0)
    grid = np.tile(np.array([10.0, 20.0, 30.0]), (60, 1)) + np.random.default_rng(0).normal(0, 1e-3, (60, 3))
    result = study(params, [1, 2, 4], grid, final=params / 100)
    assert result.dynamic == pytest.approx(1 - 1 / 3**2, abs=0.03)  # three blocks in order, no order within them
    assert abs(result.permuted) < 0.05
    assert all(abs(rho) < 0.3 for rho in result.static.values())
    assert result.params == pytest.approx(1.0)
    assert result.dynamic_epochs == pytest.approx(7 / 3)
    low, high = result.permuted_interval
    assert low < result.permuted < high < 0.4
    assert result.ceiling is None
    assert result.gain_interval[0] > 0.5  # static training of equal epochs knows nothing


def test_a_real_order_survives_the_control():
    """Accuracies are the truth whatever the budget: every way to train ranks perfectly."""
    rng = np.random.default_rng(1)
    truth = rng.random(40)
    result = study(rng.random(40), [1, 3], np.stack([truth, truth], 1), truth, again=truth)
    assert (result.dynamic, result.permuted, result.ceiling) == pytest.approx((1, 1, 1))
    assert result.static == pytest.approx({1: 1, 3: 1})


def test_rho_is_scipys():
    rng = np.random.default_rng(2)
    params, grid, final, again = rng.random(9), rng.random((9, 3)), rng.random(9), rng.random(9)
    result = study(params, [1, 2, 3], grid, final, again)
    order = np.argsort(params)
    dynamic = np.concatenate([grid[order[3 * i : 3 * i + 3], i] for i in range(3)])
    assert result.dynamic == pytest.approx(spearmanr(dynamic, final[order]).statistic)
    assert result.static[2] == pytest.approx(spearmanr(grid[:, 1], final).statistic)
    assert result.params == pytest.approx(spearmanr(params, final).statistic)
    assert result.ceiling == pytest.approx(spearmanr(again, final).statistic)
    assert result.gain == pytest.approx(result.dynamic - result.static[2])  # of 2 epochs on average
    low, high = result.gain_interval
    assert low < result.gain < high


def test_static_training_has_no_fewer_epochs_than_dynamic():
    """Of 1.5 epochs on average, static training has 2: then it ranks perfectly, after one it knows nothing."""
    rng = np.random.default_rng(3)
    params, truth, noise = rng.random(20), rng.random(20), rng.random(20)
    result = study(params, [1, 2], np.stack([noise, truth], 1), truth)
    assert result.dynamic_epochs == 1.5
    assert result.static[2] == pytest.approx(1)
    assert result.gain == pytest.approx(result.dynamic - 1)


def test_what_is_not_defined_is_none():
    result = study([1, 2, 3], [1, 2], [[0.1, 0.2]] * 3, [0.5, 0.5, 0.5], again=[0.1, 0.2, 0.3])
    assert (result.dynamic, result.permuted, result.permuted_interval, result.params, result.ceiling) == (None,) * 5
    assert result.static == {1: None, 2: None}


def test_too_little_is_refused():
    with pytest.raises(UserError, match="three networks or more"):
        study([1, 2], [1], [[0.1], [0.2]], [0.1, 0.2])
    with pytest.raises(UserError, match="got 3 networks"):
        study([1, 2, 3], [1, 2], [[0.1], [0.2], [0.3]], [0.1, 0.2, 0.3])
