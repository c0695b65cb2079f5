"""Elastic supernets: their networks as they are against the same trained alone, and the rules of training at one cost.

Two spaces with the truth known: 48 networks of elastic-small, each trained alone with as many image passes as the
supernet has steps' images, and with three times as many; and the 64 networks of ``truth_table``. Every supernet costs
as many forward passes as sandwich steps (four paths) of ``--epochs`` epochs. Each finished training is kept, so the
command can be stopped and continued.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, truth_table
from search import ranking, spread
from supernet import families, files, machine, spaces
from supernet.data.sets import TrainVal
from supernet.methods import ofa, spos
from supernet.model import Supernet
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.loop import FitConfig, fit
from supernet.training.paths import CANDIDATES

LONGER = ("uniform", "sandwich + distillation")  # rules that are tried with three times the passes, too
SANDWICH = 4  # paths of a step: the largest network, two random ones, the smallest


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/experiments")
    """Folder of the trainings that are finished; shared by the experiments."""
    output: Path = Path("docs/results/elastic.json")
    """The results."""
    networks: int = 48
    """Networks of elastic-small, from small to large."""
    seeds: int = 2
    """Supernets of each rule, and trainings of each network alone: seeds 0, 1, …"""
    epochs: int = 4
    """Passes over the training images in sandwich steps."""
    train: int = 10_000
    """Training images, stratified."""
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Dataset directory."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""
    longer: bool = True
    """Also train alone, and by the rules of LONGER, with three times as many image passes."""
    quick: bool = False
    """Four networks, one epoch on few images: shows that it works, tells nothing."""
    redraw: bool = False
    """Only the tables and the picture again, from the results that are there."""
    quiet: bool = False
    """No progress."""


@dataclass(frozen=True)
class Arm:
    """A way to train a supernet.

    Args:
        options: of ``spos.Config``.
        forwards: passes of a step, those of candidates and of a teacher included.
    """

    name: str
    options: dict[str, Any]
    forwards: int


def arms(space: Space) -> list[Arm]:
    """The rules, and what else belongs to them."""
    sandwich, taught = {"rule": "sandwich"}, {"rule": "sandwich", "distil": "inplace"}
    return [
        Arm("uniform", {}, 1),
        Arm("fair", {"rule": "fair"}, max(map(len, space.allowed))),
        Arm("uniform + distillation", {"distil": "inplace"}, 2),
        Arm("sandwich", sandwich, SANDWICH),
        Arm("sandwich + distillation", taught, SANDWICH),
        Arm("sandwich + α-divergence", {**sandwich, "distil": "alpha"}, SANDWICH),
        Arm("sandwich + distillation, best of 3", {**taught, "draw": "best"}, SANDWICH + 2 * CANDIDATES),
        Arm("sandwich + distillation, worst of 3", {**taught, "draw": "worst"}, SANDWICH + 2 * CANDIDATES),
    ]


def shrinking(epochs: int) -> tuple[tuple[ofa.Phase, ...], int]:
    """Phases of progressive shrinking, and their forward passes in epochs; a teacher's count."""
    lr, _ = LR["elastic-small"]
    rest = {"depth": 99, "expand": 99, "width": 99}
    largest, kernel, last = max(1, 5 * epochs // 4), max(1, epochs // 2), max(1, 3 * epochs // 4)
    phases = (
        ofa.Phase("largest", largest, lr),
        ofa.Phase("kernel", kernel, lr / 3, 1, {"kernel": 99}),
        ofa.Phase("rest", last, lr / 3, 2, rest),
    )
    return phases, largest + 2 * kernel + 3 * last


# Peak rates at batch 64, one path a step and several, whose gradients add up: of .05, .1 and .2 the best for uniform
# and for sandwich + distillation at four epochs, seed 100, by the mean one-shot accuracy.
LR = {"elastic-small": (0.2, 0.2), "mobile-small": (0.1, 0.05)}


@dataclass(frozen=True)
class Study:
    """A space whose networks' truth is known."""

    name: str
    space: Space
    archs: list[Arch]
    images: TrainVal
    judging: Any
    args: Args

    def fit_config(self, forwards: int, seed: int) -> tuple[FitConfig, int]:
        """A training of as many forward passes as sandwich steps of ``epochs`` epochs, and its steps per epoch."""
        full = self.images.train.steps(64, drop_last=True)
        steps = round(self.args.epochs * full * SANDWICH / forwards)
        epochs = max(1, -(-steps // full))
        return FitConfig(
            epochs, 64, LR[self.name][forwards > 1], schedule="cosine", augment=False, seed=seed
        ), steps // epochs

    def supernet(self, arm: Arm, seed: int, folder: Path) -> dict:
        """Train by a rule; the networks' accuracies on the search and on the truth images, as they are."""
        settings, per_epoch = self.fit_config(arm.forwards, seed)
        torch.manual_seed(seed)
        model = Supernet(self.space, affine=spos.affine(self.space))
        rule = spos.rule(model, spos.Config(settings, **arm.options))
        fit(model, self.images.train, rule, settings, folder, meta={}, steps_per_epoch=per_epoch)
        return self.scores(model, arm.forwards * per_epoch * settings.epochs)

    def shrunk(self, sort: bool, seed: int, folder: Path) -> dict:
        """Progressive shrinking instead."""
        settings, _ = self.fit_config(SANDWICH, seed)
        phases, passes = shrinking(self.args.epochs)
        cfg = ofa.Config(settings, phases, sort=sort, probes=0)
        model = ofa.run(self.space, self.images, cfg, folder, _common.CPU)
        return self.scores(model, passes * self.images.train.steps(64, drop_last=True))

    def scores(self, model: Supernet, steps: int) -> dict:
        """One-shot accuracies on both sets of images; the forward passes of the training in images."""
        images = spos.recalibration_images(self.images, 8, 128)
        found = [spos.score(model, images, self.images, arch) for arch in self.archs]
        judged = dataclasses.replace(self.images, val=self.judging)
        as_is = [spos.score(model, images, judged, arch) for arch in self.archs]
        return {"one_shot": found, "as_is": as_is, "passes": 64 * steps}


def run(args: Args) -> None:
    if args.redraw:
        finish(args, files.read_json(args.output, "results", "run it without --redraw"))
        return
    defaults.keep_memory()
    torch.set_num_threads(1)
    clock = _common.Clock(args.run, "elastic")
    source = _common.Images(args.data, str(args.data_root), args.train)
    if args.quick:
        source = _common.Images(args.data, str(args.data_root), 640, 200, 400)
        args = dataclasses.replace(args, epochs=1, networks=4, seeds=2)
    images, judging = _common.open_images(source)
    space = spaces.get("elastic-small", images.channels, images.size, images.classes)
    archs = spread.spread(space, args.networks, seed=0)
    study = Study("elastic-small", space, archs, images, judging, args)
    result: dict[str, Any] = {
        "archs": [list(arch) for arch in archs],
        "flops": [families.flops(space, a) for a in archs],
    }
    shrunk = [("shrinking", True), ("shrinking, not sorted", False)]
    result["elastic-small"] = rules(study, arms(space), shrunk)
    known = truth_table.truth_space(images.channels, images.resolution, images.classes)
    table = files.read_json(Path("docs/results/truth_table.json"), "truth table", "run experiments.truth_table")
    choices = [known.check(arch) for arch in table["archs"]][:: 16 if args.quick else 1]
    result["mobile-small"] = rules(Study("mobile-small", known, choices, images, judging, args), arms(known), [])
    result["mobile-small truth"] = table["accuracies"][:: 16 if args.quick else 1]
    for times in (1, 3) if args.longer else (1,):
        epochs = times * args.epochs
        truth = _common.Truth(args.run, space, _common.Budget(source, epochs), args.jobs, args.quiet)
        if times > 1:
            longer = dataclasses.replace(study, args=dataclasses.replace(args, epochs=epochs))
            found = rules(longer, [arm for arm in arms(space) if arm.name in LONGER], [])
            result["elastic-small"] |= {f"{name}, {times} times as long": made for name, made in found.items()}
        result[f"alone x{times}"] = truth(archs, range(args.seeds), f"alone, {epochs} epochs").tolist()
    finish(args, _common.results("elastic", args, clock, **result))


def rules(study: Study, arms: list[Arm], more: list[tuple[str, bool]]) -> dict[str, list[dict]]:
    """What each rule gives with each seed, by its name; ``more``: forms of shrinking, whether channels are sorted."""
    args = study.args
    folder = args.run / f"elastic-{study.name}-{args.train}x{args.epochs}{'-quick' if args.quick else ''}"
    found: dict[str, list[dict]] = {}
    for seed in range(args.seeds):
        for arm in arms:
            path = folder / f"{arm.name}-{seed}"
            made = _common.timed_cell(path.with_suffix(".json"), functools.partial(study.supernet, arm, seed, path))
            found.setdefault(arm.name, []).append(made)
        for name, sort in more:
            path = folder / f"{name}-{seed}"
            made = _common.timed_cell(path.with_suffix(".json"), functools.partial(study.shrunk, sort, seed, path))
            found.setdefault(name, []).append(made)
    return found


def finish(args: Args, result: dict) -> None:
    small = {name: np.array(result[key]) for name, key in TRUTHS.items() if key in result}
    tables = {
        f"{len(result['archs'])} networks of elastic-small": table(result["elastic-small"], small),
        f"{len(result['mobile-small truth'])} networks of mobile-small": table(
            result["mobile-small"], {"alone": np.array(result["mobile-small truth"])}
        ),
    }
    _common.report(args.output, result, tables, draw, (11.0, 4.5))


TRUTHS = {"alone": "alone x1", "alone, three times as long": "alone x3"}


def table(found: dict[str, list[dict]], truths: dict[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """A row for each rule, then one for each truth ``[networks, seeds]`` with what its own seeds make of each other."""
    rows = {}
    for name, made in found.items():
        as_is = np.array([one["as_is"] for one in made]).T
        scores = np.array([one["one_shot"] for one in made]).T
        rows[name] = {
            "k image passes": f"{made[0]['passes'] / 1e3:.0f}",
            "as they are, %": _common.mean_sd(as_is.mean(0), 100),
        }
        for truth, values in truths.items():
            gap = as_is - values.mean(1, keepdims=True)
            rows[name] |= {
                f"minus {truth}, points": _common.mean_sd(gap.mean(0), 100),
                f"τ ({truth})": _common.mean_sd([ranking.kendall(one, values.mean(1)) for one in scores.T]),
                f"regret ({truth}), points": _common.mean_sd([regret(one, values.mean(1)) for one in scores.T], 100),
            }
    for truth, values in truths.items():
        pairs = [(values[:, a], np.delete(values, a, 1).mean(1)) for a in range(values.shape[1])]
        rows[truth] = dict.fromkeys(next(iter(rows.values())), "") | {
            "as they are, %": _common.mean_sd(values.mean(0), 100)
        }
        if values.shape[1] > 1:  # one seed against the others: what a perfect rule is worth
            rows[truth] |= {
                f"τ ({truth})": _common.mean_sd([ranking.kendall(one, others) for one, others in pairs]),
                f"regret ({truth}), points": _common.mean_sd([regret(one, others) for one, others in pairs], 100),
            }
    return rows


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """What the network with the highest score lacks to the best one."""
    return float(truth.max() - truth[scores.argmax()])


def draw(figure: Figure, result: dict) -> None:
    """Networks as they are over the same trained alone, for three rules; τ of every rule on both spaces."""
    left, right = figure.subplots(1, 2)
    alone = np.array(result.get("alone x1", np.full((len(result["archs"]), 1), np.nan))).mean(1)
    for name in ("uniform", "sandwich", "sandwich + distillation"):
        as_is = np.mean([one["as_is"] for one in result["elastic-small"][name]], 0)
        left.scatter(100 * alone, 100 * as_is, s=14, label=name, alpha=0.8, linewidths=0)
    low, high = left.get_xlim()
    left.axline((low, low), slope=1, color="0.6", linewidth=0.8)
    left.set(xlabel="alone, % ", ylabel="as it is in the supernet, %", title="elastic-small", xlim=(low, high))
    left.legend(fontsize=7)
    names = list(result["elastic-small"])
    for offset, (space, truth) in enumerate((("elastic-small", "alone x1"), ("mobile-small", "mobile-small truth"))):
        values = np.array(result.get(truth, np.full((len(result["archs"]), 1), np.nan))).mean(1)
        taus = [
            [ranking.kendall(np.array(one["one_shot"]), values) for one in result[space].get(name, [])]
            for name in names
        ]
        places = np.arange(len(names)) + 0.35 * offset
        right.barh(places, [np.mean(tau) if tau else 0 for tau in taus], 0.33, label=space)
    right.set_yticks(np.arange(len(names)) + 0.17, names, fontsize=7)
    right.invert_yaxis()
    right.set(xlabel="Kendall's τ of one-shot scores", title="rules at equal cost")
    right.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args)
