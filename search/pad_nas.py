"""PAD-NAS, Algorithm 1: search, prune the operations that the good architectures do without, fine-tune, again.

X. Xia et al., "Progressive Automatic Design of Search Space for One-Shot Neural Architecture Search", §3.2. A run
is a folder with one run folder per supernet, ``supernet-1`` to ``supernet-(M - 1)``, so every tool works on each.
With M = 2 this is the paper's I-Supernet, with M = 3 its P-Supernet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from search import distribution, nsga2
from search.ask_tell import Record
from search.ces import CES, CESConfig
from search.costs import Cost
from search.distribution import Distribution
from search.drawing import draw_layers
from search.run import Scoring, SearchRun
from supernet import families, files, plugins, spaces
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods import spos
from supernet.model import Supernet
from supernet.progress import Progress, silent, within
from supernet.quantities import count, digits, several
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.spec import LayerSpec
from supernet.tables import Table
from supernet.training.loop import Drive, FitConfig

VARIANTS = {"basic": "mobile", "large": "mobile-large", "v3": "mobile-v3"}  # the paper's operation sets, as presets


def space_for(name: str, images: TrainVal) -> Space:
    """An operation set by its name in the paper, as the preset for these images; or any space of layers by name,
    a .json file or code."""
    if name in VARIANTS:
        name = VARIANTS[name] + ("-small" if images.size.pixels < 96**2 else "")
    elif not (name.endswith(".json") or plugins.is_reference(name) or name in spaces.presets()):
        expected = f"{', '.join(VARIANTS)}, another space by name, a space .json or code"
        raise UserError(f"space {name}: expected {expected}")
    space = spaces.get(name, images.channels, images.size, images.classes)
    families.require_layers(space, resolution=True)
    return space


PAPER_THRESHOLD = 0.01  # P_th
PAPER_EVALUATIONS = 2560  # population 64, 40 iterations
DRAWS = 200  # of the accuracies, where it matters what could be otherwise


def usual_threshold(evaluations: int) -> float:
    """P_th where so many are scored: as many occurrences as 1 % of the paper's 2,560 are, from 1 % to 10 %.

    >>> usual_threshold(2560), round(usual_threshold(384), 3), usual_threshold(24)
    (0.01, 0.067, 0.1)
    """
    return max(PAPER_THRESHOLD, min(0.1, PAPER_THRESHOLD * PAPER_EVALUATIONS / evaluations))


@dataclass(frozen=True)
class Config:
    """The paper: M = 4, (120, 80, 40) epochs at lr (.5, .1, .1), P_th = 1 %, ranks below 10."""

    fit: FitConfig  # of every supernet, but for epochs and rate
    epochs: tuple[int, ...] = (120, 80, 40)  # of the initial supernet and each pruned one: M is one more
    lr: float = 0.5  # of the initial supernet
    fine_tune_lr: float = 0.1
    threshold: float = PAPER_THRESHOLD
    rank: int = 10  # architectures of a nondomination rank below it are counted; the Pareto front has 1
    ces: CESConfig = field(default_factory=CESConfig)
    sure: float = 0.0  # an operation goes only if it is rare in so many of the redrawn fronts; 0: the paper's rule
    scoring: Scoring = field(default_factory=Scoring)
    random: int = 32  # architectures drawn from each space's window, to compare with
    kernels: Literal["fused", "eager"] = "fused"
    probes: int = 4  # of each supernet, scored after each epoch

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("epochs", self.epochs and min(self.epochs) >= 1, "one number or more, each at least 1"),
            ("threshold", 0 <= self.threshold < 1, "a probability below 1"),
            ("sure", 0 <= self.sure <= 1, "a share, from 0 to 1"),
            ("rank", self.rank >= 2, "at least 2: the Pareto front has rank 1"),
        ):
            if not fine:
                raise UserError(f"PAD-NAS: {name} is {getattr(self, name)}; expected {expected}")


@dataclass(frozen=True)
class Stage:
    """A supernet, the search on it, and what pruning left."""

    number: int  # 1 to M - 1
    folder: Path
    found: SearchRun
    random: list[Record]
    p: Distribution
    pruned: Space  # the next supernet's; of the last stage what a further one would get
    seconds: dict[str, float] = field(compare=False)  # by step, of all processes that took part

    @property
    def space(self) -> Space:
        return self.found.search.space

    @property
    def picture(self) -> Path:
        """How often each operation stands in the good architectures, and which go."""
        return self.folder / "distribution.png"

    @property
    def operations(self) -> list[dict[str, Any]]:
        """What ``distribution.by_name`` says of it."""
        return distribution.by_name(self.space, self.p, self.pruned)


def run(
    space: Space,
    data: TrainVal,
    cfg: Config,
    costs: Mapping[str, Cost],
    bounds: Mapping[str, tuple[float, float]],
    objectives: Sequence[str],
    folder: Path,
    device: torch.device,
    settings: Mapping,
    progress: Progress = silent,
) -> Iterator[Stage]:
    """Run Algorithm 1 in ``folder``, or continue there: every training and every search resumes by itself.

    Args:
        costs, bounds, objectives: of every search, as ``CES`` has them.
        settings: ``config.json`` of each supernet's folder.

    Yields:
        Each stage when its search has ended; the next begins when it is asked for.
    """
    supernet = None
    for number in range(1, len(cfg.epochs) + 1):
        here = folder / f"supernet-{number}"
        supernet = train(space, data, cfg, number, here, device, settings, progress, supernet)
        search = CES(space, costs, bounds, objectives, cfg.ces)
        found, random = begin_search(search, supernet, data, cfg, here)
        found.run(random, within(progress, f"stage {number}"))
        p, pruned, counted = prune(search, cfg, scored_images(data, cfg))
        images = data.train.steps(cfg.fit.batch_size, drop_last=True) * cfg.fit.batch_size
        seconds = {"training": found.folder.seconds(images), "search": found.seconds}
        stage = Stage(number, here, found, [found.record(arch) for arch in random], p, pruned, seconds)
        _save(stage, counted, cfg)
        yield stage
        space = pruned


def train(
    space: Space,
    data: TrainVal,
    cfg: Config,
    number: int,
    here: Path,
    device: torch.device,
    settings: Mapping,
    progress: Progress = silent,
    inherit: Supernet | None = None,
    drive: Drive | None = None,
) -> Supernet:
    """Lines 1 and 8: train supernet ``number``; a pruned one inherits the weights and starts a new optimiser."""
    run, epochs = RunFolder(here), cfg.epochs[number - 1]
    run.write_space(space)
    run.write_images(data.split, data.damaged)
    files.write_json(run.config_path, {**settings, "epochs": epochs})
    fit = dataclasses.replace(cfg.fit, epochs=epochs, lr=cfg.lr if number == 1 else cfg.fine_tune_lr)
    how = spos.Config(fit, kernels=cfg.kernels, probes=cfg.probes, recalibration=cfg.scoring.recalibration)
    return spos.run(space, data, how, here, device, within(progress, f"stage {number}"), inherit, drive)


def begin_search(
    search: CES, supernet: Supernet, data: TrainVal, cfg: Config, here: Path
) -> tuple[SearchRun, list[Arch]]:
    """Lines 3 and 10: the search on a trained supernet, where it stands, and the random architectures beside it."""
    scored_with = cfg.scoring.identity(RunFolder(here).identity, data.identity)
    found = SearchRun(here, search, cfg.scoring.evaluator(supernet, data), scored_with)
    rng = np.random.default_rng([cfg.ces.seed, 1])
    return found, search.window.sample(rng, cfg.random, (), cfg.ces.max_draws)


def scored_images(data: TrainVal, cfg: Config) -> int:
    """How many images a one-shot accuracy rests on."""
    return min(len(data.val), cfg.scoring.val_limit or len(data.val))


def prune(search: CES, cfg: Config, images: int) -> tuple[Distribution, Space, int]:
    """Lines 4 to 7: count the operations of the good architectures, remove the rare ones.

    With ``cfg.sure`` what cannot be told apart stays, which the paper does not do: of ``images`` images an accuracy has
    a standard deviation, so the accuracies are drawn again by it, ranked and counted, many times. An operation
    goes only if it is rare in that share of the draws as well. Draws are independent, although all architectures see
    the same images: this keeps rather too much.

    Returns:
        The distribution, the pruned space, and how many architectures were counted.
    """
    good = [record.arch for record in search.front(max_rank=cfg.rank - 1)]
    p = distribution.estimate(search.space, good)
    redrawn = _redrawn(search, cfg, images) if cfg.sure else ()
    return p, distribution.prune(search.space, p, cfg.threshold, redrawn, cfg.sure), len(good)


def _redrawn(search: CES, cfg: Config, images: int) -> list[Distribution]:
    """The distribution, had other images been scored on."""
    records, rng = search.records(), np.random.default_rng([cfg.ces.seed, 5])
    archs, accuracy = [record.arch for record in records], np.array([record.accuracy for record in records])
    costs = np.array([[record.costs[name] for name in search.objectives] for record in records])
    deviation = np.sqrt(accuracy * (1 - accuracy) / images)
    found = []
    for _ in range(DRAWS):
        ranks = nsga2.fast_non_dominated_sort(np.column_stack((-rng.normal(accuracy, deviation), costs)))
        found.append(distribution.estimate(search.space, [archs[i] for i in np.flatnonzero(ranks < cfg.rank)]))
    return found


def along(front: Sequence[Record], n: int = 5) -> list[Record]:
    """At most n networks of a front, evenly spaced, its cheapest and most accurate among them (Table 3's A to E)."""
    return [front[i] for i in np.unique(np.linspace(0, len(front) - 1, min(n, len(front))).round().astype(int))]


def layers_of(space: Space, records: Sequence[Record]) -> dict[str, list[LayerSpec]]:
    """Networks to be drawn, by a letter, what they cost and their accuracy."""
    names = (
        f"{chr(65 + i)}\n{digits(next(iter(r.costs.values())))}\n{100 * r.accuracy:.1f} %"
        for i, r in enumerate(records)
    )
    picked = (families.layout(space).pick(record.arch)[1:-1] for record in records)
    return dict(zip(names, picked, strict=True))


def _save(stage: Stage, counted: int, cfg: Config) -> None:
    """``stage.json``, ``distribution.png`` and ``networks.png`` in the folder of the supernet."""
    names = [[choice.name for choice in gene.choices] for gene in stage.space.genes]
    size = several(stage.space.size, "architecture", form=count)
    title = f"supernet {stage.number}: {size}\npruned to {count(stage.pruned.size)}"
    distribution.heat_map(stage.picture, stage.operations, title)
    draw_layers(stage.folder / "networks.png", layers_of(stage.space, along(stage.found.front())))
    files.write_json(
        stage.folder / "stage.json",
        {
            "schema": 1,
            "stage": stage.number,
            "size": stage.space.size,
            "pruned_size": stage.pruned.size,
            "pruned_space": stage.pruned.to_json(),
            "threshold": cfg.threshold,
            "architectures_counted": counted,
            "distribution": [dict(zip(row, p, strict=True)) for row, p in zip(names, stage.p, strict=True)],
            "random_mean": float(np.mean([r.accuracy for r in stage.random])) if stage.random else None,
            "best": max(record.accuracy for record in stage.found.search.front()),
            "seconds": stage.seconds,
        },
    )


def table(stages: Sequence[Stage]) -> Table:
    """One row for each supernet."""
    rows = []
    for stage in stages:
        random = [100 * record.accuracy for record in stage.random]
        best = max(record.accuracy for record in stage.found.search.front())
        counts = [count(stage.space.size), str(sum(map(len, stage.space.allowed)))]
        accuracies = [f"{100 * best:.2f}", f"{sum(random) / len(random):.2f}" if random else ""]
        seconds = [f"{stage.seconds[step]:.0f}" for step in ("training", "search")]
        rows.append([stage.folder.name, *counts, *accuracies, *seconds])
    headings = ["", "networks", "operations", "best %", "random %", "training s", "search s"]
    return Table(headings, rows, "PAD-NAS: one row per supernet, one-shot accuracies")
