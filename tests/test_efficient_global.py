"""The search against three recorded ones of the authors, its bounds, its state."""

import dataclasses
import doctest
import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from search import efficient_global
from search.efficient_global import CONV, SEP, Candidate, Config, EfficientGlobal, relative_improvement, sample
from supernet import families
from supernet.errors import UserError
from supernet.families import sep_conv

DATA = Path(__file__).parent / "data"
TRACES = {"cifar10_tiny": (64, 3), "cifar10_mobile": (128, 3), "kmnist_tiny": (64, 1)}  # W_max, image channels


def params(channels: int):
    @functools.cache
    def count(c: Candidate) -> int:
        space = sep_conv.space(c.depth, c.width, channels, 32, 10)
        return families.params(space, sep_conv.arch(c.ops, c.kernels))

    return count


def trace(name: str) -> dict:
    return json.loads((DATA / f"global_nas_{name}.json").read_text())


@pytest.mark.parametrize("name", TRACES)
def test_it_repeats_the_recorded_search(name):
    """Fed the authors' accuracies, it proposes their candidates and ends with their architecture."""
    wmax, channels = TRACES[name]
    recorded, count = trace(name), params(channels)
    search = EfficientGlobal(Config(width=(16, wmax)), count)
    for number, row in enumerate(recorded["candidates"]):
        candidate = search.ask()
        assert candidate is not None, number
        proposed = json.loads(json.dumps(dataclasses.asdict(candidate)))
        assert proposed == {key: row[key] for key in proposed}, number
        assert count(candidate) == round(row["params_millions"] * 1e6), number
        search.tell(candidate, row["train_acc"], row["valid_acc"])
    assert search.ask() is None
    final = recorded["final"]
    found = search.found
    assert (found.depth, found.width, list(found.ops), list(found.kernels)) == (
        final["depth"],
        final["width"],
        final["ops"],
        final["kernels"],
    )
    assert count(found) == round(final["params_millions"] * 1e6)
    assert list(search.accepted) == ["depth", "width", "operations", "kernels"]
    assert search.accepted["kernels"].candidate == found
    assert search.accepted["width"].candidate == search.macro


def test_it_continues_from_its_state_at_any_candidate():
    rows, count = trace("kmnist_tiny")["candidates"], params(1)
    search = EfficientGlobal(Config(), count)
    for number, row in enumerate(rows):
        if number % 5 == 0:  # each phase several times
            state = json.loads(json.dumps(search.state_dict()))
            again = EfficientGlobal(Config(), count)
            again.load_state_dict(state)
            assert again.ask() == search.ask()
            assert again.records == search.records
            search = again
        search.tell(search.ask(), row["train_acc"], row["valid_acc"])
    assert search.found.width == 44


def drive(search: EfficientGlobal, accuracy) -> list[Candidate]:
    """Run to the end with ``accuracy(candidate)``; what was trained."""
    trained = []
    while (candidate := search.ask()) is not None:
        trained.append(candidate)
        search.tell(candidate, 50.0, accuracy(candidate))
    return trained


def flops(c: Candidate) -> int:
    return families.flops(sep_conv.space(c.depth, c.width, 1, 28, 10), sep_conv.arch(c.ops, c.kernels))


def test_nothing_beyond_a_bound_is_trained():
    cfg = Config(depth=(5, 12), width=(4, 16), epochs=1)
    bound = 1.01 * flops(Candidate("depth", 5, 12, (SEP,) * 5, (3,) * 5, 1))
    costs = {"flops": flops}

    def accuracy(c: Candidate) -> float:  # everything larger is better
        return 50 + c.depth + c.width / 10 + sum(c.ops) / 10 + sum(k == 5 for k in c.kernels) / 10

    free = drive(EfficientGlobal(cfg, params(1)), accuracy)
    assert max(map(flops, free)) > bound
    search = EfficientGlobal(cfg, params(1), costs, {"flops": bound})
    trained = drive(search, accuracy)
    assert max(map(flops, trained)) <= bound
    assert (trained[0].depth, trained[0].width) == (5, 12)  # the widest that fits
    assert min(map(flops, search.skipped)) > bound
    depths = [c.depth for c in trained if c.phase == "depth"]
    assert depths == list(range(5, 13))  # deeper at the price of width
    for deeper in (c for c in trained if c.phase == "depth"):
        assert flops(dataclasses.replace(deeper, width=deeper.width + 2)) > bound
    infinite = EfficientGlobal(cfg, params(1), costs, {"flops": float("inf")})
    assert drive(infinite, accuracy) == free


def test_bounds_that_exclude_everything_are_refused():
    cfg = Config(depth=(5, 12), width=(4, 17), epochs=1)
    smallest = flops(Candidate("depth", 5, 5, (SEP,) * 5, (3,) * 5, 1))
    EfficientGlobal(cfg, params(1), {"flops": flops}, {"flops": smallest})
    told = rf"exclude every candidate.*L 5 C 5, breaks flops ≤ {smallest - 1:,} \(it has {smallest:,}\)"
    with pytest.raises(UserError, match=told):
        EfficientGlobal(cfg, params(1), {"flops": flops}, {"flops": smallest - 1})


def test_growth_stops_at_the_ceilings_and_at_the_largest_depth():
    cfg = Config(depth=(5, 9), width=(4, 4), epochs=1, micro=False)
    assert [c.depth for c in drive(EfficientGlobal(cfg, params(1)), lambda c: 50 + c.depth)] == [5, 6, 7, 8, 9]
    assert [c.depth for c in drive(EfficientGlobal(cfg, params(1)), lambda c: 99.9)] == [5]
    search = EfficientGlobal(cfg, params(1))
    search.tell(search.ask(), 100.0, 50.0)
    assert search.ask() is None


