"""Search the trained supernet for the most accurate networks within bounds: CES, SPOS's evolution, or random search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supernet.cli import common, searching


@dataclass(frozen=True)
class Args(searching.SearchArgs, common.OnRun):
    algorithm: Literal["ces", "spos", "random"] = "ces"
    """CES (NSGA-II in a window), SPOS's evolution, or random search, each with the same budget and log."""


def run(args: Args) -> None:
    import numpy as np

    from search.algorithms import ALGORITHMS
    from search.run import SearchRun
    from supernet.training import defaults

    folder = args.folder
    space = folder.space()
    luts = searching.tables(args, folder.lut_path, space)
    device = defaults.device(args.device)
    supernet = folder.supernet(space, device, defaults.kernels(device))
    costs = searching.costs(space, luts)
    bounds = searching.bounds(args, space, luts, costs)
    algorithm, config = ALGORITHMS[args.algorithm]
    budget = config(population=args.population, iterations=args.iterations, seed=args.seed)
    search = algorithm(space, costs, bounds, searching.objectives(args, luts), budget)

    images, scoring = folder.images(args.data_root, workers=args.workers), searching.scoring(args)
    with folder.lock():
        evaluator = scoring.evaluator(supernet, images)
        found = SearchRun(folder.path, search, evaluator, scoring.identity(folder.identity, images.identity))
        if found.note:
            common.say(common.escape(found.note))
        random = search.window.sample(np.random.default_rng([args.seed, 1]), args.random, (), 2000)
        found.run(random, args.progress)
        searching.write(found, [found.record(arch) for arch in random], luts)
    searching.show_winners(found, luts)
    common.next_command("retrain", args, "--pick", "best")


def main() -> None:
    """The command line."""
    common.main(run, Args)
