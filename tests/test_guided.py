"""Search by a predictor against plain CES on spaces of which every architecture has a score."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from search import nsga2, priced
from search.ces import CES, CESConfig
from search.guided import GuidedConfig, GuidedSearch, Predictor, added_volume
from supernet import spaces

POPULATION, ITERATIONS = 32, 12


def problem(name: str, seed: int):
    """Accuracies with interacting genes and noise, and a window of multiply-adds."""
    space, rng = spaces.get(name, 1, 28, 10), np.random.default_rng(seed)
    n = len(space.genes)
    own = [np.sort(rng.random(len(gene.choices))) for gene in space.genes]
    weights = rng.gamma(1, 1, n)
    pairs = {
        (i, j): rng.normal(0, 0.25, (len(own[i]), len(own[j])))
        for i, j in itertools.combinations(range(n), 2)
        if rng.random() < 3 / n
    }
    flops = priced.additive(space, lambda spec: spec.flops)
    low, high = flops.bounds(space)

    def accuracy(arch):
        value = sum(weights[i] * own[i][c] for i, c in enumerate(arch)) / weights.sum()
        value += sum(table[arch[i], arch[j]] for (i, j), table in pairs.items()) / n
        return 0.9 - 0.3 * np.exp(-3 * value) + np.random.default_rng([seed, *arch]).normal(0, 5e-4)

    return space, {"flops": flops}, {"flops": (0, low + 0.6 * (high - low))}, accuracy


def searched(search, accuracy):
    while not search.done:
        archs = search.ask()
        search.tell(archs, [accuracy(arch) for arch in archs])
    return search.records()


def volume(records, reference):
    values = np.array([[-r.accuracy, r.costs["flops"]] for r in records])
    return nsga2.hypervolume(values[nsga2.fast_non_dominated_sort(values) == 1], reference)


def test_it_begins_at_both_ends_of_the_window():
    """Uniform draws of a large space do not come there, and a front does not grow beyond what it knows."""
    space, costs, *_ = problem("mobile", 0)
    ends = costs["flops"].bounds(space)
    given = space, costs, {}, ["flops"]
    first = [costs["flops"](arch) for arch in GuidedSearch(*given, GuidedConfig(32, 2)).ask()]
    step = (ends[1] - ends[0]) / 32
    assert min(first) <= ends[0] + step
    assert max(first) >= ends[1] - step
    assert max(map(costs["flops"], CES(*given, CESConfig(32, 2)).ask())) < ends[1] - step


@pytest.mark.parametrize(
    "name", ["elastic-small", *(pytest.param(name, marks=pytest.mark.chain) for name in ("mobile-small", "mobile"))]
)
def test_a_third_of_the_evaluations_of_ces_find_its_hypervolume_to_a_thousandth(name):
    ratios = []
    for seed in range(10 if name == "mobile-small" else 4):
        *given, accuracy = problem(name, seed)
        ces = searched(CES(*given, ["flops"], CESConfig(POPULATION, ITERATIONS, seed)), accuracy)
        guided = searched(GuidedSearch(*given, ["flops"], GuidedConfig(POPULATION, ITERATIONS, seed)), accuracy)
        assert len(guided) <= len(ces) / 3
        reference = np.array([[-r.accuracy, r.costs["flops"]] for r in ces]).max(0)
        ratios.append(volume(guided, reference) / volume(ces, reference))
    assert np.mean(ratios) > 0.999, ratios


def test_what_is_on_the_front_was_scored_and_a_stop_changes_nothing():
    *given, accuracy = problem("mobile", 0)

    def new():
        return GuidedSearch(*given, ["flops"], GuidedConfig(8, 6, 1, rounds=3))

    whole, asked = new(), set()
    resumed = new()
    while not whole.done:
        archs = whole.ask()
        assert archs == resumed.ask()
        assert not asked & set(archs)
        asked |= set(archs)
        for search in (whole, resumed):
            search.tell(archs, [accuracy(arch) for arch in archs])
        again = new()
        again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        resumed = again
    assert {record.arch for record in whole.front()} <= asked
    assert len(asked) == whole.config.evaluations == 8 + 5 * 2


def test_added_volume_is_the_difference_of_hypervolumes():
    rng = np.random.default_rng(0)
    for m in (2, 3):
        front, points, reference = rng.random((6, m)), 1.3 * rng.random((40, m)) - 0.1, np.ones(m)
        expected = [
            nsga2.hypervolume(np.vstack([front, p]), reference) - nsga2.hypervolume(front, reference) for p in points
        ]
        np.testing.assert_allclose(added_volume(front, points, reference), expected, atol=1e-12)


def test_predictions_are_near_and_deviations_say_how_near():
    space, costs, _, accuracy = problem("mobile-small", 3)
    archs = space.enumerate()
    values = np.array([[costs["flops"](arch)] for arch in archs])
    order = np.random.default_rng(1).permutation(len(archs))
    known, new = order[:120], order[120:]
    truth = np.array([accuracy(arch) for arch in archs])
    model = Predictor(space, [archs[i] for i in known], truth[known], values[known])
    mean, deviation = model([archs[i] for i in new], values[new])
    error = mean - truth[new]
    assert np.sqrt((error**2).mean()) < 0.5 * truth.std()
    assert (np.abs(error) < 2 * deviation).mean() > 0.85


def test_a_constant_accuracy_and_a_window_that_runs_out():
    space, costs, _, _ = problem("mobile-small", 0)
    low, _ = costs["flops"].bounds(space)
    search = GuidedSearch(space, costs, {"flops": (0, 1.3 * low)}, ["flops"], GuidedConfig(16, 40))
    found = searched(search, lambda arch: 0.5)
    inside = [arch for arch in space.enumerate() if arch in search.window]
    assert {record.arch for record in found} == set(inside) or len(found) == search.config.evaluations
