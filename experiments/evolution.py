"""CES against SPOS's evolution and random search, at equal evaluations of the same supernet.

On one trained supernet each algorithm searches several times. Told are the best one-shot accuracy within the bound,
the hypervolume of the front, and of the operation distribution its variance between runs and its sparsity, of all
layers and of the last one (PAD-NAS, Figure 7). Each is counted in its own way: CES's architectures up to nondomination
rank 9, the final population of the evolution, all that random search drew. With the truth table (``truth_table.py``)
also the exact regret: the algorithms search the table's 64 networks, by one-shot accuracy and by the table itself,
where they see half of the training seeds and are judged on the others. Every finished search is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments import _common, _report
from experiments._pad_nas import bounded
from search import distribution, pad_nas
from search.algorithms import ALGORITHMS
from search.ask_tell import Budget, Search
from search.costs import TableCost
from search.priced import additive
from search.run import Scoring, SearchRun
from supernet import families, files, machine, spaces
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Threads
from supernet.methods import spos
from supernet.model import Supernet
from supernet.progress import shown
from supernet.quantities import digits
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.loop import FitConfig

RANK = 9  # architectures up to this nondomination rank are counted, as PAD-NAS does


@dataclass(frozen=True)
class Searches(_common.OnImages, _common.OnDevice):
    """Options of searches on one supernet."""

    run: Path = Path("runs/experiments")
    """Folder of the supernet and of the finished searches."""
    space: str = "mobile-large-small"
    """A space that holds bad operations and is too large to be listed."""
    runs: int = 5
    """Searches per algorithm, seeds 0, 1, …"""
    population: int = 24
    """Architectures per iteration."""
    iterations: int = 8
    """Iterations, the random first one included."""
    share: float = 0.5
    """The bound on multiply-adds, of the way from the smallest to the largest network."""
    epochs: int = 12
    """Epochs of the supernet."""
    train: int = 10_000
    """Training images, stratified."""
    search_images: int = 3_000
    """Images that one-shot accuracies are taken on (PAD-NAS: 50,000)."""
    held: float = 0.3
    """Share of the training part that these are taken from."""
    augment: bool = False
    """Augment the training images, as the papers do."""
    workers: int = machine.cores()
    """Threads that score architectures in parallel."""
    lut: Path | None = None
    """A latency table of the space: the bound is on latency then."""
    lat_min: float = 0.0
    """Lower end of its window in ms."""
    lat_max: float = 0.0
    """Upper end of its window in ms, with --lut."""
    batch_size: int = 64
    """Images per step of the supernet."""
    lr: float = 0.08
    """Peak learning rate of the supernet."""


@dataclass(frozen=True)
class Args(Searches):
    output: Path = Path("docs/results/evolution.json")
    """The results."""
    table: Path | None = None
    """The truth table, for the exact regret; docs/results/truth_table.json where there is one."""
    threshold: float = pad_nas.PAPER_THRESHOLD
    """Threshold of the operation distribution's sparsity."""


def run(args: Args) -> None:
    clock = _common.Clock(args.run, "evolution")
    if args.quick:
        args = dataclasses.replace(args, runs=2, population=6, iterations=2, epochs=1)
    data = images(args)
    space = spaces.get(args.space, data.channels, data.size, data.classes)
    path = args.table or args.output.parent / "truth_table.json"
    known = None
    if args.table or (path.exists() and not args.quick):  # a quick table is not whole
        known = files.read_json(path, "truth table", "run python -m experiments.truth_table")
    found = {"one_shot": on_supernet(args, space, data)}
    if known is not None:
        found["regret"] = on_table(args, known, path, data)
    finish(args, _common.results("evolution", args, clock, **found))


def images(args: Searches) -> TrainVal:
    """Training images, and those of the one-shot accuracies."""
    cut = dataclasses.replace(_common.images_of(args), held=args.held)
    return _common.open_images(
        cut if args.quick else dataclasses.replace(cut, search=args.search_images), args.decoders
    )[0]


def supernet_of(args: Searches, space: Space, data: TrainVal) -> tuple[Path, Supernet]:
    """The supernet of ``space``, trained here or found finished."""
    usual = {field.name: field.default for field in dataclasses.fields(Searches)}
    given = {name: getattr(args, name) for name in ("search_images", "held", "augment")}
    other = "".join(f"-{name}-{value}" for name, value in given.items() if value != usual[name])
    folder = args.run / f"evolution-{space.name}-{space.size}{args.marked}{other}"
    device = defaults.device(args.device)
    fit = FitConfig(args.epochs, args.batch_size, args.lr, augment=args.augment)
    cfg = spos.Config(fit, kernels=defaults.kernels(device), probes=0)
    return folder, spos.run(space, data, cfg, folder, device, shown(not args.quiet))


