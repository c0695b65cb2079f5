"""PAD-NAS's claims on real images: does pruning make the supernet rank better, and the space better?

Per supernet seed, with the same number of training steps in all: the I-supernet (no pruning), the P-supernet (one),
the PAD-supernet (two), and two controls pruned to the sizes of PAD's spaces: at random, and down to the largest
operations. Kendall's τ between one-shot accuracy and networks trained alone is taken

- on one common set of random networks inside PAD's final space, which I, P and PAD all hold, with paired intervals;
- on each supernet's own front, and for the controls on random networks of their own space;
- beside the ceiling (one training seed of the truth against the others) and τ of multiply-adds alone.

Random networks of PAD's space, of the controls' and of the full space, trained alone, tell what the spaces are worth.
The common set is trained alone with every truth seed, all others with the first. Three disjoint sets of images: for
training, for one-shot accuracies, for the truth. Every finished cell is kept, and the results are written after each
supernet seed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments import _common
from search import pad_nas, ranking
from search.ces import CESConfig
from search.costs import AdditiveCost
from search.run import Scoring
from supernet import families, files, machine, spaces
from supernet.data.sets import TrainVal
from supernet.executor import Threads
from supernet.methods import spos
from supernet.model import Supernet
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.loop import FitConfig

SHARE = 0.6  # the bound on multiply-adds, of the way from the smallest to the largest network


@dataclass(frozen=True)
class Args(_common.OnImages, _common.OnDevice):
    run: Path = Path("runs/experiments")
    """Folder of finished cells and trainings; truth.jsonl is shared by the experiments."""
    output: Path = Path("docs/results/pad_nas.json")
    """The results."""
    space: str = "mobile-large-small"
    """A space that holds bad operations."""
    seeds: int = 3
    """Supernet seeds."""
    truth_seeds: int = 2
    """Trainings of each network alone; two or more give the ceiling."""
    n: int = 32
    """Networks of the common set."""
    random: int = 10
    """Random networks of each space to train alone; those of PAD's are of the common set."""
    front: int = 8
    """Networks of each front to train alone at most, evenly spaced."""
    epochs: tuple[int, int, int] = (12, 8, 4)
    """Epochs of the PAD-supernet's stages; the others have as many in all."""
    alone: int = 3
    """Passes over the training images, for a network alone."""
    train: int = 4_000
    """Training images, stratified."""
    population: int = 24
    """Architectures per iteration of CES."""
    iterations: int = 8
    """Iterations of CES."""
    threshold: float = 0.07
    """Operations of at most this probability are removed; the paper's .01 is for a population of 2,560."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""
    quick: bool = False
    """A tiny run: shows that it works, tells nothing."""


def run(args: Args) -> None:
    if args.redraw:
        finish(args, files.read_json(args.output, "results", "run it without --redraw"))
        return
    clock = _common.Clock(args.run, "pad_nas")
    images = _common.Images(args.data, str(args.data_root), args.train, search=2_000, truth=6_000)
    if args.quick:
        images = _common.Images(args.data, str(args.data_root), 320, 200, 300)
        small = {"seeds": 1, "n": 4, "random": 3, "epochs": (1, 1, 1), "alone": 1, "population": 6, "iterations": 2}
        args = dataclasses.replace(args, **small, threshold=0.2)
    opened, _ = _common.open_images(images)
    space = spaces.get(args.space, opened.channels, opened.size, opened.classes)
    truth = _common.Truth(args.run, space, _common.Budget(images, args.alone), args.jobs, args.quiet, args.device)
    seeds: list[dict] = []
    for seed in range(args.seeds):
        seeds.append(one_seed(args, seed, space, opened, truth))
        finish(args, _common.results("pad_nas", args, clock, seeds=seeds))


def one_seed(args: Args, seed: int, space: Space, data: TrainVal, truth: _common.Truth) -> dict:
    """Everything for one supernet seed."""
    folder = args.run / f"pad_nas-{space.name}-{seed}{args.marked}"
    first, second, third = args.epochs
    pad = train(args, space, data, folder / "PAD", (first, second, third), seed)
    p = train(args, space, data, folder / "P", (first, second + third), seed, start=folder / "PAD")
    i = train(args, space, data, folder / "I", (first + second + third,), seed)
    final = pad[-1].space
    stages = [stage.space for stage in pad]
    controls = {
        "random pruning": at_random(stages, seed),
        "keep the largest": keep_largest(stages),
    }

    found = {"I": i[-1], "P": p[-1], "PAD": pad[-1]}
    evaluators = {name: stage.found.evaluator for name, stage in found.items()}
    for name, nested in controls.items():
        model = pruned_alike(args, nested, data, folder / name.replace(" ", "-"), seed, folder / "PAD")
        evaluators[name] = scoring(args).evaluator(model, data)
    inside = {"I": space, "P": p[-1].space, "PAD": final} | {name: nested[-1] for name, nested in controls.items()}

    # The truth: each network alone. What is listed twice is trained once; the full space's are those of every seed.
    common = draw(final, args.n, [seed, 1])
    fronts = {name: spaced(stage, args.front) for name, stage in found.items()}
    keys = {"I": [2], "P": [seed, 2], **{name: [seed, 3] for name in controls}}
    drawn = {name: draw(inside[name], args.random, key) for name, key in keys.items()} | {"PAD": common[: args.random]}
    others = list(dict.fromkeys(arch for archs in (*fronts.values(), *drawn.values()) for arch in archs))
    trained = truth(common, range(args.truth_seeds), f"common set, seed {seed}")
    first = dict(zip(others, truth(others, range(1), f"alone, seed {seed}")[:, 0], strict=True))

    def alone(archs: Sequence[Arch]) -> np.ndarray:
        return np.array([first[arch] for arch in archs])

    true, flops = trained.mean(axis=1), np.array([families.flops(space, arch) for arch in common], float)
    scores = {name: evaluators[name](common) for name in found}
    rows = {name: dataclasses.asdict(ranking.rank(scores[name], true)) for name in found}
    rows["multiply-adds"] = {**dataclasses.asdict(ranking.rank(flops, true)), "gap": None}
    if args.truth_seeds > 1:
        rows["ceiling"] = dataclasses.asdict(ranking.rank(trained[:, 0], trained[:, 1:].mean(axis=1)))
    left = ranking.residuals(true, flops)
    beyond = {name: dataclasses.asdict(ranking.rank(ranking.residuals(scores[name], flops), left)) for name in found}
    own = {name: own_tau(evaluators[name], archs, alone(archs)) for name, archs in fronts.items()}
    own_random = {name: own_tau(evaluators[name], archs, alone(archs)) for name, archs in drawn.items()}
    pairs = {
        f"{b} − {a}": ranking.paired_difference(scores[a], scores[b], true)
        for a, b in (("I", "P"), ("P", "PAD"), ("I", "PAD"))
    }
    return {
        "seed": seed,
        "space_size": {name: within.size for name, within in inside.items()},
        "common_set": rows,
        "common_set_beyond_multiply_adds": beyond,
        "paired_difference_of_tau": pairs,
        "own_front": own,
        "own_random": own_random,
        "random_networks_alone": {name: alone(drawn[name]).tolist() for name in inside},
        "random_networks_one_shot": {name: evaluators[name](drawn[name]) for name in inside},
        "best_of_front_alone": {name: float(alone(archs)[-1]) for name, archs in fronts.items()},
        "pruning": {name: [stage.space.size for stage in stages] for name, stages in (("P", p), ("PAD", pad))},
    }


def spaced(stage: pad_nas.Stage, n: int) -> list[Arch]:
    """At most n networks of a front, evenly spaced, its cheapest and its most accurate among them."""
    front = [record.arch for record in stage.found.search.front()]
    places = np.unique(np.linspace(0, len(front) - 1, min(n, len(front))).round().astype(int))
    return [front[i] for i in places]


def scoring(args: Args) -> Scoring:
    return Scoring(recalibration=(4, 128), executor=Threads(args.jobs))


def train(
    args: Args,
    space: Space,
    data: TrainVal,
    folder: Path,
    epochs: tuple[int, ...],
    seed: int,
    start: Path | None = None,
) -> list[pad_nas.Stage]:
    """PAD-NAS with one stage per entry of ``epochs``; ``start`` has the same first stage already."""
    if start is not None and not folder.exists():
        shutil.copytree(start / "supernet-1", folder.with_name(f"{folder.name}.copy") / "supernet-1")
        folder.with_name(f"{folder.name}.copy").rename(folder)
    flops = AdditiveCost(*families.layout(space).priced(lambda spec: spec.flops))
    low, high = flops.bounds(space)
    cfg = pad_nas.Config(
        FitConfig(1, seed=seed, augment=False),
        epochs,
        lr=0.08,
        fine_tune_lr=0.016,
        threshold=args.threshold,
        ces=CESConfig(args.population, args.iterations, seed=seed),
        scoring=scoring(args),
        random=0,
        probes=0,
    )
    bounds = {"flops": (0.0, low + SHARE * (high - low))}
    where = folder, defaults.device(args.device)
    return list(pad_nas.run(space, data, cfg, {"flops": flops}, bounds, ["flops"], *where, {}, shown(not args.quiet)))


def at_random(stages: Sequence[Space], seed: int) -> list[Space]:
    """Spaces that keep as many operations in every layer as ``stages``, drawn at random, each inside the last."""
    rng = np.random.default_rng([seed, 4])
    nested = [stages[0]]
    for stage in stages[1:]:
        sizes = map(len, stage.allowed)
        keep = [rng.choice(open_, size, replace=False) for open_, size in zip(nested[-1].allowed, sizes, strict=True)]
        nested.append(nested[-1].restrict([set(layer.tolist()) for layer in keep]))
    return nested


def keep_largest(stages: Sequence[Space]) -> list[Space]:
    """Spaces that keep as many operations in every layer as ``stages``, those with the most multiply-adds."""
    flops = families.layout(stages[0]).priced(lambda spec: spec.flops).table
    nested = []
    for stage in stages:
        ordered = [sorted(open_, key=lambda i: -row[i]) for open_, row in zip(stages[0].allowed, flops, strict=True)]
        keep = [set(layer[: len(open_)]) for layer, open_ in zip(ordered, stage.allowed, strict=True)]
        nested.append(stages[0].restrict(keep))
    return nested


def pruned_alike(args: Args, nested: Sequence[Space], data: TrainVal, folder: Path, seed: int, pad: Path) -> Supernet:
    """A supernet trained as PAD's, on other spaces; its first stage is PAD's own."""
    model = None
    for number, (space, epochs) in enumerate(zip(nested, args.epochs, strict=True), start=1):
        here = pad / "supernet-1" if number == 1 else folder / f"supernet-{number}"
        fit = FitConfig(epochs, lr=0.08 if number == 1 else 0.016, seed=seed, augment=False)
        how = spos.Config(fit, probes=0), here, defaults.device(args.device), shown(not args.quiet)
        model = spos.run(space, data, *how, inherit=model)
    return model


def draw(space: Space, n: int, key: Sequence[int]) -> list[Arch]:
    """Up to n distinct random networks."""
    rng = np.random.default_rng(key)
    if space.size <= 4096:
        archs = space.enumerate()
        return [archs[i] for i in rng.permutation(len(archs))[:n]]
    return list(dict.fromkeys(space.sample(rng) for _ in range(20 * n)))[:n]


def own_tau(evaluator, archs: Sequence[Arch], alone: np.ndarray) -> dict | None:
    """τ on a supernet's own networks; None for fewer than three."""
    if len(archs) < 3:
        return None
    return dataclasses.asdict(ranking.rank(evaluator(archs), alone))


