"""PAD-NAS's claims on real images: does pruning make the supernet rank better, and the space better?

Per supernet seed, with the same number of training steps in all: the I-supernet (no pruning), the P-supernet (one),
the PAD-supernet (two), one that prunes only what it is sure of (``search.pad_nas.prune``), and two controls pruned to
the sizes of PAD's spaces: at random, and down to the largest operations. Kendall's τ between one-shot accuracy and
networks trained alone is taken

- on one common set of random networks inside PAD's final space, which I, P and PAD all hold, with paired intervals;
- on each supernet's own front (Table 8, Figure 6), and for the controls on random networks of their own space;
- beside the ceiling (one training seed of the truth against the others) and τ of multiply-adds alone.

Random networks of each space (Table 7) keep to the window that the searches keep to: multiply-adds, or the latency of
``--lut``. In the small space I and PAD alone are compared, by their fronts and random networks (Table 6, Figure 5).
Networks with the same operation in every layer stand for those that are made by hand (Table 3).
The common set is trained alone with every truth seed, all others with the first. Three disjoint sets of images: for
training, for one-shot accuracies, for the truth. Every finished cell is kept, and the results are written after each
supernet seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _common, _pad_nas_report
from experiments._pad_nas import Options, Study, at_random, curve, evaluator, keep_largest, told, uniform
from search import pad_nas, ranking
from supernet import families, spaces
from supernet.errors import UserError
from supernet.space import Arch

SURE = "PAD, if sure"


@dataclass(frozen=True)
class Args(Options):
    output: Path = Path("docs/results/pad_nas.json")
    """The results."""
    space: str = "mobile-large-small"
    """A space that holds bad operations."""
    small: str = "mobile-small"
    """A smaller space, to compare with (the paper: mobile-large and mobile); empty: none."""
    truth_seeds: int = 2
    """Trainings of each network alone; two or more give the ceiling."""
    n: int = 32
    """Networks of the common set."""
    random: int = 10
    """Random networks of each space to train alone; those of PAD's are of the common set."""
    front: int = 30
    """Networks of each front to train alone at most, evenly spaced."""
    epochs: tuple[int, ...] = (12, 8, 4)
    """Epochs of the PAD-supernet's stages; the others have as many in all."""
    sure: float = 0.95
    """Share of redrawn fronts in which an operation has to be rare, where only those go that surely are."""
    probes: int = 3
    """Random networks of each supernet, scored after each epoch, for the curves."""
    lut: tuple[Path, ...] = ()
    """Latency tables of the space and of the small one: windows and costs are latencies then."""
    lat_min: tuple[float, ...] = ()
    """Lower ends of their windows in ms (the paper: 50 60)."""
    lat_max: tuple[float, ...] = ()
    """Upper ends of their windows in ms (the paper: 100 70)."""
    at: float | None = None
    """Cost at which spaces are compared: random networks and the best of the fronts cost at most this, in ms with
    --lut, in multiply-adds without (the paper: 69 ms). Defaults to the ends of the windows."""


def run(args: Args) -> None:
    if len(args.epochs) != 3:
        raise UserError(f"--epochs {args.epochs}: expected those of three stages; pad_nas_stages compares their number")
    small: dict[str, Any] = {}
    if args.quick:
        small = {"seeds": 1, "n": 4, "random": 3, "epochs": (1, 1, 1), "alone": 1, "population": 6, "iterations": 2}
        small |= {"threshold": 0.2, "front": 4, "probes": 1}
    args = args.settled(**small)
    clock = _common.Clock(args.run, args.output.stem)
    large = study(args, args.space, 0)
    small_study = study(args, args.small, 1) if args.small else None
    seeds: list[dict] = []
    smaller: list[dict] = []
    for seed in range(args.seeds):
        seeds.append(Seed(args, large, seed).whole())
        if small_study is not None:
            smaller.append(Seed(args, small_study, seed).small())
        found = {"unit": large.unit, "space": large.space.to_json(), "seeds": seeds, "small": smaller}
        _pad_nas_report.finish(args, _common.results("pad_nas", args, clock, **found))