def on_supernet(args: Args, space: Space, data) -> dict:
    """Every algorithm on the supernet, ``runs`` times."""
    unit, cost, bounds = problem(args, space)
    folder, model = supernet_of(args, space, data)
    scoring = Scoring(recalibration=(4, 128), executor=Threads(args.workers))
    evaluator, scored_with = scoring.evaluator(model, data), scoring.identity(RunFolder(folder).identity)
    rows = {}
    for name, algorithm in ALGORITHMS.items():
        cells = []
        for seed in range(args.runs):
            budget = algorithm.settings(population=args.population, iterations=args.iterations, seed=seed)

            def search(budget=budget, algorithm=algorithm, name=name, seed=seed) -> dict:
                found = algorithm(space, {unit: cost}, {unit: bounds}, [unit], budget)
                # The evaluator's memory is shared: an algorithm gets no score that another would not get.
                SearchRun(folder / f"{name}-{seed}", found, evaluator, scored_with).run(progress=shown(not args.quiet))
                p = distribution.estimate(space, counted(name, found))
                return {"budget": dataclasses.asdict(budget), "history": found.history, "distribution": p}

            window = f"{args.share:g}" if args.lut is None else f"{bounds[0]:g}-{bounds[1]:g}ms"
            path = folder / f"{name}-{seed}-{args.population}x{args.iterations}-{window}-own.json"
            cells.append(_common.cell(path, search))
        rows[name] = summarise(space, cells, args.threshold)
    return rows


def problem(args: Searches, space: Space) -> tuple[str, TableCost, tuple[float, float]]:
    """The cost by its name, and its window.

    Raises:
        UserError: fewer than two searches, a space without layers, no window, one that no network is in.
    """
    if args.runs < 2:
        raise UserError(f"--runs {args.runs}: expected two or more, as it is told how searches vary")
    families.require_layers(space)
    if args.lut is not None and args.lat_max <= args.lat_min:
        raise UserError(f"the window is {args.lat_min:g} to {args.lat_max:g} ms: expected --lat-min below --lat-max")
    return bounded(space, args.share, args.lut, (args.lat_min, args.lat_max))


def counted(name: str, search: Search) -> list[Arch]:
    """The architectures whose operations are counted, by the algorithm's own rule.

    Of PAD-NAS those up to a nondomination rank; SPOS's evolution discards all but its last population, P_T of its
    Algorithm 1.
    """
    records = search.records()
    if name == "spos":
        last = max(record.generation for record in records)
        return [record.arch for record in records if record.generation == last]
    return [record.arch for record in records if name == "random" or record.rank <= RANK]


def summarise(space: Space, cells: Sequence[dict], threshold: float) -> dict:
    last = [cell["history"][-1] for cell in cells]
    open_ = [[cell["distribution"][j][i] for j, layer in enumerate(space.allowed) for i in layer] for cell in cells]
    choices, p = space.genes[-1].choices, np.array([cell["distribution"][-1] for cell in cells])
    own = space.allowed[-1]
    return {
        "evaluated": [entry["evaluated"] for entry in last],
        "best_accuracy": [entry["best_accuracy"] for entry in last],
        "hypervolume": [entry["hypervolume"] for entry in last],
        "history": [[[entry["evaluated"], entry["best_accuracy"]] for entry in cell["history"]] for cell in cells],
        "variance_of_distribution": float(np.var(open_, axis=0, ddof=1).mean()),
        "sparsity": [distribution.sparsity(space, cell["distribution"], threshold) for cell in cells],
        "last_layer": {choices[i].name: p[:, i].tolist() for i in own},
        "last_layer_variance": float(np.var(p[:, own], axis=0, ddof=1).mean()),
        "last_layer_sparsity": (p[:, own] <= threshold).mean(axis=1).tolist(),
    }


def on_table(args: Args, known: dict, path: Path, data) -> dict:
    """Regret in accuracy on the networks of ``path``'s table: by one-shot accuracy, and by half of its seeds."""
    space = Space.from_json(known["space"], str(path))
    archs = [tuple(arch) for arch in known["archs"]]
    if set(archs) != set(space.enumerate()) or len(known["accuracies"][0]) < 2:
        raise UserError(f"{path} is not a whole table with two seeds or more; run python -m experiments.truth_table")
    accuracies = np.array(known["accuracies"])
    _, model = supernet_of(args, space, data)
    evaluator = Scoring(recalibration=(4, 128), executor=Threads(args.workers)).evaluator(model, data)
    half = accuracies.shape[1] // 2
    rows: dict[str, dict] = {}
    for mine, judging in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        seen = dict(zip(archs, accuracies[:, mine].mean(axis=1), strict=True))
        truth = dict(zip(archs, accuracies[:, judging].mean(axis=1), strict=True))
        sources: dict[str, Callable[[Sequence[Arch]], list[float]]] = {
            "one-shot": evaluator,
            "table": lambda asked, seen=seen: [seen[arch] for arch in asked],
        }
        for source, score in sources.items():
            for name, algorithm in ALGORITHMS.items():
                for seed in range(args.runs):
                    budget = algorithm.settings(population=6, iterations=4, seed=seed)
                    regret = search_table(algorithm, budget, space, score, truth)
                    rows.setdefault(f"{source}, {name}", {"regret": []})["regret"].append(regret)
        everything = {"one-shot": dict(zip(archs, evaluator(archs), strict=True)), "table": seen}
        for source, scores in everything.items():
            best = max(scores, key=scores.__getitem__)
            regret = max(truth.values()) - truth[best]
            rows.setdefault(f"{source}, all 64", {"regret": []})["regret"].append(regret)
        chance = max(truth.values()) - float(np.mean(list(truth.values())))
        rows.setdefault("a random network", {"regret": []})["regret"].append(chance)
    return rows


