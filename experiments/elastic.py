"""Elastic supernets: their networks as they are against the same trained alone, and the rules of training at one cost.

Two spaces with the truth known: 48 networks of elastic-small, each trained alone with as many image passes as the
supernet has steps' images, and with three times as many; and the 64 networks of ``truth_table``. Every supernet costs
as many forward passes as sandwich steps (four paths) of ``--epochs`` epochs. Each finished training is kept
in the results, so the command can be stopped and continued, on another machine too.
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

from experiments import _common, _report, truth_table
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
class Args(_common.OnImages):
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
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""
    longer: bool = True
    """Also train alone, and by the rules of LONGER, with three times as many image passes."""


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
    zero = Arm("sandwich + distillation, zero γ", {**taught, "zero_gamma": True}, SANDWICH)
    return [
        Arm("uniform", {}, 1),
        Arm("fair", {"rule": "fair"}, max(map(len, space.allowed))),
        Arm("uniform + distillation", {"distil": "inplace"}, 2),
        Arm("sandwich", sandwich, SANDWICH),
        Arm("sandwich + distillation", taught, SANDWICH),
        Arm("sandwich + α-divergence", {**sandwich, "distil": "alpha"}, SANDWICH),
        Arm("sandwich + distillation, best of 3", {**taught, "draw": "best"}, SANDWICH + 2 * CANDIDATES),
        Arm("sandwich + distillation, worst of 3", {**taught, "draw": "worst"}, SANDWICH + 2 * CANDIDATES),
        *([zero] if spos.affine(space) else []),
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
        cfg = spos.Config(settings, **arm.options)
        model = spos.untrained(self.space, cfg)
        fit(model, self.images.train, spos.rule(model, cfg), settings, folder, meta={}, steps_per_epoch=per_epoch)
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
    defaults.keep_memory()
    torch.set_num_threads(1)
    clock = _common.Clock(args.run, "elastic")
    if args.quick:
        args = dataclasses.replace(args, epochs=1, networks=4, seeds=2)
    source = _common.images_of(args, (640, 200, 400))
    images, judging = _common.open_images(source)
    space = spaces.get("elastic-small", images.channels, images.size, images.classes)
    archs = spread.spread(space, args.networks, seed=0)
    study = Study("elastic-small", space, archs, images, judging, args)
    known = truth_table.truth_space(images.channels, images.resolution, images.classes)
    table = files.read_json(Path("docs/results/truth_table.json"), "truth table", "run experiments.truth_table")
    choices = [known.check(arch) for arch in table["archs"]][:: 16 if args.quick else 1]
    other = Study("mobile-small", known, choices, images, judging, args)
    found = _common.results("elastic", args, clock, archs=[list(arch) for arch in archs])
    found["flops"] = [families.flops(space, arch) for arch in archs]
    found["mobile-small truth"] = table["accuracies"][:: 16 if args.quick else 1]
    made = _common.Kept(args.output, found, clock)
    for seed in range(args.seeds):
        supernets(made, study, arms(space), seed)
        supernets(made, other, arms(known), seed)
        alone(made, study, source, seed, 1)
    for seed in range(args.seeds if args.longer else 0):
        longer = dataclasses.replace(study, args=dataclasses.replace(args, epochs=3 * args.epochs))
        supernets(made, longer, [arm for arm in arms(space) if arm.name in LONGER], seed, ", 3 times as long")
        alone(made, study, source, seed, 3)
    finish(args, made.found)


def supernets(made: _common.Kept, study: Study, arms: list[Arm], seed: int, suffix: str = "") -> None:
    """What each rule gives, and progressive shrinking on elastic-small."""
    args = study.args
    folder = args.run / f"elastic-{study.name}-{args.train}x{args.epochs}{'-quick' if args.quick else ''}"
    for arm in arms:
        train = functools.partial(study.supernet, arm, seed, folder / f"{arm.name}-{seed}")
        made.add(study.name, arm.name + suffix, seed, train)
    if study.name == "elastic-small" and not suffix:
        for name, sort in (("shrinking", True), ("shrinking, not sorted", False)):
            made.add(study.name, name, seed, functools.partial(study.shrunk, sort, seed, folder / f"{name}-{seed}"))


def alone(made: _common.Kept, study: Study, source: _common.Images, seed: int, times: int) -> None:
    """What each network reaches when it is trained alone, ``times`` as long."""
    args = study.args
    epochs = times * args.epochs
    truth = _common.Truth(args.run, study.space, _common.Budget(source, epochs), args.jobs, args.quiet)
    for first in range(0, len(study.archs), 8):  # kept every few networks
        some = study.archs[first : first + 8]
        if any(len(made.row(f"alone x{times}", repr(arch))) <= seed for arch in some):
            values = truth(some, [seed], f"alone, {epochs} epochs")[:, 0].tolist()
            for arch, value in zip(some, values, strict=True):
                made.add(f"alone x{times}", repr(arch), seed, functools.partial(float, value))


def accuracies(result: dict, times: int) -> np.ndarray:
    """Of the networks alone, ``[networks, seeds]``: the seeds that all of them have; one of NaN if there is none."""
    rows = [result.get(f"alone x{times}", {}).get(repr(tuple(arch)), []) for arch in result["archs"]]
    seeds = min(map(len, rows))
    return np.array([row[:seeds] or [np.nan] for row in rows])


def finish(args: Args, result: dict) -> None:
    small = {name: accuracies(result, times) for name, times in TRUTHS.items()}
    small = {name: values for name, values in small.items() if not np.isnan(values).any()}
    tables = {
        f"{len(result['archs'])} networks of elastic-small": table(result["elastic-small"], small),
        f"{len(result['mobile-small truth'])} networks of mobile-small": table(
            result["mobile-small"], {"alone": np.array(result["mobile-small truth"])}
        ),
    }
    _report.report(args.output, result, tables, draw, (11.0, 4.5))


TRUTHS = {"alone": 1, "alone, three times as long": 3}


def table(found: dict[str, list[dict]], truths: dict[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """A row for each rule, then one for each truth ``[networks, seeds]`` with what its own seeds make of each other."""
    rows = {}
    for name, made in found.items():
        as_is = np.array([one["as_is"] for one in made]).T
        scores = np.array([one["one_shot"] for one in made]).T
        rows[name] = {
            "k image passes": f"{made[0]['passes'] / 1e3:.0f}",
            "as they are, %": _report.mean_sd(as_is.mean(0), 100),
        }
        for truth, values in truths.items():
            gap = as_is - values.mean(1, keepdims=True)
            rows[name] |= {
                f"minus {truth}, points": _report.mean_sd(gap.mean(0), 100),
                f"τ ({truth})": _report.mean_sd([ranking.kendall(one, values.mean(1)) for one in scores.T]),
                f"regret ({truth}), points": _report.mean_sd([regret(one, values.mean(1)) for one in scores.T], 100),
            }
    for truth, values in truths.items():
        rows[truth] = dict.fromkeys(next(iter(rows.values())), "") | {
            "as they are, %": _report.mean_sd(values.mean(0), 100)
        }
        if values.shape[1] > 1:  # one seed against the others: what a perfect rule is worth
            pairs = [(values[:, a], np.delete(values, a, 1).mean(1)) for a in range(values.shape[1])]
            rows[truth] |= {
                f"τ ({truth})": _report.mean_sd([ranking.kendall(one, others) for one, others in pairs]),
                f"regret ({truth}), points": _report.mean_sd([regret(one, others) for one, others in pairs], 100),
            }
    return rows


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """What the network with the highest score lacks to the best one."""
    return float(truth.max() - truth[scores.argmax()])


def draw(figure: Figure, result: dict) -> None:
    """Networks as they are over the same trained alone, for three rules; τ of every rule on both spaces."""
    left, right = figure.subplots(1, 2)
    truths = {"elastic-small": accuracies(result, 1), "mobile-small": np.array(result["mobile-small truth"])}
    alone = truths["elastic-small"].mean(1)
    for name in ("uniform", "sandwich", "sandwich + distillation"):
        as_is = np.mean([one["as_is"] for one in result["elastic-small"][name]], 0)
        left.scatter(100 * alone, 100 * as_is, s=14, label=name, alpha=0.8, linewidths=0)
    low, high = left.get_xlim()
    left.axline((low, low), slope=1, color="0.6", linewidth=0.8)
    left.set(xlabel="alone, % ", ylabel="as it is in the supernet, %", title="elastic-small", xlim=(low, high))
    left.legend(fontsize=7)
    names = list(result["elastic-small"])
    for offset, (space, truth) in enumerate(truths.items()):
        values = truth.mean(1)
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
    _common.main(run, Args, finish)