def finish(args: Args, result: dict) -> None:
    """Tables of means and standard deviations over the supernet seeds; what there is of one seed stands alone."""
    seeds = result["seeds"]

    def mean_of(values: Sequence[float | None]) -> str:
        known = [value for value in values if value is not None]
        return _common.mean_sd(known) if known else ""

    def tau(part: str, name: str) -> str:
        rows = [seed[part].get(name) for seed in seeds]
        return mean_of([row["tau"] for row in rows if row is not None])

    def percent(part: str, name: str) -> str:
        """Means over the networks of each seed; the full space has the same ones in every seed, so no spread."""
        values = [float(np.mean(seed[part][name])) for seed in seeds if name in seed[part]]
        same = len(values) > 1 and len({repr(seed[part][name]) for seed in seeds}) == 1
        return _common.mean_sd(values[:1] if same else values, 100) if values else ""

    def gap(name: str) -> str:
        return _common.mean_sd([seed["common_set"][name]["gap"] for seed in seeds], 100) if name in ranked_too else ""

    ranked_too = [name for name, row in seeds[0]["common_set"].items() if row["gap"] is not None and name != "ceiling"]

    spaces_ = list(seeds[0]["space_size"])
    ranked = {"common set": "common_set", "beyond multiply-adds": "common_set_beyond_multiply_adds"}
    ranked |= {"own front": "own_front", "own random networks": "own_random"}
    tables = {
        "Kendall's τ, one-shot against alone": {
            name: {column: tau(part, name) for column, part in ranked.items()}
            for name in (*spaces_, "multiply-adds", "ceiling")
        },
        "paired difference of τ on the common set, 95 % interval": {
            pair: {
                **{f"seed {seed['seed']}": ranking.show(*seed["paired_difference_of_tau"][pair]) for seed in seeds},
                "mean ± SD of the seeds": mean_of([seed["paired_difference_of_tau"][pair][0] for seed in seeds]),
            }
            for pair in seeds[0]["paired_difference_of_tau"]
        },
        "the spaces": {
            name: {
                "networks, per seed": ", ".join(f"{seed['space_size'][name]:,}" for seed in seeds),
                "random networks alone, %": percent("random_networks_alone", name),
                "alone minus one-shot on the common set, points": gap(name),
                "one-shot, %": percent("random_networks_one_shot", name),
                "most accurate of the front alone, %": percent("best_of_front_alone", name),
            }
            for name in spaces_
        },
    }
    _common.report(args.output, result, tables, picture)


