"""Search the trained supernet for the most accurate networks within bounds: CES, SPOS's evolution, or at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import _cli
import _search
import numpy as np

from search.ces import CES, CESConfig
from search.evolution import RandomConfig, RandomSearch, SPOSConfig, SPOSEvolution
from search.run import SearchRun

ALGORITHMS = {
    "ces": (CES, CESConfig),
    "spos": (SPOSEvolution, SPOSConfig),
    "random": (RandomSearch, RandomConfig),
}


@dataclass(frozen=True)
class Args(_search.SearchArgs):
    run: Path = Path("runs/default")
    """Folder of the trained supernet; the front goes there."""
    algorithm: Literal["ces", "spos", "random"] = "ces"
    """CES (NSGA-II in a window), SPOS's evolution, or random search, each with the same budget and log."""


def run(args: Args) -> None:
    space = _cli.load_space(args.run)
    luts = _search.tables(args, args.run / "lut.json", space)
    supernet = _cli.load_supernet(args.run, space, _cli.device(args.device))
    costs = _search.costs(space, luts)
    bounds = _search.bounds(args, space, luts, costs)
    algorithm, config = ALGORITHMS[args.algorithm]
    budget = config(population=args.population, iterations=args.iterations, seed=args.seed)
    search = algorithm(space, costs, bounds, _search.objectives(args, luts), budget)

    images = _cli.open_images(args.run, args.data_root)
    scoring = _search.scoring(args)
    evaluator = scoring.evaluator(supernet, images)
    found = SearchRun(args.run, search, evaluator, scoring.identity(args.run / "checkpoint.pt"))
    if found.note:
        _cli.console.print(found.note, highlight=False)
    random = search.window.sample(np.random.default_rng([args.seed, 1]), args.random, (), 2000)
    found.run(random, args.quiet)
    _search.write(args.run, found, [found.record(arch) for arch in random], luts)
    _cli.next_command(f"python tools/retrain.py --pick best{_cli.run_flag(args.run)}")


if __name__ == "__main__":
    _cli.main(run, Args)
