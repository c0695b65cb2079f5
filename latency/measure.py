"""How latencies are timed, whatever runs them. No torch: only the standard library, and Python 3.8 runs it.

Everything is timed in shuffled round-robin rounds, so that a drift of the machine affects every key alike. A visit is a
few milliseconds of one key, after some runs that do not count, since others had the caches before. By how much all keys
took longer in one round than in another is taken out; a key's latency is the median over its visits then. Its odd and
even rounds are compared with each other (A/A): where they differ by more than the gate, the key is visited in further
rounds.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import random
import statistics
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import truediv
from pathlib import Path
from typing import Any

from supernet.errors import UserError
from supernet.machine import cpu

if typing.TYPE_CHECKING:
    from typing import TypeAlias

# These are text because Python 3.8 cannot evaluate them.
# Runs something n times; gives wall and CPU nanoseconds in all. CPU is None where there is no such clock (several
# threads, an accelerator).
Timer: TypeAlias = "Callable[[int], tuple[float, float | None]]"
# One visit: wall and CPU milliseconds of one run. A list in JSON.
Visit: TypeAlias = "tuple[float, float | None]"
# progress(label, total, done) opens a bar.
Progress: TypeAlias = "Callable[[str, int, int], AbstractContextManager[Bar]]"


class Bar(typing.Protocol):
    """What shows progress."""

    def advance(self, n: int) -> object:
        """``n`` more visits are done."""


# What a protocol may ask for: at least two rounds, one for each half of the A/A comparison; at most hours.
LIMITS = (
    ("rounds", 2, 10_000),
    ("visit_ms", 0.001, 60_000),
    ("chunks", 1, 10_000),
    ("warmup_runs", 0, 10_000),
    ("warmup_ms", 0, 60_000),
    ("settle_runs", 0, 10_000),
    ("settle_ms", 0, 60_000),
    ("gate", 0, 1000),
    ("attempts", 0, 100),
    ("busy", 0, 1),
)
MOST_CORES = 4096
COMPANY = 24  # keys that are enough to tell how fast the machine is, besides those that are measured for themselves
ENOUGH = 8  # keys of which the drift of the machine can be told from the noise of each
POLISHES = 8  # of the median polish; the design is almost complete, so few are needed


@dataclass(frozen=True)
class Protocol:
    """What is timed how often, and when it is good enough."""

    rounds: int = 12  # each visits every key once; at least 10 for a table that people rely on
    visit_ms: float = 10.0  # length of a visit, which has at least ``chunks`` runs
    chunks: int = 5  # parts of a visit, whose median counts: one preemption spoils one chunk
    warmup_runs: int = 10  # the fewest runs and
    warmup_ms: float = 50.0  # the shortest time before the first visit
    settle_runs: int = 20  # that begin each visit and do not count, as far as they take
    settle_ms: float = 50.0  # no longer than this
    gate: float = 0.03  # largest relative A/A difference
    attempts: int = 3  # further passes of the keys that are beyond the gate
    busy: float = 0.95  # smallest CPU/wall at which the wall clock is trusted

    def __post_init__(self) -> None:
        for name, least, most in LIMITS:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not least <= value <= most:
                raise UserError(f"expected {name} from {least:g} to {most:g}, got {value!r:.40}")


@dataclass(frozen=True)
class Samples:
    """Statistics of the visits of one key, in milliseconds for one run, without the drift of the machine."""

    median_ms: float
    p10: float
    p90: float
    min: float
    n: int  # visits
    aa: float  # |median of odd rounds - median of even rounds| / median
    cpu_wall: float | None  # median of CPU/wall; None where the CPU clock does not apply
    source: str  # the clock that is trusted: wall | cpu (the process was preempted)
    noisy: bool  # aa is beyond the gate, after all attempts

    def scaled(self, factor: float) -> Samples:
        """The same on a machine that takes ``factor`` times as long."""
        times = {name: factor * getattr(self, name) for name in ("median_ms", "p10", "p90", "min")}
        return replace(self, **times)


@dataclass(frozen=True)
class Clock:
    """The clocks, in nanoseconds. ``cpu`` must count everything that runs: the default counts one thread only."""

    wall: Callable[[], int] = time.perf_counter_ns
    cpu: Callable[[], int] | None = time.thread_time_ns


def stopwatch(call: Callable[[], Any], clock: Clock) -> Timer:
    """A timer of ``call`` by the host's clocks."""
    wall, cpu = clock.wall, clock.cpu

    def timer(n: int) -> tuple[float, float | None]:
        cpu_start = cpu() if cpu else 0
        wall_start = wall()
        for _ in range(n):
            call()
        elapsed = wall() - wall_start
        return elapsed, cpu() - cpu_start if cpu else None

    return timer


