"""Search the trained supernet for the most accurate networks within bounds: CES, SPOS's evolution, or at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from search.ces import CES, CESConfig
from search.evolution import RandomConfig, RandomSearch, SPOSConfig, SPOSEvolution
from search.run import SearchRun
from supernet.cli import common, searching
from supernet.progress import shown
from supernet.training import defaults

ALGORITHMS = {
    "ces": (CES, CESConfig),
    "spos": (SPOSEvolution, SPOSConfig),
    "random": (RandomSearch, RandomConfig),
}


@dataclass(frozen=True)
class Args(searching.SearchArgs):
    run: Path = Path("runs/default")
    """Folder of the trained supernet; the front goes there."""
    algorithm: Literal["ces", "spos", "random"] = "ces"
    """CES (NSGA-II in a window), SPOS's evolution, or random search, each with the same budget and log."""


def run(args: Args) -> None:
    space = common.load_space(args.run)
    luts = searching.tables(args, args.run / "lut.json", space)
    supernet = common.load_supernet(args.run, space, defaults.device(args.device))
    costs = searching.costs(space, luts)
    bounds = searching.bounds(args, space, luts, costs)
    algorithm, config = ALGORITHMS[args.algorithm]
    budget = config(population=args.population, iterations=args.iterations, seed=args.seed)
    search = algorithm(space, costs, bounds, searching.objectives(args, luts), budget)

    images = common.open_images(args.run, args.data_root)
    scoring = searching.scoring(args)
    evaluator = scoring.evaluator(supernet, images)
    found = SearchRun(args.run, search, evaluator, scoring.identity(args.run / "checkpoint.pt"))
    if found.note:
        common.console.print(found.note, highlight=False)
    random = search.window.sample(np.random.default_rng([args.seed, 1]), args.random, (), 2000)
    found.run(random, shown(not args.quiet))
    searching.write(args.run, found, [found.record(arch) for arch in random], luts)
    searching.show_winners(found, luts)
    common.next_command(f"python tools/retrain.py --pick best{common.run_flag(args.run)}")


def main() -> None:
    """The command line."""
    common.main(run, Args)