def picture(figure: Figure, result: dict) -> None:
    """τ on the common set of every supernet seed; random networks of every space, trained alone."""
    left, right = figure.subplots(1, 2)
    seeds = result["seeds"]
    ranked = list(seeds[0]["common_set"])
    for seed in seeds:
        taus = [seed["common_set"][name]["tau"] for name in ranked]
        left.plot(
            range(len(ranked)), [np.nan if tau is None else tau for tau in taus], "o", label=f"seed {seed['seed']}"
        )
    left.set_xticks(range(len(ranked)), ranked, fontsize=8)
    left.set(ylabel="Kendall's τ", title="common set inside PAD's final space")
    left.legend(fontsize=8)
    names = list(seeds[0]["random_networks_alone"])
    values = [[100 * v for seed in seeds for v in seed["random_networks_alone"][name]] for name in names]
    right.boxplot(values, widths=0.5, medianprops={"color": "tab:orange"}, flierprops={"markersize": 3})
    right.set_xticks(range(1, len(names) + 1), [name.replace(" ", "\n", 1) for name in names], fontsize=8)
    right.set(ylabel="accuracy alone (%)", title="random networks of each space")
    for axes in (left, right):
        axes.grid(alpha=0.2, axis="y")


if __name__ == "__main__":
    _common.main(run, Args)
