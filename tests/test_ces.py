"""CES against brute force and random search; constraints, resuming, and running out of architectures."""

import doctest
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.indicators.hv import HV

from search import ces as ces_module
from search import nsga2
from search.ces import CES, CESConfig
from search.costs import AdditiveCost
from supernet.errors import UserError
from supernet.space import Choice, Gene, Space


def toy_space(genes, choices, allowed=None):
    options = tuple(Choice("ib", 3, expand) for expand in range(1, choices + 1))
    layers = tuple(Gene(f"layer{i}", options, 8, 8, 1) for i in range(genes))
    return Space("toy", 3, 8, 10, 8, 1, 16, "relu6", layers, allowed or (tuple(range(choices)),) * genes)


class Problem:
    """A toy network family: larger choices cost more and score higher, unevenly, and neighbours interact."""

    def __init__(self, genes, choices, seed, allowed=None):
        rng = np.random.default_rng(seed)
        self.space = toy_space(genes, choices, allowed)
        self.latency = AdditiveCost(np.cumsum(rng.gamma(2, 1, (genes, choices)), axis=1).tolist(), base=3.0)
        self.flops = AdditiveCost(np.cumsum(rng.gamma(1, 1, (genes, choices)), axis=1).tolist())
        self.costs = {"latency": self.latency, "flops": self.flops}
        self.gain = np.cumsum(rng.gamma(1, 1, (genes, choices)), axis=1)
        self.pair = rng.normal(0, 0.7, (genes, choices, choices))

    def accuracy(self, arch):
        single = sum(self.gain[i, j] for i, j in enumerate(arch))
        pairs = sum(self.pair[i, arch[i - 1], arch[i]] for i in range(1, len(arch)))
        return float(100 * (1 - math.exp(-(single + pairs) / 20)))

    def window(self, low, high):
        """The latencies at two fractions of the attainable range."""
        start, stop = self.latency.bounds(self.space)
        return {"latency": (start + low * (stop - start), start + high * (stop - start))}

    def search(self, bounds, objectives=("latency",), **config):
        return CES(self.space, self.costs, bounds, objectives, CESConfig(**config))

    def run(self, search, batches=math.inf):
        while not search.done and batches > 0:
            archs = search.ask()
            search.tell(archs, [self.accuracy(arch) for arch in archs])
            batches -= 1
        return search


@pytest.mark.parametrize("genes", [6, 7])  # 4^6 is small enough to be listed, 4^7 is not
@pytest.mark.parametrize("seed", range(4))
def test_reaches_the_true_front_and_beats_random_search(genes, seed):
    problem = Problem(genes, 4, seed)
    bounds = problem.window(0.2, 0.7)
    inside = problem.search(bounds).window
    members = [arch for arch in problem.space.enumerate() if arch in inside]
    F = np.array([[-problem.accuracy(arch), problem.latency(arch)] for arch in members])
    reference = F.max(axis=0)
    records = problem.run(problem.search(bounds, population=32, iterations=20, seed=seed)).records()
    assert len(records) == 640 < len(members) / 2

    everything = nsga2.hypervolume(F, reference)
    drawn = np.random.default_rng(seed).permutation(len(F))[:640]
    loss_random = 1 - nsga2.hypervolume(F[drawn], reference) / everything
    found = np.array([[-r.accuracy, r.costs["latency"]] for r in records])
    loss = 1 - nsga2.hypervolume(found, reference) / everything
    assert loss < 0.015
    assert loss < loss_random / 2


