"""Where scoring stops scaling: CES's generations on up to 64 simulated workers, with stragglers and lost workers.

Task times are recorded (``_task_times.py``). The generations are CES's own, on a smooth accuracy. Tasks are groups of
neighbours in the prefix tree, and a generation waits for the last of them before the next is bred.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments import _common, _report
from experiments._task_times import Times, record
from search.ces import CES, CESConfig
from search.evaluator import groups, work
from search.priced import additive
from supernet import files, spaces
from supernet.space import Arch, Space

WORKERS = (1, 2, 4, 8, 16, 32, 64)
SPREAD, SLOW, SLOWER = 0.1, 0.02, 3.0  # of a task's time: log-normal; a share of tasks that takes so many times as long
REPEATS = 20  # of each generation, with other stragglers and losses
RESTART = 10.0  # seconds until a lost worker is replaced
WAYS = {  # to form tasks: groups for each worker, and whether the longest are begun first
    "1 group per worker": (1, False),
    "2 groups": (2, False),
    "2 groups, longest first": (2, True),
    "4 groups, longest first": (4, True),
}


@dataclass(frozen=True)
class Args(_common.Options):
    run: Path = Path("runs/experiments")
    """Folder of the CPU minutes."""
    output: Path = Path("docs/results/scaling.json")
    """The results, with the recorded times."""
    record: bool = False
    """Record the times on this machine (needs the extra ray); else those in the results are taken."""
    populations: tuple[int, ...] = (32, 64, 256)
    """Architectures per generation."""
    scales: tuple[float, ...] = (1.0, 100.0)
    """Times as long tasks: for larger images, and more of them."""
    losses: float = 1.0
    """Lost workers per worker and hour."""


def generations(space: Space, population: int, n: int) -> list[list[Arch]]:
    """What CES asks for, where every choice has a merit of its own and wide layers have more."""
    flops = additive(space, lambda spec: spec.flops)
    high = flops.bounds(space)[1]
    merit = np.random.default_rng(0).normal(size=(len(space.genes), max(map(len, space.allowed))))
    search = CES(space, {"flops": flops}, {}, ["flops"], CESConfig(population, n))
    found = []
    while not search.done:
        found.append(search.ask())
        search.tell(found[-1], [flops(a) / high + 0.1 * sum(merit[i, j] for i, j in enumerate(a)) for a in found[-1]])
    return found


def makespan(tasks: Sequence[float], workers: int, send: float, losses: float, rng: np.random.Generator) -> float:
    """Seconds until all tasks are done, begun in this order, each by the worker that is free first.

    Workers are lost ``losses`` times per second; the task that one was at is begun again, elsewhere.
    """
    free, last = [0.0] * workers, 0.0
    waiting = [((i + 1) * send, seconds) for i, seconds in enumerate(tasks)]
    while waiting:
        ready, seconds = waiting.pop(0)
        start = max(heapq.heappop(free), ready)
        end = start + seconds * rng.lognormal(0, SPREAD) * (SLOWER if rng.random() < SLOW else 1.0)
        lost = start + (rng.exponential(1 / losses) if losses else np.inf)
        if lost < end:
            waiting.append((lost, seconds))
        last = max(last, min(lost, end))
        heapq.heappush(free, lost + RESTART if lost < end else end)
    return last + send


def simulate(args: Args, times: Times, space: Space) -> dict[str, dict[str, list[float]]]:
    """Speed-up over one worker by the number of workers: for each population and scale, the ways to form tasks."""
    found: dict[str, dict[str, list[float]]] = {}
    for population in args.populations:
        batches = generations(space, population, 3 if args.quick else 10)
        alone = sum(times.group(space, batch) for batch in batches)
        tasks = {}
        for n in {min(workers * parts, population) for workers in WORKERS for parts, _ in WAYS.values()}:
            cut = [sorted(groups(batch, n), key=lambda part: work(space, part), reverse=True) for batch in batches]
            tasks[n] = [[times.group(space, part) for part in parts] for parts in cut]
        for scale in args.scales:
            for name, (parts, longest) in WAYS.items():
                row = found.setdefault(f"{population} architectures, tasks × {scale:g}", {})[name] = []
                for workers in WORKERS:
                    rng, spent = np.random.default_rng(0), 0.0
                    for batch in tasks[min(workers * parts, population)] * REPEATS:
                        seconds = scale * (np.array(batch) if longest else rng.permutation(batch))
                        spent += makespan(seconds, workers, times.send, args.losses / 3600, rng)
                    row.append(scale * alone * REPEATS / spent)
    return found


def run(args: Args) -> None:
    """Record if asked, simulate, report."""
    space, clock = spaces.get("mobile-large-small", 3, 28, 10), _common.Clock(args.run, "scaling")
    result = {} if args.record else files.read_json(args.output, "results", "run it with --record")
    if args.record:
        whole = [part for batch in generations(space, 16, 3) for n in (1, 4, 16) for part in groups(batch, n)]
        times, tasks = record(space, 96 if args.quick else 1500, whole)
        result = {"recorded": {"times": asdict(times), "tasks": tasks}}
    if not args.redraw:
        found = simulate(args, Times(**result["recorded"]["times"]), space)
        result = _common.results("scaling", args, clock, recorded=result["recorded"], speedup=found)
    _report.report(args.output, result, tables(result), draw, size=(10.0, 6.0))


def tables(result: dict) -> _report.Tables:
    """Speed-ups, a table for each population and scale."""
    heads = [f"{workers} workers" for workers in WORKERS]
    return {
        title: {name: dict(zip(heads, map("{:.1f}".format, row), strict=True)) for name, row in ways.items()}
        for title, ways in result["speedup"].items()
    }


def draw(figure: Figure, result: dict) -> None:
    """A panel for each population and scale."""
    scales = len(result["settings"]["scales"])
    panels = figure.subplots(scales, len(result["speedup"]) // scales, squeeze=False, sharex=True, sharey=True).T.flat
    for axes, (title, ways) in zip(panels, result["speedup"].items(), strict=True):
        axes.plot(WORKERS, WORKERS, color="lightgray", label="ideal")
        for name, row in ways.items():
            axes.plot(WORKERS, row, marker=".", label=name)
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="speed-up", title=title)
        axes.set(xticks=WORKERS, xticklabels=WORKERS, yticks=WORKERS, yticklabels=WORKERS)
        axes.minorticks_off()
        axes.label_outer()
    figure.axes[0].legend(fontsize=8)


if __name__ == "__main__":
    _common.main(run, Args)
