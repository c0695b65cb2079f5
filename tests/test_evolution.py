"""SPOS evolution and random search: the window, the budget, resuming, and what each draws."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from search.evolution import RandomConfig, RandomSearch, SPOSConfig, SPOSEvolution
from supernet.errors import UserError
from tests.test_ces import Problem

SEARCHES = {"spos": (SPOSEvolution, SPOSConfig), "random": (RandomSearch, RandomConfig)}


def make(problem, name, bounds, **config):
    search, settings = SEARCHES[name]
    return search(problem.space, problem.costs, bounds, ("latency",), settings(**config))


@pytest.mark.parametrize("name", SEARCHES)
def test_budget_window_and_no_architecture_twice(name):
    problem = Problem(8, 4, 0)
    bounds = problem.window(0.3, 0.6)
    search = problem.run(make(problem, name, bounds, population=20, iterations=10))
    records = search.records()
    assert len(records) == len({record.arch for record in records}) == 200
    low, high = bounds["latency"]
    assert all(low <= problem.latency(record.arch) <= high for record in records)
    assert [entry["evaluated"] for entry in search.history] == list(range(20, 201, 20))
    F = [(-r.accuracy, r.costs["latency"]) for r in records]
    for f, record in zip(F, records, strict=True):
        assert (record.rank == 1) == (not any(g != f and g[0] <= f[0] and g[1] <= f[1] for g in F))


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("stop", [0, 2])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(name, stop):
    problem = Problem(7, 4, 1)
    arguments = {"population": 12, "iterations": 5, "seed": 5}
    whole = problem.run(make(problem, name, problem.window(0.3, 0.6), **arguments))
    killed = problem.run(make(problem, name, problem.window(0.3, 0.6), **arguments), batches=stop)
    resumed = make(problem, name, problem.window(0.3, 0.6), **arguments)
    resumed.load_state_dict(json.loads(json.dumps(killed.state_dict(), allow_nan=False)))
    problem.run(resumed)
    assert resumed.records() == whole.records()
    assert resumed.state_dict() == whole.state_dict()


def test_a_state_of_another_algorithm_is_refused():
    problem = Problem(6, 4, 0)
    state = problem.run(make(problem, "random", {}, population=8, iterations=2)).state_dict()
    with pytest.raises(UserError, match="algorithm = random search, this search has CES"):
        problem.search({}, population=8, iterations=2).load_state_dict(state)


def test_evolution_keeps_the_best_of_all_generations_and_breeds_from_them():
    problem = Problem(8, 4, 0)
    search = make(problem, "spos", {}, population=20, iterations=6, top_k=5, mutation=0.2)
    while not search.done:
        records = search.records()
        best = sorted(records, key=lambda record: -record.accuracy)[:5]
        batch = search.ask()
        if best and search.history and search._random == 0:
            for child in batch[10:]:  # uniform crossover: each gene is one of two parents'
                assert any(
                    all(gene in pair for gene, *pair in zip(child, a.arch, b.arch, strict=True))
                    for a in best
                    for b in best
                )
        search.tell(batch, [problem.accuracy(arch) for arch in batch])
        best = sorted(search.records(), key=lambda record: -record.accuracy)[:5]
        assert {record.arch for record in best} == set(search._population)


def test_mutation_redraws_each_gene_uniformly():
    problem = Problem(8, 4, 0)
    search = make(problem, "spos", {}, population=2, iterations=2, top_k=1, mutation=0.4)
    batch = search.ask()
    search.tell(batch, [problem.accuracy(arch) for arch in batch])
    (parent,) = search._population
    counts = Counter((i, gene) for _ in range(4000) for i, gene in enumerate(search._mutant()) if gene != parent[i])
    # Redrawn with probability .4 to one of four choices, one of which is the parent's own.
    expected = 4000 * 0.4 / 4
    assert len(counts) == 24
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_evolution_beats_random_search_at_equal_evaluations():
    """SPOS's own claim, on problems whose optimum is far from a random draw."""
    gaps = []
    for seed in range(6):
        problem = Problem(12, 4, seed)
        bounds = problem.window(0.2, 0.5)
        best = {
            name: max(
                r.accuracy for r in problem.run(make(problem, name, bounds, population=30, iterations=12)).records()
            )
            for name in SEARCHES
        }
        gaps.append(best["spos"] - best["random"])
    assert np.mean(gaps) > 0
    assert sum(gap > 0 for gap in gaps) >= 5


def test_impossible_settings():
    for config, message in (({"top_k": 0}, "SPOS evolution: top_k is 0"), ({"mutation": 2}, "mutation is 2")):
        with pytest.raises(UserError, match=message):
            SPOSConfig(**config)
    with pytest.raises(UserError, match="random search: population is 1"):
        RandomConfig(population=1)