@given(
    allowed=st.lists(st.sets(st.integers(0, 4), min_size=1).map(lambda s: tuple(sorted(s))), min_size=1, max_size=8),
    seed=st.integers(0, 2**16),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    objectives=st.sampled_from([("latency",), ("flops",), ("latency", "flops")]),
    crossover=st.sampled_from([0.0, 0.5, 1.0]),
    mutation=st.sampled_from([None, 0.0, 0.5]),
)
@settings(max_examples=40, deadline=None)
def test_invariants(allowed, seed, ends, objectives, crossover, mutation):
    problem = Problem(len(allowed), 5, seed, tuple(allowed))
    bounds = problem.window(*ends)
    config = {
        "population": 6,
        "iterations": 5,
        "crossover": crossover,
        "mutation": mutation,
        "max_draws": 200,
    }
    try:
        search = problem.search(bounds, objectives, seed=seed, **config)
    except UserError as error:
        assert "the nearest has" in str(error) or "cannot be met" in str(error)  # noqa: PT017 -- may be empty
        return
    asked = []
    while not search.done:
        archs = search.ask()
        assert archs == search.ask()
        assert 0 < len(archs) <= 6
        asked += archs
        search.tell(archs, [problem.accuracy(arch) for arch in archs])
    assert len(asked) == len(set(asked)) <= 30
    assert all(arch in problem.space for arch in asked)
    assert all(bounds["latency"][0] <= problem.latency(arch) <= bounds["latency"][1] for arch in asked)

    records = search.records()
    assert [record.arch for record in records] == asked  # nothing inside the window is thrown away
    for record in records:
        assert record.accuracy == problem.accuracy(record.arch)
        assert record.costs == {name: cost(record.arch) for name, cost in problem.costs.items()}
    F = [(-r.accuracy, *(r.costs[name] for name in objectives)) for r in records]
    for f, record in zip(F, records, strict=True):
        beaten = any(g != f and all(x <= y for x, y in zip(g, f, strict=True)) for g in F)
        assert (record.rank == 1) == (not beaten)
    assert sorted(search.front(), key=lambda r: r.arch) == sorted(
        (record for record in records if record.rank == 1), key=lambda r: r.arch
    )
    assert len(search.front(max_rank=9)) == sum(record.rank <= 9 for record in records)


def test_history_counts_and_never_gets_worse():
    problem = Problem(8, 4, 0)
    search = problem.run(problem.search(problem.window(0.3, 0.6), population=16, iterations=10))
    assert [entry["generation"] for entry in search.history] == list(range(10))
    assert [entry["evaluated"] for entry in search.history] == [16 * i for i in range(1, 11)]
    for key in ("best_accuracy", "hypervolume"):
        values = [entry[key] for entry in search.history]
        assert values == sorted(values)
        assert values[0] < values[-1]
    assert search.history[0]["random"] == 16
    assert search.notes == []
    assert search.front() == sorted(search.front(), key=lambda record: record.costs["latency"])
    both = problem.run(problem.search({}, ("latency", "flops"), population=8, iterations=2))
    F = np.array([(-r.accuracy, r.costs["latency"], r.costs["flops"]) for r in both.records()])
    expected = HV(ref_point=F[:8].max(axis=0)).do(F)
    assert both.history[-1]["hypervolume"] == pytest.approx(expected, rel=1e-9)


def test_the_seed_decides_everything():
    problem = Problem(8, 4, 0)
    bounds = problem.window(0.3, 0.6)
    runs = [problem.run(problem.search(bounds, population=8, iterations=6, seed=s)) for s in (1, 1, 2)]
    assert runs[0].state_dict() == runs[1].state_dict()
    assert runs[0].records() != runs[2].records()


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("ends", [(0.3, 0.6), (0.0, 0.05)])  # the second runs out and walks
def test_a_killed_search_goes_on_as_if_nothing_had_happened(stop, ends):
    problem = Problem(7, 4, 1)
    arguments = {"population": 12, "iterations": 6, "seed": 5, "max_draws": 300}
    whole = problem.run(problem.search(problem.window(*ends), **arguments))
    killed = problem.run(problem.search(problem.window(*ends), **arguments), batches=stop)
    asked = killed.ask()  # scored by nobody: the kill came before tell()
    text = json.dumps(killed.state_dict(), allow_nan=False)

    resumed = problem.search(problem.window(*ends), **arguments)
    resumed.load_state_dict(json.loads(text))
    assert resumed.ask() == asked
    assert resumed.state_dict() == killed.state_dict()
    problem.run(resumed)
    assert resumed.records() == whole.records()
    assert resumed.history == whole.history
    assert resumed.notes == whole.notes
    assert resumed.state_dict() == whole.state_dict()


def test_the_order_of_telling_does_not_matter():
    problem = Problem(6, 4, 0)
    straight = problem.run(problem.search({}, population=8, iterations=3))
    reverse = problem.search({}, population=8, iterations=3)
    while not reverse.done:
        archs = [list(arch) for arch in reverse.ask()[::-1]]
        reverse.tell(archs, [problem.accuracy(arch) for arch in archs])
    assert reverse.records() == straight.records()


