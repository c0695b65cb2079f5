"""The timing protocol against timers whose true latency is known, on a clock of our own."""

from __future__ import annotations

import ast
import dataclasses
import gc
import itertools
import os
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency import measure
from latency.measure import Clock, Protocol, Samples, pin_core, stopwatch, summarise, warm_up
from supernet import machine
from supernet.errors import UserError


class Machine:
    """A clock that only running something moves; ``slow(now_ms)`` times as long by then."""

    def __init__(self, slow=lambda now_ms: 1.0):
        self.wall_ns, self.slow = 0.0, slow
        self.log = []  # what ran, in order, as (key, times)

    def timer(self, key, ms, noise=lambda: 1.0):
        def timer(n):
            wall = n * ms * 1e6 * self.slow(self.wall_ns / 1e6) * noise()
            self.wall_ns += wall
            self.log.append((key, n))
            return wall, wall

        return timer


QUICK = Protocol(rounds=12, visit_ms=5, warmup_ms=10, chunks=5, settle_runs=0)


def test_quiet_machine_gives_the_truth():
    machine = Machine()
    truth = {"a": 0.02, "b": 1.0, "c": 7.0}
    samples = measure.measure({key: machine.timer(key, ms) for key, ms in truth.items()}, QUICK)
    for key, ms in truth.items():
        s = samples[key]
        assert s.median_ms == pytest.approx(ms)
        assert s.min == pytest.approx(ms)
        assert s.p10 == pytest.approx(ms)
        assert s.p90 == pytest.approx(ms)
        assert (s.n, s.source, s.noisy) == (12, "wall", False)
        assert s.aa == pytest.approx(0)
        assert s.cpu_wall == pytest.approx(1)


def test_each_round_visits_every_key_once_in_changing_order():
    machine = Machine()
    keys = list("abcdefgh")
    measure.measure({key: machine.timer(key, 1.0) for key in keys}, QUICK)
    visits = machine.log[-12 * len(keys) * QUICK.chunks :: QUICK.chunks]
    rounds = [[key for key, _ in visits[i : i + len(keys)]] for i in range(0, len(visits), len(keys))]
    assert len(rounds) == 12
    assert all(sorted(order) == keys for order in rounds)
    assert len({tuple(order) for order in rounds}) > 6


def test_a_visit_lasts_as_long_as_asked():
    machine = Machine()
    for ms in (0.001, 0.03, 0.9):
        n = warm_up(machine.timer("x", ms), QUICK)
        assert n * ms * QUICK.chunks == pytest.approx(QUICK.visit_ms, rel=0.6)
    assert warm_up(machine.timer("x", 40.0), QUICK) == 1


def test_what_others_leave_in_the_caches_does_not_count():
    """After others had the caches, the first runs of a network take longer: its visit begins with some for nothing."""
    machine, last, since = Machine(), [""], [0]

    def cold(key, ms, runs):
        def timer(n):
            since[0] = since[0] if last[0] == key else 0
            last[0] = key
            slow = min(max(runs - since[0], 0), n)  # of these runs, so many take half as long again
            since[0] += n
            wall = (n + 0.5 * slow) * ms * 1e6
            machine.wall_ns += wall
            return wall, wall

        return timer

    def found(protocol):
        timers = {f"{ms}": cold(f"{ms}", ms, runs) for ms, runs in ((0.01, 20), (2.0, 20), (20.0, 3))}
        return {key: sample.median_ms / float(key) for key, sample in measure.measure(timers, protocol).items()}

    settled = dataclasses.replace(QUICK, settle_runs=20, settle_ms=60)
    assert found(settled) == pytest.approx({"0.01": 1, "2.0": 1, "20.0": 1})
    assert found(QUICK)["2.0"] == pytest.approx(1.5)
    before = machine.wall_ns
    measure.measure({"slow": machine.timer("slow", 400.0)}, dataclasses.replace(settled, rounds=2, warmup_runs=0))
    assert (machine.wall_ns - before) / 1e6 == pytest.approx(400 + 2 * (1 + settled.chunks) * 400)  # one to warm up