def measure(
    timers: Mapping[str, Timer],
    protocol: Protocol,
    *,
    taken: dict[str, list[Visit]] | None = None,
    save: Callable[[], None] = lambda: None,
    progress: Progress = lambda label, total, done: nullcontext(_Silent()),
    seed: int = 0,
) -> dict[str, Samples]:
    """Time all keys in turns, and longer those that are beyond the gate.

    The noisy ones are visited again among ``company``, which tells a drift in between. Whoever is visited in a pass was
    visited in all passes before it, so the visits of every key are those of the first rounds. All visits count; none is
    selected by its result.

    Args:
        taken: visits so far, by key; extended in place, so that ``save`` can write them and a killed run continues.
        save: called after every round.
        progress: opens the bar of one pass.
        seed: of the order within the rounds.

    Raises:
        UserError: the clock does not advance.
    """
    store = {} if taken is None else taken
    taken = {key: store.setdefault(key, []) for key in timers}
    rng = random.Random(seed)
    repeats: dict[str, int] = {}
    keys, label = list(timers), "measuring"
    for attempt in range(protocol.attempts + 1):
        before, target = protocol.rounds * attempt, protocol.rounds * (attempt + 1)
        if attempt:
            samples = summarise(taken, protocol)
            noisy = {key for key in keys if samples[key].noisy}
            begun = [key for key in keys if len(taken[key]) > before]  # by a run that was killed
            if not noisy and not begun:
                break
            again = noisy.union(company(keys))
            keys = begun or [key for key in keys if key in again]
            label = f"measuring again, {len(noisy)} noisy"
        left = sum(max(target - len(taken[key]), 0) for key in keys)
        if not left:
            continue
        if cold := [key for key in keys if key not in repeats]:
            with _undisturbed(), progress("warming up", len(cold), 0) as bar:
                for key in cold:
                    repeats[key] = warm_up(timers[key], protocol)
                    bar.advance(1)
        total = protocol.rounds * len(keys)
        with _undisturbed(), progress(label, total, total - left) as bar:
            for i in range(min(len(taken[key]) for key in keys), target):
                order = [key for key in keys if len(taken[key]) <= i]
                rng.shuffle(order)
                for key in order:
                    taken[key].append(_visit(timers[key], repeats[key], protocol))
                    bar.advance(1)
                save()
    return summarise(taken, protocol)


def company(keys: Sequence[str]) -> list[str]:
    """Some of the ``keys``, evenly drawn, by which the speed of the machine can be told."""
    return list(keys[:: math.ceil(len(keys) / COMPANY) or 1])


def warm_up(timer: Timer, protocol: Protocol) -> int:
    """Run until caches, allocator and clock frequency have settled; returns the number of runs that fill a chunk."""
    n, runs, spent, fastest = 1, 0, 0.0, float("inf")
    while runs < protocol.warmup_runs or spent < protocol.warmup_ms * 1e6:
        wall, _ = timer(n)
        runs, spent, fastest = runs + n, spent + wall, min(fastest, wall / n)
        if wall < protocol.warmup_ms * 1e5:  # a tenth of the warm-up
            n *= 2
        if runs > 2**30:
            raise UserError(f"the clock moved {spent:g} ns in {runs} runs: this machine's clock cannot time a layer")
    return max(1, round(protocol.visit_ms * 1e6 / protocol.chunks / fastest)) if fastest else n


def summarise(visits: Mapping[str, Sequence[Visit]], protocol: Protocol) -> dict[str, Samples]:
    """Statistics of keys that were timed against one another.

    Args:
        visits: of each key, at least 2, one in each round from the first on: wall time counts, or CPU time where the
            key was preempted.
    """
    busy = {key: _busy(of_key) for key, of_key in visits.items()}
    preempted = {key for key, share in busy.items() if share is not None and share < protocol.busy}
    times = {
        key: [wall if cpu is None or key not in preempted else cpu for wall, cpu in of_key]
        for key, of_key in visits.items()
    }
    slowness = drift(list(times.values()))
    found = {}
    for key, raw in times.items():
        values = list(map(truediv, raw, slowness))
        median = statistics.median(values)
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        aa = abs(statistics.median(values[0::2]) - statistics.median(values[1::2])) / median
        found[key] = Samples(
            median_ms=median,
            p10=deciles[0],
            p90=deciles[-1],
            min=min(values),
            n=len(values),
            aa=aa,
            cpu_wall=busy[key],
            source="cpu" if key in preempted else "wall",
            noisy=aa > protocol.gate,
        )
    return found