def test_a_state_of_another_search_is_refused_by_name():
    problem = Problem(6, 4, 0)
    bounds = problem.window(0.2, 0.7)
    state = problem.run(problem.search(bounds, population=8, iterations=4), batches=2).state_dict()
    pruned = Problem(6, 4, 0, ((0, 1, 2),) + ((0, 1, 2, 3),) * 5)
    slower = Problem(6, 4, 0)
    slower.costs["latency"] = lambda arch: problem.latency(arch) * 1.0001
    other = Problem(7, 4, 0)
    start, stop = bounds["latency"]
    for search, message in (
        (problem.search(bounds, population=9, iterations=4), "population = 8, this search has 9"),
        (problem.search(bounds, population=8, iterations=4, seed=1), "seed = 0, this search has 1"),
        (problem.search({"latency": (start, stop + 1)}, population=8, iterations=4), "made with bounds = "),
        (problem.search({"latency": (start, math.inf)}, population=8, iterations=4), "made with bounds = "),
        (problem.search(bounds, ("flops",), population=8, iterations=4), r"objectives = \['latency'\]"),
        (pruned.search(bounds, population=8, iterations=4), "made with allowed = "),
        (other.search({}, population=8, iterations=4), "was made for the space"),
        (slower.search(bounds, population=8, iterations=4), "the search state has latency"),
    ):
        before = search.state_dict()
        with pytest.raises(UserError, match=message):
            search.load_state_dict(state)
        assert search.state_dict() == before


def test_a_damaged_state_is_refused_and_changes_nothing():
    problem = Problem(6, 4, 0)
    search = problem.search({}, population=8, iterations=4)
    before = search.state_dict()
    state = problem.run(problem.search({}, population=8, iterations=4), batches=2).state_dict()
    for key in state:
        for damaged in ({k: v for k, v in state.items() if k != key}, {**state, key: None}):
            with pytest.raises(UserError, match="the search state"):
                search.load_state_dict(damaged)
            assert search.state_dict() == before
    for damaged in (None, [], {}, {**state, "population": [[0] * 6]}):
        with pytest.raises(UserError, match="search state"):
            search.load_state_dict(damaged)
    search.load_state_dict(state)
    assert search.state_dict() == state


def test_a_small_space_is_scored_completely_and_then_the_search_ends():
    problem = Problem(4, 3, 0)
    search = problem.run(problem.search({}, population=16, iterations=40, max_draws=50))
    assert sorted(record.arch for record in search.records()) == problem.space.enumerate()
    assert len(search.history) < 40
    assert search.done
    assert search.ask() == []
    assert "the search ends" in search.notes[-1]


def test_random_members_stand_in_where_breeding_finds_nothing():
    problem = Problem(8, 4, 0)
    search = problem.search(
        problem.window(0.3, 0.6), population=8, iterations=3, crossover=0, mutation=0, max_draws=100
    )
    assert [entry["random"] for entry in problem.run(search).history] == [8, 8, 8]
    assert search.notes == []


def test_a_population_shrinks_to_what_there_is():
    problem = Problem(3, 2, 0)
    search = problem.search({}, population=64)
    assert sorted(search.ask()) == problem.space.enumerate()
    assert search.notes == ["generation 0: found 8 architectures within the bounds, not 64"]
    problem.run(search)
    assert len(search.records()) == 8


@pytest.mark.parametrize("members", [1, 25])
def test_finds_all_of_a_window_that_is_nearly_empty(members):
    problem = Problem(9, 4, 2)  # 4^9 is sampled: the chance to draw a member is 1e-4 at most
    latencies = np.sort([problem.latency(arch) for arch in problem.space.enumerate()])
    bounds = {"latency": (0, (latencies[members - 1] + latencies[members]) / 2)}
    search = problem.run(problem.search(bounds, population=16, iterations=20))
    assert sorted(r.costs["latency"] for r in search.records()) == latencies[:members].tolist()


@pytest.mark.parametrize("genes", [6, 9])  # listed, sampled
def test_a_window_that_is_nearly_empty_names_the_nearest_latencies(genes):
    problem = Problem(genes, 4, 2)
    latencies = np.sort([problem.latency(arch) for arch in problem.space.enumerate()])
    middles = (latencies[1:] + latencies[:-1]) / 2
    bounds = {"latency": (middles[9], middles[14])}  # five members
    search = problem.search(bounds, population=16, iterations=3)
    first = search.notes[0]
    assert first.startswith("generation 0: found 5 architectures within the bounds, not 16; the nearest beyond have ")
    below, above = map(float, first.rpartition("latency ")[2].split(" and "))
    if genes == 6:
        assert (below, above) == pytest.approx((latencies[9], latencies[15]), rel=1e-8)
    else:  # what differs in one gene: attainable, and outside
        assert below <= latencies[9] * (1 + 1e-8)
        assert above >= latencies[15] * (1 - 1e-8)
        for value in (below, above):
            assert np.abs(latencies / value - 1).min() < 1e-8
    problem.run(search)
    assert "the search ends; the nearest beyond have latency " in search.notes[-1]


