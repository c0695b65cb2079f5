"""NSGA-II against pymoo, its operators against the distributions they claim."""

import doctest
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.operators.mutation.pm import mut_pm
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy.integrate import quad

from search import nsga2


def point_sets(cases, objectives=(1, 2, 3, 4), most=40, seed=0):
    """Random F [n, m]: smooth values, coarse ones full of ties, duplicated rows, and constant objectives."""
    rng = np.random.default_rng(seed)
    for case in range(cases):
        n, m = int(rng.integers(1, most)), int(rng.choice(objectives))
        F = rng.normal(size=(n, m)) if case % 2 else rng.integers(0, rng.integers(1, 8), (n, m)).astype(float)
        if case % 3 == 0:
            F = F[rng.integers(n, size=n)]
        if case % 5 == 0:
            F[:, rng.integers(m)] = 7.0
        yield F


def test_sort_agrees_with_pymoo():
    for F in point_sets(1000):
        expected = np.zeros(len(F), dtype=int)
        for rank, front in enumerate(NonDominatedSorting().do(F), start=1):
            expected[front] = rank
        np.testing.assert_array_equal(nsga2.fast_non_dominated_sort(F), expected)


def test_crowding_agrees_with_pymoo():
    crowding = get_crowding_function("cd")
    for F in point_sets(1000, seed=1):
        np.testing.assert_allclose(nsga2.crowding_distance(F), crowding.do(F), rtol=1e-9, atol=1e-12)


def test_survival_agrees_with_pymoo():
    rng = np.random.default_rng(2)
    for F in point_sets(500, seed=2):
        n = int(rng.integers(1, len(F) + 1))
        kept = nsga2.survival(F, n)
        assert len(set(kept.tolist())) == n
        # Who is kept among equals is a matter of taste (pymoo draws lots): compare ranks and crowding.
        survivors = RankAndCrowding().do(
            Problem(n_obj=F.shape[1]), Population.new(F=F), n_survive=n, random_state=np.random.default_rng(0)
        )
        ranks, crowding = nsga2.rank_and_crowding(F)
        assert sorted(ranks[kept]) == sorted(rank + 1 for rank in survivors.get("rank"))
        np.testing.assert_allclose(sorted(crowding[kept]), sorted(survivors.get("crowding")), rtol=1e-9)