def test_warm_up_takes_the_runs_and_the_time():
    machine = Machine()
    warm_up(machine.timer("slow", 20.0), QUICK)
    assert sum(n for _, n in machine.log) >= QUICK.warmup_runs
    machine = Machine()
    warm_up(machine.timer("fast", 0.01), QUICK)
    assert machine.wall_ns >= QUICK.warmup_ms * 1e6


def test_a_slow_first_call_does_not_shorten_the_visits():
    machine, calls = Machine(), iter([50.0])  # 50 times as slow, once
    timer = machine.timer("x", 0.1, noise=lambda: next(calls, 1.0))
    assert warm_up(timer, QUICK) == 10


def test_drift_leaves_the_ratios_alone():
    """The machine slows down on the way; a serial pass would blame that on the last keys."""
    machine = Machine(slow=lambda now_ms: 1 + now_ms / 3000)
    truth = {f"k{i}": 0.1 * (i + 1) for i in range(20)}
    samples = measure.measure({key: machine.timer(key, ms) for key, ms in truth.items()}, QUICK)
    assert machine.slow(machine.wall_ns / 1e6) > 1.5
    ratios = [samples[key].median_ms / ms for key, ms in truth.items()]
    assert max(ratios) / min(ratios) < 1.05


@pytest.mark.parametrize("rounds", [12, 24])
def test_drift_is_told_from_noise(rounds):
    """The machine has two speeds, as where another one shares its core."""
    rng = np.random.default_rng(4)
    level, slowness = rng.uniform(0.01, 5, 60), np.where(rng.random(rounds) < 0.5, 1.45, 1.0)
    visits = level[:, None] * slowness * rng.lognormal(0, 0.03, (60, rounds))
    found = np.array(measure.drift(visits.tolist()))
    assert found / found[0] == pytest.approx(slowness / slowness[0], rel=0.02)
    samples = summarise({str(i): [[ms, None] for ms in row] for i, row in enumerate(visits)}, Protocol())
    ratios = [samples[str(i)].median_ms / level[i] for i in range(60)]
    assert np.std(ratios) / np.mean(ratios) < 0.02
    assert max(s.p90 / s.p10 for s in samples.values()) < 1.2


def test_rounds_of_some_keys_count_by_those_keys():
    """Everything takes twice as long when a third of the keys is visited again."""
    level = [float(i) for i in range(1, 31)]
    times = [[ms] * 12 + ([2 * ms] * 12 if i % 3 == 0 else []) for i, ms in enumerate(level)]
    assert measure.drift(times) == pytest.approx([1.0] * 12 + [2.0] * 12)
    samples = summarise({str(ms): [[t, None] for t in row] for ms, row in zip(level, times, strict=True)}, Protocol())
    assert {key: s.median_ms for key, s in samples.items()} == pytest.approx({str(ms): ms for ms in level})


def test_a_few_keys_keep_their_noise():
    visits = {str(i): [[1.0 + (r % 2), None] for r in range(12)] for i in range(7)}
    assert all(s.aa > 0.5 and s.noisy for s in summarise(visits, Protocol()).values())


def test_passes_count_at_the_speed_of_the_first():
    level = {f"k{i}": 0.1 * (i + 1) for i in range(40)}
    first = {key: [[ms, None]] * 12 for key, ms in level.items() if int(key[1:]) < 20}
    again = {key: [[1.5 * ms, None]] * 12 for key, ms in level.items() if int(key[1:]) % 4 == 0 or key not in first}
    found = measure.chained([first, again], Protocol())
    assert found.keys() == level.keys()
    for key, ms in level.items():
        assert (found[key].median_ms, found[key].p10, found[key].min) == pytest.approx((ms, ms, ms))


def test_single_preemptions_do_not_count():
    rng = np.random.default_rng(0)
    machine = Machine()
    timer = machine.timer("x", 1.0, noise=lambda: 5.0 if rng.random() < 0.1 else 1.0)
    assert measure.measure({"x": timer}, QUICK)["x"].median_ms == pytest.approx(1.0)


