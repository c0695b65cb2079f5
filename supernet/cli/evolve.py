"""Search the trained supernet for the most accurate networks within bounds: CES, SPOS's evolution, or random search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supernet.cli import common, report, searching, starting
from supernet.errors import UserError


@dataclass(frozen=True)
class Args(searching.SearchArgs, common.Kernels, common.OnRun):
    algorithm: Literal["ces", "spos", "random"] = "ces"
    """CES (NSGA-II in a window), SPOS's evolution, or random search, each with the same budget and log."""
    predictor: bool = False
    """Score a third of the architectures: a model of what was scored proposes the promising and the uncertain ones."""

    def __post_init__(self) -> None:
        if self.predictor and self.algorithm != "ces":
            raise UserError(f"--predictor is a form of CES, --algorithm is {self.algorithm}: give one of the two")


def run(args: Args) -> None:
    import numpy as np

    from search.algorithms import ALGORITHMS
    from search.run import SearchRun
    from supernet.training import defaults

    folder = args.folder
    space = folder.space()
    problem = searching.problem(args, folder.lut_path, space)
    device = defaults.device(args.device)
    supernet = folder.supernet(space, device, folder.kernels(device, args.wish(args.kernels)))
    algorithm = ALGORITHMS["guided" if args.predictor else args.algorithm]
    search = algorithm(space, problem.costs, problem.bounds, problem.objectives, args.budget(algorithm.settings))

    images, scoring = folder.images(args.data_root, workers=args.workers, progress=args.progress), args.scoring
    with folder.lock():
        evaluator = scoring.evaluator(supernet, images)
        found = SearchRun(folder.path, search, evaluator, scoring.identity(folder.identity, images.identity))
        if found.note:
            common.tell(found.note)
        random = search.window.sample(np.random.default_rng([args.seed, 1]), args.random, (), 2000)
        found.run(random, args.progress)
        searching.write(found, [found.record(arch) for arch in random], problem.luts)
    searching.show_winners(found, problem.luts)
    common.next_command("retrain", args, "--pick", "best", *common.keeping(folder))
    common.answer(args, folder.front_path)


main = starting.entry(run, Args, after=report.leave_page)