def test_survival_is_best_first_and_stable():
    F = np.array([[1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [3.0, 3.0]])
    assert nsga2.survival(F, 99).tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_agrees_with_pymoo(objectives):
    for F in point_sets(300 if objectives < 4 else 80, objectives=(objectives,), most=30, seed=3):
        reference = np.array([3.0, 2.5, 2.0, 2.5])[:objectives]
        expected = HV(ref_point=reference).do(F)
        assert nsga2.hypervolume(F, reference) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_hypervolume_of_nothing_and_of_another_number_of_objectives():
    assert nsga2.hypervolume(np.empty((0, 2)), (1, 1)) == 0
    with pytest.raises(ValueError, match="one per objective"):
        nsga2.hypervolume(np.zeros((1, 3)), (1, 1))


def test_thousands_of_points_and_of_fronts():
    line = np.arange(2000.0)
    assert nsga2.fast_non_dominated_sort(np.stack([line, line], 1)).tolist() == list(range(1, 2001))
    assert (nsga2.fast_non_dominated_sort(np.stack([line, -line], 1)) == 1).all()


@pytest.mark.parametrize("function", [nsga2.fast_non_dominated_sort, nsga2.crowding_distance])
def test_values_must_be_a_finite_matrix(function):
    assert function(np.empty((0, 2))).shape == (0,)
    with pytest.raises(ValueError, match="finite"):
        function(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        function(np.zeros(3))


def test_tournament():
    rng = np.random.default_rng(0)
    ranks = np.array([2, 1, 1, 3])
    crowding = np.array([np.inf, 0.5, np.inf, np.inf])
    wins = Counter(nsga2.tournament(ranks, crowding, 12_000, rng).tolist())
    # Two of four are drawn without replacement: the best is in half of the pairs; the worst never wins.
    for point, probability in {2: 1 / 2, 1: 1 / 3, 0: 1 / 6}.items():
        assert abs(wins[point] - 12_000 * probability) < 5 * math.sqrt(12_000 * probability)
    assert 3 not in wins
    assert nsga2.tournament(np.array([1]), np.array([np.inf]), 3, rng).tolist() == [0, 0, 0]


@given(genes=st.integers(1, 12), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_crossover_exchanges_one_interior_stretch(genes, seed):
    rng = np.random.default_rng(seed)
    a, b = (0,) * genes, (1,) * genes
    first, second = nsga2.two_point_crossover(a, b, rng)
    assert tuple(x + y for x, y in zip(first, second, strict=True)) == (1,) * genes
    if genes == 1:
        assert (first, second) == (a, b)
    elif genes == 2:
        assert (first, second) == ((0, 1), (1, 0))
    else:
        text = "".join(map(str, first))
        assert text.startswith("0")
        assert text.endswith("0")
        assert text.strip("0") == "1" * text.count("1") != ""


def test_crossover_draws_every_pair_of_cut_points_alike():
    rng = np.random.default_rng(0)
    seen = Counter(nsga2.two_point_crossover((0,) * 5, (1,) * 5, rng)[0] for _ in range(6000))
    assert len(seen) == 6  # pairs among 4 interior cut points
    assert all(abs(count - 1000) < 5 * math.sqrt(1000) for count in seen.values())


allowed_lists = st.lists(
    st.sets(st.integers(0, 18), min_size=1).map(lambda s: tuple(sorted(s))), min_size=1, max_size=8
)


@given(allowed=allowed_lists, data=st.data())
@settings(max_examples=100, deadline=None)
def test_repair_takes_the_nearest(allowed, data):
    arch = tuple(data.draw(st.integers(0, 18)) for _ in allowed)
    for gene, open_, fixed in zip(arch, allowed, nsga2.repair(arch, allowed), strict=True):
        assert fixed == min(open_, key=lambda index: (abs(index - gene), index))


@given(
    allowed=allowed_lists,
    data=st.data(),
    eta=st.floats(0, 100),
    probability=st.none() | st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_mutants_are_allowed(allowed, data, eta, probability, seed):
    arch = tuple(data.draw(st.integers(0, 18)) for _ in allowed)  # of the space before it was pruned
    mutant = nsga2.polynomial_mutation(arch, allowed, np.random.default_rng(seed), eta, probability)
    assert all(gene in open_ for gene, open_ in zip(mutant, allowed, strict=True))
    if probability == 0:
        assert mutant == nsga2.repair(arch, allowed)


def step_probabilities(k, x, eta):
    """Where mutation of choice x takes it: the polynomial density, cut off on each side, over each cell."""
    cells = []
    for y in range(k):
        mass = 0.0
        for sign in (-1, 1):
            bound = ((x + 0.5) if sign < 0 else (k - 0.5 - x)) / k
            low, high = sorted((sign * (y - 0.5 - x) / k, sign * (y + 0.5 - x) / k))
            low, high = max(low, 0.0), min(high, bound)
            if low < high:
                density = lambda d: (1 - d) ** eta  # noqa: E731
                mass += 0.5 * quad(density, low, high)[0] / quad(density, 0, bound)[0]
        cells.append(mass)
    assert sum(cells) == pytest.approx(1)
    return np.array(cells)


@pytest.mark.parametrize(("k", "x", "eta"), [(2, 0, 3), (3, 1, 3), (7, 0, 3), (7, 4, 3), (7, 6, 20)])
def test_mutation_follows_the_polynomial_distribution(k, x, eta):
    draws = 20_000
    open_ = tuple(range(10, 10 + 2 * k, 2))  # positions in the list count, not the indices
    rng = np.random.default_rng(k * 100 + x)
    mutant = nsga2.polynomial_mutation((open_[x],) * draws, (open_,) * draws, rng, eta, probability=1)
    counts = np.array([mutant.count(index) for index in open_])
    expected = step_probabilities(k, x, eta) * draws
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 5).all()

    # pymoo's operator on the same interval, rounded
    bounds = np.array([-0.5]), np.array([k - 0.5])
    X = mut_pm(np.full((draws, 1), float(x)), *bounds, np.full(draws, eta), np.ones(draws), False, random_state=rng)
    theirs = np.bincount(np.clip(np.rint(X[:, 0]), 0, k - 1).astype(int), minlength=k)
    assert (np.abs(theirs - expected) < 5 * np.sqrt(expected) + 5).all()


def test_documented_probabilities_of_change():
    lines = [line.split() for line in nsga2.polynomial_mutation.__doc__.splitlines()]
    sizes = next(list(map(int, line[1:])) for line in lines if line[:1] == ["k"])
    rows = {int(line[1]): list(map(float, line[2:])) for line in lines if line[:1] == ["eta"]}
    assert set(rows) == {3, 20}
    for eta, stated in rows.items():
        for k, value in zip(sizes, stated, strict=True):
            change = np.mean([1 - step_probabilities(k, x, eta)[x] for x in range(k)])
            assert value == pytest.approx(change, abs=0.006)


def test_default_mutates_one_gene_on_average():
    rng = np.random.default_rng(0)
    # With eta 0 a mutated gene of 19 choices changes with probability near 1, so changes count mutations.
    allowed = (range(19),) * 22
    mutants = [nsga2.polynomial_mutation((9,) * 22, allowed, rng, eta=0) for _ in range(4000)]
    changes = [sum(gene != 9 for gene in mutant) for mutant in mutants]
    assert np.mean(changes) == pytest.approx(1 - step_probabilities(19, 9, 0)[9], abs=5 / math.sqrt(4000))


def test_module_runs_without_torch_and_its_examples_hold():
    assert doctest.testmod(nsga2).failed == 0
    code = "import sys, search.nsga2, search.costs, search.ces, search.evolution; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