def test_what_lies_beyond_two_bounds_is_not_the_nearest_beyond_one():
    problem = Problem(4, 3, 0)
    start, stop = problem.latency.bounds(problem.space)
    least, most = problem.flops.bounds(problem.space)
    bounds = {"latency": (0, start + 0.4 * (stop - start)), "flops": (0, least + 0.4 * (most - least))}
    values = {name: [problem.costs[name](arch) for arch in problem.space.enumerate()] for name in bounds}
    fits = {name: np.array(values[name]) <= bounds[name][1] for name in bounds}
    latency = np.array(values["latency"])[~fits["latency"] & fits["flops"]].min()
    flops = np.array(values["flops"])[~fits["flops"] & fits["latency"]].min()
    note = problem.search(bounds, population=64).notes[0]
    assert note.endswith(f"the nearest beyond have latency {latency:.9g}, flops {flops:.9g}")


def test_bounds_on_a_cost_that_is_not_an_objective():
    problem = Problem(8, 4, 3)
    low, high = problem.flops.bounds(problem.space)
    bounds = problem.window(0.3, 0.6) | {"flops": (low, low + 0.5 * (high - low))}
    search = problem.run(problem.search(bounds, population=16, iterations=5))
    assert len(search.records()) == 80
    for record in search.records():
        assert all(start <= record.costs[name] <= stop for name, (start, stop) in bounds.items())


def test_offspring_respect_a_pruned_space():
    allowed = ((0,), (1, 3), (0, 2), (2,), (0, 1, 2, 3), (3,), (0, 3), (1, 2))
    problem = Problem(8, 4, 4, allowed)
    assert problem.space == toy_space(8, 4).restrict(allowed)
    search = problem.run(problem.search({}, population=8, iterations=5, mutation=0.5))
    assert len(search.records()) == 40
    assert all(record.arch in problem.space for record in search.records())


def test_empty_windows_and_wrong_names():
    problem = Problem(6, 4, 0)
    fastest, _ = problem.latency.bounds(problem.space)
    with pytest.raises(UserError, match=rf"latency <= 1 cannot be met: space toy attains {fastest:.9g} to"):
        problem.search({"latency": (0, 1)})
    values = np.sort([problem.latency(arch) for arch in problem.space.enumerate()])
    gap = int(np.argmax(np.diff(values)))
    hole = values[gap] + np.array([0.25, 0.75]) * (values[gap + 1] - values[gap])
    with pytest.raises(UserError, match=f"has latency ({values[gap]:.9g}|{values[gap + 1]:.9g}): widen"):
        problem.search({"latency": tuple(hole)})
    for objectives in ((), ("memory",), ("latency", "latency")):
        with pytest.raises(UserError, match="the costs latency, flops"):
            problem.search({}, objectives)
    for name, value in (("population", 1), ("iterations", 0), ("eta", -1), ("mutation", 2), ("max_draws", 0)):
        with pytest.raises(UserError, match=f"CES: {name} is {value}"):
            CESConfig(**{name: value})


def test_tell_takes_what_was_asked_and_finite_numbers_only():
    problem = Problem(6, 4, 0)
    search = problem.search({}, population=4, iterations=1)
    archs = search.ask()
    before = search.state_dict()
    for wrong in (archs[:3], [*archs[:3], archs[0]], [*archs, archs[0]]):
        with pytest.raises(ValueError, match="tell"):
            search.tell(wrong, [0.5] * len(wrong))
    with pytest.raises(UserError, match=r"is nan; expected a number"):
        search.tell(archs, [0.5, 0.5, math.nan, 0.5])
    assert search.state_dict() == before
    search.tell(archs, [0.5] * 4)
    assert search.done
    with pytest.raises(ValueError, match="tell"):
        search.tell([], [])


def test_examples_hold():
    assert doctest.testmod(ces_module).failed == 0
