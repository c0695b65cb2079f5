"""Algorithm 1 of Stage-Wise NAS: its controller, without any training."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
from scipy import stats

from search import sequential, stage_wise
from search.stage_wise import Config, Proposal, StageWise
from supernet.errors import UserError


def drive(search: StageWise, alpha) -> list[Proposal]:
    """Run to the end; ``alpha(proposal)`` gives the importance."""
    asked = []
    while (proposal := search.ask()) is not None:
        assert search.ask() is proposal
        asked.append(proposal)
        search.tell(proposal, alpha(proposal))
    return asked


@pytest.mark.parametrize("wishes", [[{1}, {0, 1}, {0, 1}, {2}, {1}], [set()] * 5, [{0, 1, 2}] * 5])
@pytest.mark.parametrize("deepest", [None, 9])
def test_what_is_trained_ahead_is_asked_for_next(wishes, deepest):
    search, alpha = StageWise(Config(deepest=deepest)), wants(wishes)
    ahead, asked = [], []
    while (proposal := search.ask()) is not None:
        ahead.append(search.ahead())
        asked.append(proposal)
        search.tell(proposal, alpha(proposal))
    assert search.ahead() == ()
    for i, proposals in enumerate(ahead):
        assert proposals == tuple(asked[i : i + len(proposals)])
        after = asked[i + 1].role if i + 1 < len(asked) else None
        assert len(proposals) == (2 if after == "T" else 1)


def wants(wishes):
    """Importance that makes the stages grow that ``wishes[k - 1]`` names, in iteration k."""

    def alpha(proposal):
        if proposal.role != "T":
            return (1.0, 1.0, 1.0)
        return tuple(1.1 if i in wishes[proposal.iteration - 1] else 0.9 for i in range(3))

    return alpha


def test_the_published_search():
    """The five candidates of the paper from the stages that grew; 2n + 1 = 11 trainings."""
    search = StageWise(Config())
    asked = drive(search, wants([{1}, {0, 1}, {0, 1}, {2}, {1}]))
    assert len(asked) == 11
    assert [p.role for p in asked] == ["A"] + ["T", "Â"] * 5
    assert [r.network.modules for r in search.candidates] == [
        (6, 8, 6),
        (8, 10, 6),
        (10, 12, 6),
        (10, 12, 8),
        (10, 14, 8),
    ]
    assert [p.modules for p in asked if p.role == "T"][:3] == [(8, 8, 8), (8, 10, 8), (10, 12, 8)]


def test_alpha_of_a_candidate_is_what_the_next_iteration_compares_with():
    """Line 11, A ← Â: stage 2's importance falls in Â, so T need only beat that."""
    search = StageWise(Config(initial=2, step=1, iterations=2))
    alpha = {"0A": (1, 1, 1), "1T": (2, 1, 1), "1Â": (2, 0.5, 1), "2T": (2, 0.6, 0.9)}
    drive(search, lambda p: alpha.get(f"{p.iteration}{p.role}", (0, 0, 0)))
    assert [r.network.modules for r in search.candidates] == [(3, 2, 2), (3, 3, 2)]


def test_equal_importance_is_no_growth_and_a_margin_asks_for_more():
    gains = {"A": (1.0, 1.0, 1.0), "T": (1.0, 1.01, 1.1), "Â": (1.0, 1.0, 1.0)}
    for margin, expected in ((0.0, (2, 3, 3)), (0.05, (2, 2, 3))):
        search = StageWise(Config(initial=2, step=1, iterations=1, margin=margin))
        drive(search, lambda p: gains[p.role])
        assert search.candidates[0].network.modules == expected


def test_it_ends_where_nothing_grows():
    search = StageWise(Config(iterations=5))
    asked = drive(search, lambda p: (1.0, 1.0, 1.0))
    assert search.converged
    assert [p.role for p in asked] == ["A", "T"]
    assert not search.candidates


def test_no_stage_is_deeper_than_allowed():
    search = StageWise(Config(initial=2, step=2, iterations=4, deepest=5))
    asked = drive(search, wants([{0, 1}] * 4))
    assert max(max(p.modules) for p in asked) == 4
    assert [p.modules for p in asked] == [(2, 2, 2), (4, 4, 4), (4, 4, 2), (4, 4, 4)]
    assert search.converged
    assert search.config.reach == (5, 5, 5)


def test_each_stage_has_a_bound_of_its_own():
    """A ResNet-152 has 3-8-36-3 modules."""
    config = Config(stages=4, initial=4, step=2, iterations=3, deepest=(3, 8, 36, 3))
    assert (config.first, config.reach) == ((3, 4, 4, 3), (3, 8, 10, 3))
    asked = drive(StageWise(config), lambda p: (float(p.role == "T"),) * 4)
    assert [p.modules for p in asked if p.role != "T"] == [(3, 4, 4, 3), (3, 6, 6, 3), (3, 8, 8, 3), (3, 8, 10, 3)]
    assert [p.modules for p in asked if p.role == "T"] == [p.modules for p in asked if p.role == "Â"]


def test_pairs_of_seeds_decide_where_one_cannot():
    """Stage 1 gains by every pair, stage 2 by the first alone, and stage 3 loses."""
    gain = {0: (0.1, 0.3, -0.1), 1: (0.11, -0.2, -0.11), 2: (0.1, 0.1, -0.1)}

    def alpha(proposal):
        return gain[proposal.seed] if proposal.role == "T" else (0.0, 0.0, 0.0)

    search = StageWise(Config(initial=2, step=1, iterations=1, pairs=3))
    asked = drive(search, alpha)
    assert [(p.role, p.seed) for p in asked] == [(role, seed) for seed in range(3) for role in "AT"] + [("Â", 0)]
    assert asked[-1].modules == (3, 2, 2)
    assert asked[2].name == "0-initial-2-2-2-seed-1"
    once = StageWise(Config(initial=2, step=1, iterations=1))
    assert drive(once, alpha)[-1].modules == (3, 3, 2)


