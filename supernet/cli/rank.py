"""How well a supernet ranks architectures: train some of them alone, and compare with their one-shot accuracies.

Both are measured on validation images, one half of the split each; the test set stays closed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    from search.ranking import Ranking
    from supernet.runs import RunFolder
    from supernet.space import Arch, Space


@dataclass(frozen=True)
class Args(common.Alone):
    pick: str = "uniform"
    """Architectures: uniform (random ones of the space), front (of evolve.py, evenly spaced), or a .json list of
    lists."""
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
    from search.alone import OnRun, StandAlone, halves
    from search.evaluator import Evaluator
    from search.run import Scoring
    from supernet import families, files
    from supernet.methods import spos
    from supernet.training import defaults

    run, device = args.folder, defaults.device(args.device)
    space = run.space()
    supernet = run.supernet(space, device, defaults.kernels(device))
    archs = pick(args, run, space)
    images = run.images(args.data_root, workers=args.workers)
    scoring, _ = halves(images.val)
    folder = run.rank_path

    recalibration = spos.recalibration_images(images, *args.recalibration)
    at_once, progress = args.jobs if device.type == "cpu" else 1, args.progress
    one_shot = {}
    for mode in args.bn:
        batches = Scoring(mode, workers=at_once).batches(supernet, scoring)
        one_shot[mode] = Evaluator(supernet, recalibration, batches, at_once, mode)(archs)
    workers = -(-args.workers // at_once)
    train = OnRun(run, folder, args.epochs, args.batch_size, args.lr, args.limit, str(device), args.data_root, workers)
    with run.lock():
        log = files.JsonLines(folder / "trained.jsonl")
        alone = StandAlone(log, train.budget, train, at_once, "val_accuracy", progress)
        trained = alone(archs, range(args.seed, args.seed + args.seeds), "rank")
        truth = trained.mean(axis=1)
        flops = [families.flops(space, arch) for arch in archs]

        rows = {f"one-shot, BN {mode}": ranking.rank(scores, truth) for mode, scores in one_shot.items()}
        if len(set(flops)) > 1:
            rows["multiply-adds"] = dataclasses.replace(ranking.rank(flops, truth), gap=0.0)
        if args.seeds > 1:
            ceiling = ranking.rank(trained[:, 0], trained[:, 1:].mean(axis=1))
            rows["ceiling: one training seed against the others"] = ceiling
        for mode, scores in one_shot.items():
            title = f"{space.name}, BN {mode}, {args.epochs} epochs alone"
            ranking.plot(folder / f"{mode}.png", scores, truth, rows[f"one-shot, BN {mode}"], title)
        files.write_json(
            folder / "rank.json",
            {
                "schema": 1,
                "space": {"name": space.name, "fingerprint": space.fingerprint},
                "made_from": run.origin(),
                "pick": args.pick,
                "budget": train.budget,
                "archs": [list(arch) for arch in archs],
                "flops": flops,
                "one_shot": one_shot,
                "trained_alone": trained.tolist(),
                "rankings": {name: dataclasses.asdict(row) for name, row in rows.items()},
            },
        )
    show(rows, space)
    common.say(common.escape(f"→ {folder / 'rank.json'}, {folder / (args.bn[0] + '.png')}"))


def pick(args: Args, run: RunFolder, space: Space) -> list[Arch]:
    """Distinct architectures: at most ``n``, at least three."""
    import numpy as np

    from supernet import files

    if args.pick == "uniform":
        rng = np.random.default_rng([args.seed, 3])
        archs = list(dict.fromkeys(space.sample(rng) for _ in range(50 * args.n)))[: args.n]
    elif args.pick == "front":
        found = run.front(space)["front"]
        places = np.unique(np.linspace(0, len(found) - 1, min(args.n, len(found))).round().astype(int))
        archs = [space.check(found[i]["arch"]) for i in places]
    elif args.pick.endswith(".json"):
        listed = files.read_json(Path(args.pick), "list of architectures", "write one: [[0, 1, …], …]")
        try:
            archs = list(dict.fromkeys(space.check(arch) for arch in listed))[: args.n]
        except (TypeError, ValueError) as error:
            raise UserError(f"{args.pick}: expected a list of architectures [[0, 1, …], …] ({error})") from error
    else:
        raise UserError(f"--pick {args.pick}: expected uniform, front, or a .json file of architectures")
    if len(archs) < 3:
        raise UserError(f"--pick {args.pick} gives {len(archs)} architectures; a ranking needs three or more")
    return archs


def show(rows: dict[str, Ranking], space: Space) -> None:
    """One row for each way to rank."""
    from rich.table import Table

    from search import ranking

    first = next(iter(rows.values()))
    table = Table(title=f"{space.name}: {first.n} architectures, {first.level:.0%} intervals over architectures")
    for column in ("ranked by", "Kendall τ", "Spearman ρ", "alone − one-shot, points"):
        table.add_column(column, justify="left" if column == "ranked by" else "right")
    for name, row in rows.items():
        gap = f"{100 * row.gap:+.2f}" if name.startswith("one-shot") else ""
        table.add_row(name, ranking.show(row.tau, row.tau_interval), ranking.show(row.rho, row.rho_interval), gap)
    common.say(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
