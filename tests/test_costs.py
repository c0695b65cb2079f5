"""Additive costs and windows, against enumeration."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import costs
from search.costs import AdditiveCost, MaxCost, Window, attainable
from supernet.errors import UserError
from supernet.space import Choice, Gene, Space


def toy_space(genes, choices, allowed=None):
    options = tuple(Choice("ib", 3, expand) for expand in range(1, choices + 1))
    layers = tuple(Gene(f"layer{i}", options, 8, 8, 1) for i in range(genes))
    return Space("toy", 3, 8, 10, 8, 1, 16, "relu6", layers, allowed or (tuple(range(choices)),) * genes)


def random_cost(genes, choices, seed, base=1.0):
    return AdditiveCost(np.random.default_rng(seed).gamma(2, 1, (genes, choices)).tolist(), base)


allowed_lists = st.lists(st.sets(st.integers(0, 4), min_size=1).map(lambda s: tuple(sorted(s))), min_size=1, max_size=5)


@given(allowed=allowed_lists, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_attainable_is_exact_for_additive_costs(allowed, seed):
    space = toy_space(len(allowed), 5, tuple(allowed))
    cost = random_cost(len(allowed), 5, seed)
    values = [cost(arch) for arch in space.enumerate()]
    # Equal, not close: a bound set to the attainable minimum must let the fastest architecture in.
    assert attainable(space, cost) == (min(values), max(values))


@given(allowed=allowed_lists, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_attainable_is_exact_for_the_cost_of_the_largest_layer(allowed, seed):
    space = toy_space(len(allowed), 5, tuple(allowed))
    cost = MaxCost(random_cost(len(allowed), 5, seed).table, base=2.0)
    values = [cost(arch) for arch in space.enumerate()]
    assert values == [max(2.0, *(cost.table[i][j] for i, j in enumerate(arch))) for arch in space.enumerate()]
    assert attainable(space, cost) == (min(values), max(values))


def test_any_function_is_a_cost_but_its_range_is_not_known():
    assert attainable(toy_space(2, 2), lambda arch: 1.0) is None


def test_closed_choices_need_no_value():
    space = toy_space(2, 2, ((0,), (0, 1)))
    assert AdditiveCost([[1.0, math.nan], [2.0, 3.0]]).bounds(space) == (3.0, 4.0)
    with pytest.raises(UserError, match="layer0 is not finite"):
        AdditiveCost([[1.0, math.nan], [2.0, 3.0]]).bounds(toy_space(2, 2))


def test_a_table_of_another_space_is_refused():
    with pytest.raises(UserError, match=r"\[2, 2\] choices per gene, space toy has \[2, 2, 2\]"):
        AdditiveCost([[1.0, 2.0]] * 2).bounds(toy_space(3, 2))


@pytest.mark.parametrize("genes", [6, 7])  # 4^6 is listed, 4^7 sampled
def test_sample_finds_only_new_members(genes):
    space, cost = toy_space(genes, 4), random_cost(genes, 4, 0)
    assert (space.size <= costs.ENUMERABLE) == (genes == 6)
    values = sorted(map(cost, space.enumerate()))
    window = Window(space, {"latency": cost}, {"latency": (values[100], values[2000])})
    rng = np.random.default_rng(0)
    known = set(window.sample(rng, 50, (), 500))
    more = window.sample(rng, 50, known, 500)
    assert len(known | set(more)) == 100
    assert all(values[100] <= cost(arch) <= values[2000] for arch in [*known, *more])


def test_listed_windows_give_every_member_and_the_ends_belong():
    space, cost = toy_space(5, 4), random_cost(5, 4, 1)
    values = sorted(map(cost, space.enumerate()))
    window = Window(space, {"latency": cost}, {"latency": (values[10], values[29])})
    found = window.sample(np.random.default_rng(0), 999, (), tries=1)
    assert sorted(map(cost, found)) == values[10:30]


@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("end", ["fast", "slow"])
def test_walks_reach_windows_that_sampling_misses(additive, end):
    space, table = toy_space(22, 7), random_cost(22, 7, 2)
    low, high = table.bounds(space)
    share = 0.05 * (high - low)  # some four standard deviations and more from the mean
    bounds = (low, low + share) if end == "fast" else (high - share, high)
    cost = table
    if not additive:
        cost, bounds = lambda arch: table(arch) ** 2, tuple(end**2 for end in bounds)
    window = Window(space, {"latency": cost}, {"latency": bounds})
    rng = np.random.default_rng(0)
    assert space.sample_where(rng, window.__contains__, 2000) is None
    found = window.sample(rng, 64, (), 2000)
    assert len(set(found)) == 64
    assert all(arch in space and bounds[0] <= cost(arch) <= bounds[1] for arch in found)


def test_several_narrow_windows_at_once():
    space = toy_space(22, 7)
    measured = {"latency": random_cost(22, 7, 3), "flops": random_cost(22, 7, 4, base=0.0)}
    bounds = {}
    for name, cost in measured.items():
        low, high = cost.bounds(space)
        bounds[name] = (low + 0.2 * (high - low), low + 0.22 * (high - low))
    found = Window(space, measured, bounds).sample(np.random.default_rng(0), 20, (), 2000)
    assert len(set(found)) == 20
    assert all(low <= measured[name](arch) <= high for arch in found for name, (low, high) in bounds.items())


def test_members_from_one_end_of_a_window_to_the_other():
    """One in each interval of a cost, within the other bounds too; what is known is left out."""
    space, cost, other = toy_space(20, 5), random_cost(20, 5, 3), random_cost(20, 5, 4)
    low, high = cost.bounds(space)
    ends, limit = (low, low + 0.9 * (high - low)), 0.8 * other.bounds(space)[1]
    window = Window(space, {"cost": cost, "other": other}, {"cost": ends, "other": (0, limit)})
    found = window.spread(np.random.default_rng(0), 10, "cost", cost)
    edges = np.linspace(*ends, 11)
    places = np.searchsorted(edges, [cost(arch) for arch in found]) - 1
    assert sorted(places) == list(range(10))
    assert all(other(arch) <= limit for arch in found)
    again = window.spread(np.random.default_rng(0), 10, "cost", cost, known=found)
    assert len({*found, *again}) == 20
    drawn = np.searchsorted(edges, [cost(arch) for arch in window.sample(np.random.default_rng(0), 500, (), 100)]) - 1
    assert not {0, 9} & set(drawn)  # uniform draws do not come there


def test_a_bound_that_the_table_rules_out():
    space, cost = toy_space(2, 2), AdditiveCost([[0.1, 0.3], [0.2, 0.6]])
    for bounds, message in (
        ((-math.inf, 0.1), r"latency <= 0.1 cannot be met: space toy attains 0.3 to 0.9"),
        ((2, 3), r"latency >= 2 cannot be met: space toy attains 0.3 to 0.9"),
        ((3e9, 4e9), r"latency >= 3000000000 cannot be met: space toy attains 0.3 to 0.9"),
        ((3, 2), r"bounds on latency are 3 to 2; expected lowest <= highest"),
        ((math.nan, 2), r"expected lowest <= highest"),
    ):
        with pytest.raises(UserError, match=message):
            Window(space, {"latency": cost}, {"latency": bounds})
    with pytest.raises(UserError, match="bounds on memory, but the costs are latency"):
        Window(space, {"latency": cost}, {"memory": (0, 1)})


@pytest.mark.parametrize("genes", [3, 8])
def test_an_empty_window_names_the_nearest(genes):
    space = toy_space(genes, 4)
    window = Window(space, {"size": lambda arch: float(2 * sum(arch))}, {"size": (2.5, 3.8)})
    rng = np.random.default_rng(0)
    assert window.sample(rng, 8, (), 300) == []
    message = str(window.empty(rng, 300))
    assert "\n" not in message
    assert "size in [2.5, 3.8]" in message
    assert "the nearest has size 4: widen the window" in message


def test_a_cost_must_be_finite():
    window = Window(toy_space(2, 2), {"latency": lambda arch: math.nan}, {"latency": (0, 1)})
    with pytest.raises(UserError, match=r"latency of the architecture \[0, 0\] is nan"):
        window.sample(np.random.default_rng(0), 1, (), 10)


def test_examples_hold():
    assert doctest.testmod(costs).failed == 0
