"""How well a supernet ranks architectures: train some of them alone, and compare with their one-shot accuracies.

Both are measured on validation images, one half of the split each; the test set stays closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supernet import metrics
from supernet.cli import common, report, starting
from supernet.errors import UserError


@dataclass(frozen=True)
class Args(common.Judged, common.Alone):
    pick: str = "uniform"
    """Architectures: uniform (random ones), front (of the search, evenly spaced), or a .json list of them."""
    n: int = 32
    """Number of architectures; fewer than 32 cannot tell much."""
    bn: tuple[Literal["recalibrated", "batch", "inherited"], ...] = ("recalibrated",)
    """BN statistics of the one-shot accuracies; several to compare them."""
    epochs: int = 12
    """Epochs for each architecture alone."""
    seeds: int = 1
    """Trainings of each architecture, averaged; with two or more the ceiling is stated."""
    recalibration: tuple[int, int] = (8, 128)
    """Batches and images per batch for recalibrating BN."""
    seed: int = 0
    """Random seed of the choice of architectures, and of the first training."""


def run(args: Args) -> None:
    from search import ranking
    from search.alone import OnRun
    from search.ranking_run import Study, choose
    from supernet import executor
    from supernet.training import defaults

    if not args.bn:
        raise UserError("--bn: expected one or more of recalibrated, batch, inherited")
    run, device, folder = args.folder, defaults.device(args.device), args.folder.rank_path
    space = run.space()
    metrics.require(args.metric, space.classes)
    archs = choose(run, space, args.pick, args.n, args.seed)
    scorers = executor.for_device(args.ray_or(executor.Threads(args.jobs)), device)
    trainers = scorers if args.workers_on == "ray" else executor.for_device(executor.Processes(args.jobs), device)
    images = run.images(args.data_root, workers=args.workers, progress=args.progress)
    workers = -(-args.workers // trainers.at_once)
    kernels, budget = run.kernels(device, args.kernels), (args.epochs, args.batch_size, args.lr, args.limit)
    train = OnRun(run, folder, *budget, str(device), kernels, args.data_root, workers, args.metric)
    seeds = range(args.seed, args.seed + args.seeds)
    study = Study(run, images, train, device, args.bn, args.recalibration, seeds, scorers, trainers, args.progress)
    with run.lock():
        rankings = study(archs, args.pick)
    common.show(ranking.table(rankings, space.name, args.metric))
    common.tell(f"→ {folder / 'rank.json'}, {folder / (args.bn[0] + '.png')}")
    searched = run.front_path.exists()
    common.next_command("retrain" if searched else "evolve", args, *(common.keeping(run) if searched else ()))
    common.answer(args, folder / "rank.json")


main = starting.entry(run, Args, after=report.leave_page)
