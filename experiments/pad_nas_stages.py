"""What PAD-NAS gives no figures of (§3.2, §4.1): the threshold of pruning, the number of stages, the weights kept.

Per seed, all runs share the first supernet of the first epochs and its search. The thresholds: two prunings at each,
with the epochs of ``pad_nas.py``. The stages: M from 2 (no pruning) to 6, with as many epochs in all. The weights: the
last space of three stages with those that were fine-tuned, and with others, trained anew for all epochs. Told of
each final space: how many networks and operations are left (diversity), how accurate random networks within the window
are alone, how accurate the most accurate one of its front is, and the gap to its one-shot accuracy. Paired differences
to the first row have 95 % intervals over the seeds. Every finished row is kept in the results.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import _common, _report
from experiments._pad_nas import Options, Study
from experiments.papers.item import mean
from search import pad_nas
from supernet import spaces
from supernet.errors import UserError

THRESHOLDS, STAGES, WEIGHTS = "threshold", "stages", "weights"
FREE = ("seeds", "thresholds", "most")  # more of these go on with the rows that there are


@dataclass(frozen=True)
class Args(Options):
    output: Path = Path("docs/results/pad_nas_stages.json")
    """The results."""
    space: str = "mobile-large-small"
    """A space that holds bad operations."""
    train: int = 3_000
    """Training images, stratified."""
    search_images: int = 1_000
    """Images that one-shot accuracies are taken on."""
    epochs: tuple[int, ...] = (12, 8, 4)
    """Epochs of the first supernet and of two fine-tunings, for the thresholds."""
    thresholds: tuple[float, ...] = (0.01, 0.1, 0.2)
    """Thresholds of pruning; the paper says .01, for 2,560 evaluations."""
    most: int = 5
    """The largest M: stages, of which the last one searches only."""
    lut: Path | None = None
    """Latency table of the space: the window is of latency then."""
    lat_min: float = 0.0
    """Lower end of the window in ms, with --lut."""
    lat_max: float = 0.0
    """Upper end of the window in ms, with --lut."""
    random: int = 5
    """Random networks of each final space to train alone."""


def run(args: Args) -> None:
    small: dict[str, Any] = {}
    if args.quick:
        small = {"seeds": 2, "random": 2, "epochs": (1, 1, 1), "alone": 1, "population": 6, "iterations": 2}
        small |= {"thresholds": (0.0, 0.2), "most": 3}
    args = args.settled(**small)
    fine = sum(args.epochs[1:])
    if len(args.epochs) != 3 or not 3 <= args.most <= 2 + fine:
        wanted = f"three of --epochs, and --most from 3 to {2 + fine}, as every stage takes an epoch"
        raise UserError(f"--epochs {args.epochs}, --most {args.most}: expected {wanted}")
    clock = _common.Clock(args.run, "pad_nas_stages")
    opened, _ = _common.open_images(args.images, args.decoders)
    space = spaces.get(args.space, opened.channels, opened.size, opened.classes)
    study = Study(args, space, opened, args.lut, (args.lat_min, args.lat_max))
    for threshold in args.thresholds:  # what cannot be is refused before anything is trained
        study.config(args.epochs, 0, threshold)
    kept = _common.Kept(args.output, _common.results("pad_nas_stages", args, clock), clock, FREE)
    for seed in range(args.seeds):
        folder = args.run / f"pad_nas_stages-{Path(args.data).stem}-{study.space.name}-{seed}{args.marked}"
        study.train(folder / "first", study.config(args.epochs[:1], seed))
        asked = [(THRESHOLDS, f"{p:g}", args.epochs, p) for p in args.thresholds]
        asked += [(STAGES, str(m), epochs_of(args.epochs, m), args.threshold) for m in range(2, args.most + 1)]
        asked += [(WEIGHTS, "fine-tuned", args.epochs, args.threshold)]
        for table, name, epochs, threshold in asked:
            kept.add(table, name, seed, functools.partial(row, study, folder, epochs, threshold, seed))
        kept.add(WEIGHTS, "anew", seed, functools.partial(anew, study, folder, seed))
        finish(args, kept.found)


def epochs_of(epochs: tuple[int, ...], stages: int) -> tuple[int, ...]:
    """Of M stages, the last of which only searches: the first supernet's, and the others' shared out, the most first.

    >>> epochs_of((12, 8, 4), 2), epochs_of((12, 8, 4), 3), epochs_of((12, 8, 4), 6)
    ((24,), (12, 12), (12, 3, 3, 3, 3))
    """
    first, *others = epochs
    fine, trainings = sum(others), stages - 2
    if not trainings:
        return (first + fine,)
    if trainings == len(others):
        return epochs
    return (first, *(fine // trainings + (i < fine % trainings) for i in range(trainings)))


def whole(study: Study, folder: Path, epochs: tuple[int, ...], threshold: float, seed: int) -> list[pad_nas.Stage]:
    """A whole run of Algorithm 1; its first stage is that of the others, unless it has one only."""
    name = "-".join(map(str, (*epochs, f"{threshold:g}")))
    start = folder / "first" if len(epochs) > 1 else None
    return study.train(folder / name, study.config(epochs, seed, threshold), start)


def row(study: Study, folder: Path, epochs: tuple[int, ...], threshold: float, seed: int) -> dict[str, Any]:
    """A whole run, judged."""
    return judged(study, whole(study, folder, epochs, threshold, seed), epochs[-1], seed)


def anew(study: Study, folder: Path, seed: int) -> dict[str, Any]:
    """The last space of a whole run with a supernet of its own, trained for all epochs."""
    args = study.args
    last = whole(study, folder, args.epochs, args.threshold, seed)[-1]
    epochs = sum(args.epochs)
    place = folder / f"anew-{'-'.join(map(str, args.epochs))}-{args.threshold:g}"
    stages = study.train(place, study.config((epochs,), seed), space=last.space)
    return judged(study, stages, epochs, seed)


def judged(study: Study, stages: Sequence[pad_nas.Stage], epochs: int, seed: int) -> dict[str, Any]:
    """The final space and its supernet, by random networks and by the most accurate one of the front.

    Args:
        epochs: of the last training.
    """
    last = stages[-1]
    space, best = last.space, last.found.front()[-1]
    drawn = study.draw(space, study.args.random, [seed, 1])
    accuracies = study.truth([*drawn, best.arch], range(1), f"{last.folder.parent.name}, seed {seed}")[:, 0].tolist()
    return {
        "networks": space.size,
        "operations": sum(map(len, space.allowed)),
        "pruning": [stage.space.size for stage in stages],
        "epochs": epochs,
        "minutes": last.seconds["training"] / 60,
        "random_one_shot": last.found.evaluator(drawn) if drawn else [],
        "random_alone": accuracies[:-1],
        "best_alone": accuracies[-1],
        "best_one_shot": best.accuracy,
    }


def finish(args: Args, result: dict) -> None:
    """A table for each question."""
    tables = {}
    for title, rows in ((name, result[name]) for name in (THRESHOLDS, STAGES, WEIGHTS)):
        first = next(iter(rows.values()))
        tables[title] = {name: told(seeds, first) for name, seeds in rows.items()}
    _report.report(args.output, result, tables, draw)


def told(seeds: list[dict], first: list[dict]) -> Mapping[str, str]:
    """Means over the seeds; differences to the first row, paired, with 95 % intervals."""

    def values(rows: list[dict], key: str) -> np.ndarray:
        return np.array([np.mean(row[key]) for row in rows])

    pairs = list(zip(seeds, first, strict=False))
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    return {
        "networks": ", ".join(f"{row['networks']:,}" for row in seeds),
        "operations": _report.mean_sd(values(seeds, "operations")),
        "epochs of the last training": f"{seeds[0]['epochs']}",
        "minutes of it": _report.mean_sd(values(seeds, "minutes")),
        "random networks one-shot, %": _report.mean_sd(values(seeds, "random_one_shot"), 100),
        "random networks alone, %": _report.mean_sd(values(seeds, "random_alone"), 100),
        "minus the first row": mean(values(mine, "random_alone") - values(theirs, "random_alone"), 100, "+"),
        "best of the front alone, %": _report.mean_sd(values(seeds, "best_alone"), 100),
        "minus the first row, too": mean(values(mine, "best_alone") - values(theirs, "best_alone"), 100, "+"),
        "gap to one-shot, points": _report.mean_sd(values(seeds, "best_alone") - values(seeds, "best_one_shot"), 100),
    }


def draw(figure: Figure, result: dict) -> None:
    """Quality and diversity over the threshold, and over the number of stages."""
    for axes, name in zip(figure.subplots(1, 2), (THRESHOLDS, STAGES), strict=True):
        rows = result[name]
        places = range(len(rows))
        for key, label in (("random_alone", "random networks"), ("best_alone", "best of the front")):
            values = [100 * np.array([np.mean(row[key]) for row in seeds]) for seeds in rows.values()]
            spread = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
            axes.errorbar(places, [v.mean() for v in values], spread, marker="o", markersize=4, capsize=2, label=label)
        axes.set_xticks(places, list(rows))
        axes.set(xlabel="P_th" if name == THRESHOLDS else "stages M", ylabel="accuracy alone (%)")
        right = axes.twinx()
        left_over = [np.mean([row["operations"] for row in seeds]) for seeds in rows.values()]
        right.plot(places, left_over, "--", color="0.5", linewidth=1)
        right.set_ylabel("operations left (dashed)", color="0.4")
        axes.legend(fontsize=8, loc="lower left")
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