def test_pairs_end_once_every_stage_is_told_apart():
    gain = {0: (0.1, -0.3, -0.1), 1: (0.11, -0.3, -0.11)}
    search = StageWise(Config(initial=2, step=1, iterations=1, pairs=6))
    asked = drive(search, lambda p: gain[p.seed] if p.role == "T" else (0.0, 0.0, 0.0))
    assert [(p.role, p.seed) for p in asked] == [("A", 0), ("T", 0), ("A", 1), ("T", 1), ("Â", 0)]
    assert search.candidates[0].network.modules == (3, 2, 2)


def test_the_sequential_test_is_student_s_and_keeps_its_level():
    """Against scipy's t-test at each look; noise alone grows no more stages than the level allows."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5):
        gains = rng.normal(0.3, 1, n)
        p = stats.ttest_1samp(gains, 0.1, alternative="greater").pvalue
        expected = True if p <= 0.4 / 4 else False if 1 - p <= 0.4 / 4 else None
        assert sequential.exceeds(gains, 0.1, 0.4, 5) == expected
    wrong, runs = 0, 2000
    for gains in rng.normal(0, 1, (runs, 5)):
        wrong += any(sequential.exceeds(gains[:n], 0, 0.2, 5) is True for n in range(2, 6))
    assert 0.02 < wrong / runs < 0.2
    assert doctest.testmod(sequential).failed == 0 < doctest.testmod(sequential).attempted


def test_a_run_of_an_earlier_version_continues():
    search = StageWise(Config())
    search.tell(search.ask(), (1, 1, 1))
    state = json.loads(json.dumps(search.state()))
    for name in ("pairs", "level"):
        del state["config"][name]
    del state["records"][0]["network"]["seed"]
    again = StageWise(Config())
    again.replay(state, "search.json")
    assert again.ask() == search.ask()


def test_bounds_let_the_stages_grow_that_gain_most():
    costs = {"modules": sum}
    search = StageWise(Config(initial=2, step=1, iterations=1), costs, {"modules": 8})
    drive(search, lambda p: (1.1, 1.3, 1.2) if p.role == "T" else (1.0, 1.0, 1.0))
    assert search.candidates[0].network.modules == (2, 3, 3)


def test_a_state_in_json_continues_the_search():
    alpha = wants([{1}, {0, 1}, {2}, {2}, {1}])
    whole = StageWise(Config())
    asked = drive(whole, alpha)
    for stop in range(len(asked) + 1):
        first = StageWise(Config())
        for proposal in asked[:stop]:
            first.tell(first.ask(), alpha(proposal))
        second = StageWise(Config())
        second.replay(json.loads(json.dumps(first.state())), "search.json")
        assert drive(second, alpha) == asked[stop:]
        assert second.records == whole.records


def test_foreign_states_are_refused():
    search = StageWise(Config())
    search.tell(search.ask(), (1, 1, 1))
    state = search.state()
    fake = {"network": {"role": "Â", "iteration": 1, "modules": [9, 9, 9]}, "importance": [1, 1, 1]}
    for spoiled in ({}, {**state, "schema": 2}, {**state, "records": [{}]}, {**state, "records": [fake]}):
        with pytest.raises(UserError, match=r"search.json is of another search"):
            StageWise(Config()).replay(spoiled, "search.json")
    with pytest.raises(UserError, match="other settings"):
        StageWise(Config(step=1)).replay(state, "search.json")


def test_wrong_answers_are_errors():
    search = StageWise(Config())
    with pytest.raises(ValueError, match="expected the importance of"):
        search.tell(Proposal("T", 1, (8, 8, 8)), (1, 1, 1))
    with pytest.raises(ValueError, match="3 finite scores"):
        search.tell(search.ask(), (1, 1))
    with pytest.raises(ValueError, match="3 finite scores"):
        search.tell(search.ask(), (1, 1, float("nan")))


def test_bounds_that_exclude_every_candidate():
    with pytest.raises(UserError, match="at most 7 modules in a stage exclude every candidate"):
        StageWise(Config(deepest=7))
    with pytest.raises(UserError, match="a bound of 19 on modules excludes every candidate: the initial"):
        StageWise(Config(), {"modules": sum}, {"modules": 19})
    with pytest.raises(UserError, match="at most 3-8-3 modules in a stage exclude every candidate: 3-8-3 and a step"):
        StageWise(Config(initial=8, deepest=(3, 8, 3)))
    with pytest.raises(UserError, match="bounds on depth 3-8, but there are 3 stages"):
        Config(deepest=(3, 8))
    with pytest.raises(UserError, match="at most 0-8-8 modules; expected at least 1"):
        Config(deepest=(0, 8, 8))
    for change in ({"stages": 0}, {"initial": 0}, {"step": 0}, {"iterations": 0}, {"margin": -0.1}, {"pairs": 0}):
        with pytest.raises(UserError, match=f"Stage-Wise NAS: {next(iter(change))} is"):
            Config(**change)


def test_the_picture(tmp_path):
    search = StageWise(Config(initial=2, step=1, iterations=2))
    drive(search, wants([{1}, {0}]))
    stage_wise.plot(tmp_path / "depths.png", search.records, "depths")
    assert (tmp_path / "depths.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_in_the_documentation():
    assert doctest.testmod(stage_wise).attempted > 0
    assert doctest.testmod(stage_wise).failed == 0