def drift(times: Sequence[Sequence[float]]) -> list[float]:
    """By which factor a visit took longer in each round than in the usual one: the median polish of the logarithms.

    Source: J. W. Tukey, Exploratory Data Analysis, 1977. The usual round is the median of those that visited all keys.

    Args:
        times: of each key those of its visits, in the first rounds; later rounds may have fewer keys. With fewer keys
            than ``ENOUGH`` noise is no less likely than drift, so nothing is taken out.
    """
    rounds = max(map(len, times), default=0)
    if len(times) < ENOUGH:
        return [1.0] * rounds
    shared = min(map(len, times))
    levels = [statistics.median(of_key[:shared]) for of_key in times]
    slowness: list[float] = []
    for _ in range(POLISHES):
        excess = [[ms / levels[k] for ms in of_key] for k, of_key in enumerate(times)]
        slowness = [statistics.median(of_key[i] for of_key in excess if i < len(of_key)) for i in range(rounds)]
        levels = [statistics.median(map(truediv, of_key, slowness)) for of_key in times]
    usual = statistics.median(slowness[:shared])
    return [slow / usual for slow in slowness]


def chained(passes: Sequence[Mapping[str, Sequence[Visit]]], protocol: Protocol) -> dict[str, Samples]:
    """Statistics of keys that were timed in several passes, all at the speed that the machine had in the first.

    Args:
        passes: those after the first visit some keys of passes before, which tell how the speed has changed.
    """
    found: dict[str, Samples] = {}
    for visits in passes:
        samples = summarise(visits, protocol)
        ratios = [found[key].median_ms / samples[key].median_ms for key in samples if key in found]
        factor = statistics.median(ratios) if ratios else 1.0
        found.update({key: s.scaled(factor) for key, s in samples.items() if key not in found})
    return found


def _busy(visits: Sequence[Visit]) -> float | None:
    """Median of CPU/wall; None where a visit has no CPU clock."""
    shares = [cpu / wall for wall, cpu in visits if cpu is not None]
    return statistics.median(shares) if len(shares) == len(visits) else None


def _visit(timer: Timer, repeats: int, protocol: Protocol) -> Visit:
    settling = 0.0
    for _ in range(protocol.settle_runs):
        if settling >= protocol.settle_ms * 1e6:
            break
        settling += timer(1)[0]
    times = [timer(repeats) for _ in range(protocol.chunks)]
    wall = statistics.median(wall for wall, _ in times) / repeats / 1e6
    cpu = [cpu for _, cpu in times if cpu is not None]
    return wall, statistics.median(cpu) / repeats / 1e6 if len(cpu) == len(times) else None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile, as in timeit."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Silent:
    def advance(self, n: int) -> None:
        pass


@contextmanager
def pin_core(cores: set[int] | None = None) -> Iterator[int | str | None]:
    """Keep this thread, and those that it starts meanwhile, on ``cores``; by default on one.

    That is the core with the highest clock among those allowed, the last of equals: the first serves most interrupts.
    Yields the number of the core, several as text, None where the system cannot pin threads.

    Raises:
        UserError: cores that this process may not use.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores and not cores <= before:
        raise UserError(f"expected cores among {sorted(before)}, got {sorted(cores)}")
    if not cores:
        cores = set(sorted(before, key=lambda core: (_max_khz(core), core))[-1:])
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield min(cores) if len(cores) == 1 else ",".join(map(str, sorted(cores))) or None
    finally:
        if cores:
            os.sched_setaffinity(0, before)


def parse_cores(text: str) -> set[int]:
    """The numbers of the cores in a text such as ``4``, ``4-7`` or ``0,2``; a UserError if it is no such text."""
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers = [first, last or first]
        if not all(number.isdecimal() and len(number) < 6 for number in numbers):
            raise UserError(f"cores {text!r:.60}: expected cores such as 4, 4-7 or 0,2")
        start, end = map(int, numbers)
        if not start <= end < MOST_CORES:
            raise UserError(f"cores {text!r}: expected ascending numbers below {MOST_CORES}")
        cores |= set(range(start, end + 1))
    return cores


def _max_khz(core: int) -> int:
    try:
        return int(Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq").read_text())
    except (OSError, ValueError):
        return 0


def host() -> dict[str, Any]:
    """This machine: CPU model, number of cores, platform."""
    return {"cpu": cpu(), "cores": os.cpu_count(), "platform": f"{platform.system()} {platform.machine()}"}