def test_macro_search_in_larger_steps():
    cfg = Config(depth=(12, 16), width=(8, 8), depth_step=2, micro=False)
    trained = drive(EfficientGlobal(cfg, params(1)), lambda c: 50 + c.depth)
    assert [(c.depth, c.epochs) for c in trained] == [(12, 10), (14, 11), (16, 12)]


def test_wrong_input_is_refused():
    search = EfficientGlobal(Config(), params(1))
    with pytest.raises(ValueError, match="expected the accuracies of"):
        search.tell(dataclasses.replace(search.ask(), width=2), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"expected accuracies in \[0, 100\]"):
        search.tell(search.ask(), 1.0, float("nan"))
    with pytest.raises(UserError, match="expected 3 ≤ lowest ≤ highest"):
        Config(depth=(9, 8))
    with pytest.raises(UserError, match="width_step 0: expected at least 1"):
        Config(width_step=0)
    with pytest.raises(UserError, match="start with operation 0, kernel 5: expected 0 or 1, 3 or 7"):
        Config(start_kernel=5)
    with pytest.raises(UserError, match="schema"):
        search.load_state_dict({"schema": 7})
    state = search.state_dict()
    with pytest.raises(UserError, match="has config"):
        EfficientGlobal(Config(epochs=9), params(1)).load_state_dict(json.loads(json.dumps(state)))
    search.tell(search.ask(), 50.0, 50.0)
    state = json.loads(json.dumps(search.state_dict()))
    state["records"][0]["candidate"]["width"] = 62
    with pytest.raises(UserError, match="candidate 0 of the search state is not the one"):
        EfficientGlobal(Config(), params(1)).load_state_dict(state)
    state["records"][0] = {"candidate": 3}
    with pytest.raises(UserError, match="damaged"):
        EfficientGlobal(Config(), params(1)).load_state_dict(state)


def test_random_networks_cover_the_space_and_relative_improvement():
    rng = np.random.default_rng(0)
    drawn = [sample(rng, Config(depth=(5, 7), width=(4, 8)), epochs=3) for _ in range(200)]
    assert {c.depth for c in drawn} == {5, 6, 7}
    assert {c.width for c in drawn} == {4, 6, 8}
    assert all(len(c.ops) == len(c.kernels) == c.depth for c in drawn)
    assert {op for c in drawn for op in c.ops} == {SEP, CONV}
    assert {k for c in drawn for k in c.kernels} == {3, 5}
    assert relative_improvement(95.91, [93.0, 93.1]) == pytest.approx(100 * (95.91 / 93.05 - 1))


@pytest.mark.parametrize(("op", "kernel"), [(SEP, 7), (CONV, 3), (CONV, 7)])
def test_it_starts_with_other_layers(op, kernel):
    """Table 2: all layers of the macro search are of the start; the micro search tries the other operation, then 5."""
    config = Config(depth=(3, 4), width=(4, 6), epochs=1, start_op=op, start_kernel=kernel)
    search = EfficientGlobal(config, params=lambda c: 0)
    asked = []
    while (candidate := search.ask()) is not None:
        asked.append(candidate)
        search.tell(candidate, 50.0, 50.0 + len(asked))  # every change is an improvement
    macro = [c for c in asked if c.phase in ("depth", "width")]
    assert all(set(c.ops) == {op} and set(c.kernels) == {kernel} for c in macro)
    assert set(search.found.ops) == {1 - op}
    assert set(search.found.kernels) == {5}
    assert search.found.describe() == f"L 4 C 4 {'Conv at 0,1,2,3 ' if op == SEP else ''}5×5 at 0,1,2,3"
    assert f"{kernel}×{kernel} at 0,1,2" in asked[0].describe() or kernel == 3


def test_operations_can_be_left_out():
    search = EfficientGlobal(Config(depth=(3, 3), width=(4, 4), operations=False), params=lambda c: 0)
    phases = []
    while (candidate := search.ask()) is not None:
        phases.append(candidate.phase)
        search.tell(candidate, 50.0, 50.0 + len(phases))
    assert phases == ["depth", "operation", "kernel", "kernel", "kernel"]  # the second one is the baseline
    assert set(search.found.ops) == {SEP}
    assert list(search.accepted) == ["depth", "width", "kernels"]


def test_a_search_of_version_0_1_goes_on():
    """It did not say what it starts with."""
    search = EfficientGlobal(Config(), params(1))
    search.tell(search.ask(), 50.0, 50.0)
    state = search.state_dict()
    for name in efficient_global.NEWER:
        del state["config"][name]
    again = EfficientGlobal(Config(), params(1))
    again.load_state_dict(state)
    assert again.ask() == search.ask()
    with pytest.raises(UserError, match="the search state has config"):
        EfficientGlobal(Config(start_kernel=7), params(1)).load_state_dict(state)


def test_the_size_of_the_space():
    """By listing all networks of a small one; and eq. 1 with the paper's figures."""
    config = Config(depth=(3, 5), width=(4, 8))
    layers = list(itertools.product((SEP, CONV), (3, 5)))
    listed = {(w, net) for w in (4, 6, 8) for d in (3, 4, 5) for net in itertools.product(layers, repeat=d)}
    assert config.networks() == len(listed)
    assert float(f"{Config(depth=(5, 100), width=(16, 128)).networks(25):.2e}") == 6.16e18


def test_the_example_in_the_docstring():
    result = doctest.testmod(efficient_global)
    assert result.attempted > 0
    assert result.failed == 0
