"""Costs of a space's networks, against what the layers of each network add up to; windows of a latency."""

from __future__ import annotations

import statistics

import pytest
from conftest import tiny_space

from search import priced
from supernet import families
from supernet.errors import UserError

SPACE = tiny_space()


def price(spec) -> float:
    return 0.1 + 1e-6 * spec.flops if spec.runs else 0.0


def test_costs_are_those_of_the_lowered_networks():
    costs = priced.costs(SPACE, {"latency": price})
    assert list(costs) == ["latency", "flops", "params", "activations"]
    for arch in SPACE.enumerate():
        specs = families.lower(SPACE, arch)
        assert costs["latency"](arch) == pytest.approx(sum(map(price, specs)))
        assert costs["flops"](arch) == families.flops(SPACE, arch)
        assert costs["params"](arch) == families.params(SPACE, arch)
        assert costs["activations"](arch) == max(spec.activations for spec in specs if spec.runs)


def test_bounds_go_with_costs_of_what_a_search_calls_a_network():
    known = {"small": tuple(o[0] for o in SPACE.allowed), "large": tuple(o[-1] for o in SPACE.allowed)}
    costs, bounds = priced.bounded(lambda name: (SPACE, known[name]), 1e6, 1e3, 2.0, lambda _, arch: sum(arch))
    assert bounds == {"multiply-adds": 1e6, "parameters": 1e3, "latency in ms": 2.0}
    for name, arch in known.items():
        expected = [families.flops(SPACE, arch), families.params(SPACE, arch), sum(arch)]
        assert [costs[of](name) for of in bounds] == expected
    without, bounds = priced.bounded(lambda name: (SPACE, known[name]), 1e6, 1e3, 2.0, None)
    assert list(without) == list(bounds) == ["multiply-adds", "parameters"]


def test_the_median_lies_among_the_values():
    cost = priced.additive(SPACE, price)
    values = sorted(map(cost, SPACE.enumerate()))
    middle = priced.median(SPACE, cost)
    assert middle == priced.median(SPACE, cost)
    assert middle == pytest.approx(statistics.median(values), abs=(values[-1] - values[0]) / 4)


def test_windows():
    cost = priced.additive(SPACE, price)
    fastest, slowest = cost.bounds(SPACE)
    assert priced.window(SPACE, cost, 0.0, None)[:2] == (0.0, fastest + 0.4 * (slowest - fastest))
    assert priced.window(SPACE, cost, 0.0, slowest) == (0.0, slowest, "does not bind")
    low, high, reason = priced.window(SPACE, cost, fastest, (fastest + slowest) / 2)
    assert (low, high, reason) == (fastest, (fastest + slowest) / 2, "50% of the range")
    with pytest.raises(UserError, match="below the fastest architecture"):
        priced.window(SPACE, cost, 0.0, fastest / 2)
    with pytest.raises(UserError, match="no latency lies between"):
        priced.window(SPACE, cost, 2 * slowest, 3 * slowest)
