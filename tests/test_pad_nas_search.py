"""What PAD-NAS says of its search: NSGA-II with violators against Deb's definition, κ and intervals against others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments import pad_nas_search
from experiments.pad_nas_search import Dominated, LetIn
from search.ask_tell import Record
from search.ces import CES, CESConfig
from search.costs import AdditiveCost, Window
from supernet.space import Choice, Gene, Space

CHOICES = tuple(Choice("ib", 3, expand) for expand in (1, 3, 6))
GENES = tuple(Gene(f"layer{i}", CHOICES, 8, 8, 1) for i in range(8))
SPACE = Space("tiny", 3, 8, 10, 8, 1, 16, "relu6", GENES, ((0, 1, 2),) * 8)
COST = AdditiveCost([[0.1, 0.2, 0.4]] * 8, base=1.0)
BOUNDS = {"ms": (2.0, 2.6)}


def accuracy(arch) -> float:
    """Grows with the cost, without ties: the best lies at the window's upper end, and better ones beyond it."""
    return sum(choice * (1 + (i + 2) ** 0.5 / 10) for i, choice in enumerate(arch)) / 30


def searched(algorithm: type[CES], seed: int = 0) -> CES:
    search = algorithm(SPACE, {"ms": COST}, BOUNDS, ["ms"], CESConfig(12, 6, seed=seed))
    while not search.done:
        archs = search.ask()
        search.tell(archs, [accuracy(arch) for arch in archs])
    return search


@pytest.mark.parametrize("algorithm", [LetIn, Dominated])
def test_violators_are_scored_from_a_first_batch_within(algorithm):
    window = Window(SPACE, {"ms": COST}, BOUNDS)
    ces, search = searched(CES), searched(algorithm)
    first, others = ([r.arch for r in of.records() if r.generation == 0] for of in (ces, search))
    assert first == others
    assert len(search.records()) == len(ces.records()) == 72
    assert any(r.arch not in window for r in search.records())
    found = pad_nas_search.judged(search.records(), window, "ms")
    inside = [r for r in search.records() if r.arch in window]
    assert found["best_accuracy"] == max(r.accuracy for r in inside)
    assert found["outside"] == pytest.approx(1 - len(inside) / 72)
    assert pad_nas_search.judged(ces.records(), window, "ms")["outside"] == 0


def test_constrained_domination_is_deb_s():
    """Definition 1 of §VI: who dominates whom, of all pairs."""
    search = searched(LetIn)
    search.__class__ = Dominated
    records, window = search.records(), Window(SPACE, {"ms": COST}, BOUNDS)
    beyond = {r.arch: max(2.0 - COST(r.arch), 0) / 2.0 + max(COST(r.arch) - 2.6, 0) / 2.6 for r in records}
    assert {r.arch for r in records if r.arch in window} == {arch for arch, of in beyond.items() if of == 0}

    def dominates(a: Record, b: Record) -> bool:
        if beyond[a.arch] or beyond[b.arch]:
            return beyond[a.arch] < beyond[b.arch] - 1e-9
        pairs = ((-a.accuracy, -b.accuracy), (a.costs["ms"], b.costs["ms"]))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    left, ranks, rank = list(records), {}, 0
    while left:
        rank += 1
        front = [r for r in left if not any(dominates(other, r) for other in left)]
        ranks |= {r.arch: rank for r in front}
        left = [r for r in left if r.arch not in ranks]
    assert [r.rank for r in records] == [ranks[r.arch] for r in records]
    assert len(set(ranks.values())) > 5


def test_counting_more_ranks_keeps_more_operations():
    searches = [searched(CES, seed).records() for seed in range(3)]
    few, many = (pad_nas_search.counted(SPACE, searches, "ms", rank, 0.1, 1000, 5) for rank in (1, 9))
    for seed, records in enumerate(searches):
        assert few["counted"][seed] == sum(r.rank == 1 for r in records)
        assert many["counted"][seed] == sum(r.rank <= 9 for r in records)
    assert all(0 <= value <= 1 for value in many["redrawn"])
    assert np.allclose(np.diag(many["between"]), 1)
    exact = pad_nas_search.counted(SPACE, searches, "ms", 9, 0.1, 10**12, 5)
    assert exact["redrawn"] == [1.0] * 3  # of so many images an accuracy has no noise


def test_kappa_is_agreement_beyond_chance():
    """By the four counts: po = .7, pe = .6 · .5 + .4 · .5."""
    a, b = (np.repeat(bits, (4, 2, 1, 3)) for bits in ([True, True, False, False], [True, False, True, False]))
    assert pad_nas_search.kappa(a, b) == pytest.approx((0.7 - 0.5) / 0.5)
    assert pad_nas_search.kappa(a, a) == 1
    assert pad_nas_search.kappa(a, ~a) < 0
    assert pad_nas_search.kappa(np.ones(3, bool), np.ones(3, bool)) == 1


def test_the_jackknife_of_a_mean_is_student_s_interval():
    """Also of the mean over pairs of (x + y) / 2, which is the mean."""
    x = np.array([0.2, 0.5, 0.3, 0.9, 0.4])
    low, high = stats.t.interval(0.95, 4, loc=x.mean(), scale=stats.sem(x))

    def pairs(of: list[int]) -> float:
        return float(np.mean([(x[i] + x[j]) / 2 for i, j in itertools.combinations(of, 2)]))

    value, half = pad_nas_search.jackknife(pairs, 5)
    assert (value - half, value + half) == pytest.approx((low, high))