def test_noisy_keys_are_measured_again_among_the_others_then_marked():
    rng = np.random.default_rng(1)
    machine = Machine()
    timers = {f"quiet{i}": machine.timer(f"quiet{i}", 1.0) for i in range(20)}
    timers["wild"] = machine.timer("wild", 1.0, noise=lambda: float(rng.lognormal(0, 1)))
    labels = []

    @contextmanager
    def progress(label, total, done):
        bar = Bar(total, done)
        labels.append((label, bar))
        yield bar

    samples = measure.measure(timers, QUICK, progress=progress)
    assert samples["wild"].noisy
    assert samples["wild"].n == 12 * (1 + QUICK.attempts)
    assert not any(s.noisy for key, s in samples.items() if key != "wild")
    assert all(s.n == samples["wild"].n for s in samples.values())
    again = ["measuring again, 1 noisy"] * QUICK.attempts
    assert [label for label, _ in labels] == ["warming up", "measuring", *again]
    assert all(bar.count == bar.total for _, bar in labels)


def test_noisy_keys_among_many_are_visited_again_in_company():
    rng = np.random.default_rng(5)
    machine = Machine()
    timers = {f"quiet{i}": machine.timer(f"quiet{i}", 1.0) for i in range(100)}
    timers["wild"] = machine.timer("wild", 1.0, noise=lambda: float(rng.lognormal(0, 1)))
    taken = {}
    samples = measure.measure(timers, QUICK, taken=taken)
    counts = {key: len(visits) for key, visits in taken.items()}
    assert counts["wild"] == samples["wild"].n == 12 * (1 + QUICK.attempts)
    assert min(counts.values()) == 12
    for passes in range(1, QUICK.attempts + 1):
        visited = [key for key, n in counts.items() if n > 12 * passes]
        assert measure.ENOUGH <= len(visited) <= measure.COMPANY + 1
    ran = len(machine.log)
    assert measure.measure(timers, QUICK, taken=taken) == samples
    assert len(machine.log) == ran


def test_a_killed_pass_goes_on_with_its_keys():
    rng = np.random.default_rng(6)
    machine, saves, taken = Machine(), [], {}
    timers = {f"quiet{i}": machine.timer(f"quiet{i}", 1.0) for i in range(100)}
    timers["wild"] = machine.timer("wild", 1.0, noise=lambda: float(rng.lognormal(0, 1)))

    def save():
        saves.append(1)
        if len(saves) == 15:
            raise Killed

    with pytest.raises(Killed):
        measure.measure(timers, QUICK, taken=taken, save=save)
    begun = {key for key, visits in taken.items() if len(visits) == 15}
    assert {key for key, visits in taken.items() if len(visits) > 12} == begun
    measure.measure(timers, QUICK, taken=taken)
    assert {key for key, visits in taken.items() if len(visits) > 12} == begun


def test_a_key_that_calms_down_is_not_marked():
    rng = np.random.default_rng(2)
    machine = Machine()
    calls = iter(range(10**9))
    timer = machine.timer("x", 1.0, noise=lambda: float(rng.lognormal(0, 0.5)) if next(calls) < 80 else 1.0)
    s = measure.measure({"x": timer}, QUICK)["x"]
    assert not s.noisy
    assert s.n > 12
    assert s.median_ms == pytest.approx(1.0, rel=0.01)


def test_cpu_clock_where_the_process_was_preempted():
    rng = np.random.default_rng(3)
    machine = Machine()

    def preempted(n):
        cpu = 1e6 * n
        return cpu * rng.uniform(1.2, 3.0), cpu

    samples = measure.measure({"x": preempted, "y": machine.timer("y", 2.0)}, QUICK)
    assert (samples["x"].source, samples["y"].source) == ("cpu", "wall")
    assert samples["x"].median_ms == pytest.approx(1.0)
    assert samples["x"].cpu_wall < 0.95
    assert not samples["x"].noisy