def search_table(
    algorithm: type[Search],
    budget: Budget,
    space: Space,
    score: Callable[[Sequence[Arch]], list[float]],
    truth: dict[Arch, float],
) -> float:
    """How much worse the network that a search selects is than the best one."""
    flops = additive(space, lambda spec: spec.flops)
    search = algorithm(space, {"flops": flops}, {}, ["flops"], budget)
    while not search.done:
        archs = search.ask()
        search.tell(archs, score(archs))
    selected = max(search.records(), key=lambda record: record.accuracy).arch
    return max(truth.values()) - truth[selected]


def finish(args: Args, result: dict) -> None:
    runs = result["settings"]["runs"]
    tables = {f"one supernet, {runs} searches each, equal evaluations": {}}
    for name, row in result["one_shot"].items():
        volume, spread = np.mean(row["hypervolume"]), np.std(row["hypervolume"], ddof=1)
        tables[next(iter(tables))][name] = {
            "evaluations": str(max(row["evaluated"])),
            "best one-shot %": _report.mean_sd(row["best_accuracy"], 100),
            "hypervolume": f"{digits(volume, 4)} ± {digits(spread, 2)}",
            "variance of p": f"{row['variance_of_distribution']:.4f}",
            "sparsity": _report.mean_sd(row["sparsity"]),
        }
    if all("last_layer" in row for row in result["one_shot"].values()):
        tables["operations of the last layer, %"] = {
            name: {op: _report.mean_sd(p, 100) for op, p in row["last_layer"].items()}
            | {"variance": f"{row['last_layer_variance']:.4f}", "sparsity": _report.mean_sd(row["last_layer_sparsity"])}
            for name, row in result["one_shot"].items()
        }
    if "regret" in result:
        tables["regret on the truth table, 24 evaluations of 64 networks"] = {
            name: {"points": _report.mean_sd(row["regret"], 100)} for name, row in result["regret"].items()
        }
    _report.report(args.output, result, tables, draw)
    if "operations of the last layer, %" in tables:
        _report.picture(args.output.with_name(f"{args.output.stem}_last_layer.png"), result, last_layer)


def draw(figure: Figure, result: dict) -> None:
    """The best accuracy as the evaluations go on; the regret of every search."""
    left, right = figure.subplots(1, 2)
    for name, row in result["one_shot"].items():
        runs = np.array([run[: min(map(len, row["history"]))] for run in row["history"]])
        left.plot(runs[0, :, 0], 100 * runs[:, :, 1].mean(axis=0), marker="o", markersize=3, label=name)
    left.set(xlabel="evaluations", ylabel="best one-shot accuracy (%)", title="mean of the searches")
    left.legend(fontsize=8)
    left.grid(alpha=0.2)
    if "regret" not in result:
        right.set_axis_off()
        return
    names = list(result["regret"])
    for place, row in enumerate(result["regret"].values()):
        regret = 100 * np.array(row["regret"])
        right.plot(regret, [place] * len(regret), "o", markersize=4, alpha=0.4, color="tab:blue", markeredgewidth=0)
        right.plot(regret.mean(), place, "|", markersize=16, color="tab:orange", markeredgewidth=2)
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="regret (points); the bar is the mean", title="against the best of the truth table")
    right.grid(alpha=0.2)


def last_layer(figure: Figure, result: dict) -> None:
    """Operations of the last layer, mean and standard deviation of the searches (Figure 7)."""
    rows = result["one_shot"]
    axes = figure.subplots(1, len(rows), sharey=True)
    for one, (name, found) in zip(axes, rows.items(), strict=True):
        row = found["last_layer"]
        p = 100 * np.array(list(row.values()))
        one.bar(range(len(row)), p.mean(axis=1), yerr=p.std(axis=1, ddof=1), color="tab:blue", ecolor="0.3", capsize=2)
        one.set_xticks(range(len(row)), list(row), rotation=90, fontsize=7)
        one.set_title(name, fontsize=8)
    axes[0].set_ylabel("operations of the last layer (%)")


if __name__ == "__main__":
    _common.main(run, Args, finish)