def study(args: Args, name: str, place: int) -> Study:
    """A space with its images and its window."""
    opened, _ = _common.open_images(args.images, args.decoders)
    space = spaces.get(name, opened.channels, opened.size, opened.classes)
    if not args.lut:
        return Study(args, space, opened, at=args.at)
    ends = [given[place] if place < len(given) else None for given in (args.lat_min, args.lat_max)]
    if place >= len(args.lut) or None in ends:
        raise UserError(
            f"space {name} has no table or no window: expected --lut, --lat-min and --lat-max for each space"
        )
    return Study(args, space, opened, args.lut[place], (float(ends[0]), float(ends[1])), args.at)


class Seed:
    """Everything for one supernet seed of a space."""

    def __init__(self, args: Args, study: Study, seed: int):
        self.args, self.study, self.seed, self.space = args, study, seed, study.space
        self.folder = args.run / f"pad_nas-{Path(args.data).stem}-{study.space.name}-{seed}{args.marked}"
        self.stages: dict[str, list[pad_nas.Stage]] = {}  # of what is searched
        self.evaluators: dict[str, Callable[[Sequence[Arch]], list[float]]] = {}

    def searched(self, name: str, epochs: tuple[int, ...], start: str = "", **how: Any) -> list[pad_nas.Stage]:
        """An arm of Algorithm 1; ``start`` is the arm whose first stage it shares."""
        folder = self.folder / name.replace(", ", "-").replace(" ", "-")
        cfg = self.study.config(epochs, self.seed, **how)
        self.stages[name] = stages = self.study.train(folder, cfg, self.folder / start if start else None)
        self.evaluators[name] = stages[-1].found.evaluator
        return stages

    def whole(self) -> dict[str, Any]:
        """All arms."""
        args, seed = self.args, self.seed
        first, second, third = args.epochs
        pad = self.searched("PAD", args.epochs)
        self.searched("P", (first, second + third), "PAD")
        self.searched("I", (sum(args.epochs),))
        self.searched(SURE, args.epochs, "PAD", sure=args.sure)
        nested = [stage.space for stage in pad]
        random = at_random(nested, seed, self.study.reaches)
        controls = {"random pruning": random, "keep the largest": keep_largest(nested)}
        for name, of in controls.items():
            how = self.study.config(args.epochs, seed), self.folder / name.replace(" ", "-"), self.folder / "PAD"
            self.evaluators[name] = evaluator(self.study, self.study.pruned_alike(of, *how))
        inside = {name: stages[-1].space for name, stages in self.stages.items()}
        inside = {name: inside[name] for name in ("I", "P", "PAD", SURE)}
        inside |= {name: of[-1] for name, of in controls.items()}

        common = self.study.draw(inside["PAD"], args.n, [seed, 1])
        keys = {"I": [2], "P": [seed, 2], SURE: [seed, 6], **{name: [seed, 3] for name in controls}}
        drawn = {name: self.study.draw(inside[name], args.random, key) for name, key in keys.items()}
        drawn["PAD"] = common[: args.random]
        trained = self.study.truth(common, range(args.truth_seeds), f"common set, seed {seed}")
        known = ("I", "P", "PAD")  # in these all of the common set is open
        return {**self.fronts_and_random(drawn), **self.common(common, trained, known), "space_size": sizes(inside)}

    def small(self) -> dict[str, Any]:
        """I and PAD, by their fronts and by random networks."""
        self.searched("PAD", self.args.epochs)
        self.searched("I", (sum(self.args.epochs),))
        inside = {name: self.stages[name][-1].space for name in ("I", "PAD")}
        keys = {"I": [2], "PAD": [self.seed, 1]}
        drawn = {name: self.study.draw(space, self.args.random, keys[name]) for name, space in inside.items()}
        return {**self.fronts_and_random(drawn), "space_size": sizes(inside)}

    def fronts_and_random(self, drawn: Mapping[str, list[Arch]]) -> dict[str, Any]:
        """Networks of each front and random ones, one-shot and alone; what it took; the curves."""
        unit, hand = self.study.unit, uniform(self.space)
        whole = {name: stages[-1].found.front() for name, stages in self.stages.items()}
        best = {name: told(self.study.best(front), unit) for name, front in whole.items()}
        fronts = {
            name: [told(record, unit) for record in pad_nas.along(front, self.args.front)]
            for name, front in whole.items()
        }
        on_fronts = [tuple(network["arch"]) for front in (*fronts.values(), best.values()) for network in front]
        wanted = list(dict.fromkeys([*on_fronts, *(a for archs in drawn.values() for a in archs), *hand.values()]))
        accuracies = self.study.truth(wanted, range(1), f"alone, seed {self.seed}")[:, 0]
        known = dict(zip(wanted, map(float, accuracies), strict=True))
        for network in (network for front in (*fronts.values(), best.values()) for network in front):
            network["alone"] = known[tuple(network["arch"])]

        def alone(archs: Sequence[Arch]) -> list[float]:
            return [known[arch] for arch in archs]

        costs = {name: self.study.cost(arch) for name, arch in hand.items()}
        return {
            "seed": self.seed,
            "bounds": list(self.study.bounds),
            "own_front": {
                name: tau([n["one_shot"] for n in front], [n["alone"] for n in front]) for name, front in fronts.items()
            },
            "own_random": {name: tau(self.scores(name, archs), alone(archs)) for name, archs in drawn.items()},
            "random_networks_alone": {name: alone(archs) for name, archs in drawn.items()},
            "random_networks_one_shot": {name: self.scores(name, archs) for name, archs in drawn.items()},
            "best_of_front_alone": {name: network["alone"] for name, network in best.items()},
            "best_of_front_one_shot": {name: network["one_shot"] for name, network in best.items()},
            "pruning": {name: [stage.space.size for stage in self.stages[name]] for name in self.stages if name != "I"},
            "fronts": fronts,
            "by_hand": {name: {"cost": costs[name], "alone": known[arch]} for name, arch in hand.items()},
            "curves": {name: curve(stage.folder for stage in stages) for name, stages in self.stages.items()},
            "operations": {name: [stage.operations for stage in stages] for name, stages in self.stages.items()},
            "minutes": {name: self.minutes(name, best[name]) for name in ("I", "PAD")},
        }

    def scores(self, name: str, archs: Sequence[Arch]) -> list[float]:
        """One-shot accuracies by an arm's last supernet."""
        return self.evaluators[name](archs) if archs else []

    def minutes(self, name: str, best: Mapping[str, Any]) -> dict[str, float]:
        """What each part took by the clock (Table 9)."""
        stages = self.stages[name]
        parts = {step: sum(stage.seconds[step] for stage in stages) for step in ("training", "search")}
        retrained = self.args.seconds(self.space, self.study.data, tuple(best["arch"]), 0, self.folder / f"{name}-best")
        return {part: seconds / 60 for part, seconds in {**parts, "retraining": retrained}.items()}

    def common(self, archs: Sequence[Arch], trained: np.ndarray, known: Sequence[str]) -> dict[str, Any]:
        """How the supernets that hold the common set rank it; ``trained`` are its accuracies [networks, seeds]."""
        true, flops = trained.mean(axis=1), np.array([families.flops(self.space, arch) for arch in archs], float)
        scores = {name: self.evaluators[name](archs) for name in known}
        rows = {name: asdict(ranking.rank(scores[name], true)) for name in known}
        rows["multiply-adds"] = {**asdict(ranking.rank(flops, true)), "gap": None}
        if trained.shape[1] > 1:
            rows["ceiling"] = asdict(ranking.rank(trained[:, 0], trained[:, 1:].mean(axis=1)))
        left = ranking.residuals(true, flops)
        pairs = (("I", "P"), ("P", "PAD"), ("I", "PAD"))
        return {
            "common_set": rows,
            "common_set_beyond_multiply_adds": {
                name: asdict(ranking.rank(ranking.residuals(scores[name], flops), left)) for name in known
            },
            "paired_difference_of_tau": {
                f"{b} − {a}": ranking.paired_difference(scores[a], scores[b], true) for a, b in pairs
            },
        }


def sizes(inside: Mapping[str, Any]) -> dict[str, int]:
    return {name: space.size for name, space in inside.items()}


def tau(one_shot: Sequence[float], alone: Sequence[float]) -> dict | None:
    """τ on a supernet's own networks; None for fewer than three."""
    return asdict(ranking.rank(one_shot, alone)) if len(alone) >= 3 else None


if __name__ == "__main__":
    _common.main(run, Args, _pad_nas_report.finish)