def test_without_a_cpu_clock_the_wall_is_believed():
    s = measure.measure({"x": lambda n: (2e6 * n, None)}, QUICK)["x"]
    assert (s.median_ms, s.cpu_wall, s.source) == (2.0, None, "wall")


class Bar:
    def __init__(self, total, done):
        self.total, self.count = total, done

    def advance(self, n):
        self.count += n


class Killed(Exception):
    pass


def test_killed_and_continued():
    machine = Machine()
    truth = {f"k{i}": 0.1 * (i + 1) for i in range(6)}
    timers = {key: machine.timer(key, ms) for key, ms in truth.items()}
    taken, saves = {}, []

    def save():
        saves.append(1)
        if len(saves) == 5:
            raise Killed

    with pytest.raises(Killed):
        measure.measure(timers, QUICK, taken=taken, save=save)
    assert all(len(visits) == 5 for visits in taken.values())
    before = {key: list(visits) for key, visits in taken.items()}
    bars = []

    @contextmanager
    def progress(label, total, done):
        bars.append((label, total, done))
        yield Bar(total, done)

    samples = measure.measure(timers, QUICK, taken=taken, progress=progress)
    assert all(taken[key][:5] == before[key] and len(taken[key]) == 12 for key in timers)
    assert bars[-1] == ("measuring", 72, 30)
    assert {key: s.median_ms for key, s in samples.items()} == pytest.approx(truth)
    ran = len(machine.log)
    assert measure.measure(timers, QUICK, taken=taken) == samples
    assert len(machine.log) == ran  # nothing left to do, not even a warm-up


def test_a_clock_that_stands_still():
    with pytest.raises(UserError, match="clock"):
        measure.measure({"x": lambda n: (0, 0)}, QUICK)


def test_collects_no_garbage_under_the_clock():
    seen = []

    def timer(n):
        seen.append(gc.isenabled())
        return 1e6 * n, 1e6 * n

    measure.measure({"x": timer}, QUICK)
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"visit_ms": 0}])
def test_protocol_refuses(wrong):
    with pytest.raises(UserError, match="expected"):
        Protocol(**wrong)


def test_stopwatch_reads_both_clocks():
    wall, cpu, calls = iter([100, 350]), iter([10, 70]), []
    timer = stopwatch(lambda: calls.append(1), Clock(lambda: next(wall), lambda: next(cpu)))
    assert timer(4) == (250, 60)
    assert len(calls) == 4
    wall = iter([0, 7])
    assert stopwatch(lambda: None, Clock(lambda: next(wall), None))(1) == (7, None)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=60))
def test_statistics(walls):
    s = summarise({"x": [[wall, wall] for wall in walls]}, Protocol())["x"]
    assert isinstance(s, Samples)
    assert s.median_ms == pytest.approx(np.median(walls))
    assert s.p10 == pytest.approx(np.percentile(walls, 10))
    assert s.p90 == pytest.approx(np.percentile(walls, 90))
    assert s.min == min(walls)
    assert s.n == len(walls)
    odd, even = statistics.median(walls[1::2]), statistics.median(walls[::2])
    assert s.aa == pytest.approx(abs(odd - even) / statistics.median(walls))
    assert s.noisy == (s.aa > 0.03)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_pin_core_restores():
    before = os.sched_getaffinity(0)
    with pin_core() as core:
        assert os.sched_getaffinity(0) == {core}
        assert core in before
    assert os.sched_getaffinity(0) == before


def test_pin_core_where_the_system_does_not(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    with pin_core() as core:
        assert core is None


def test_host_names_the_machine():
    assert measure.host()["cpu"]
    assert measure.host()["cores"] == os.cpu_count()


def test_only_the_standard_library():
    """An agent on a device takes these files along."""
    texts = [Path(module.__file__).read_text() for module in (measure, machine)]
    for node in itertools.chain(*(ast.walk(ast.parse(text)) for text in texts)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name in ("supernet.errors", "supernet.machine") or name.split(".")[0] in sys.stdlib_module_names
