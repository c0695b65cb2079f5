"""What the experiments on PAD-NAS share: a space with its window, supernets that are trained and searched in it."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _common
from latency.table import LatencyTable
from search import pad_nas
from search.ask_tell import Record
from search.ces import CESConfig
from search.costs import TableCost, Window
from search.priced import additive
from search.run import Scoring
from supernet import families, machine
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Threads
from supernet.model import Supernet
from supernet.progress import Progress, shown
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.folder import TrainingFolder
from supernet.training.loop import FitConfig

TRIES = 2000  # draws for each random network of a window


@dataclass(frozen=True)
class Alone(_common.OnImages, _common.OnDevice):
    """Options of what trains networks alone."""

    run: Path = Path("runs/experiments")
    """Folder of finished cells and trainings; truth.jsonl is shared by the experiments."""
    seeds: int = 3
    """Supernet seeds."""
    alone: int = 3
    """Passes over the training images, for a network alone."""
    train: int = 4_000
    """Training images, stratified."""
    search_images: int = 2_000
    """Images that one-shot accuracies are taken on."""
    truth_images: int = 6_000
    """Images that networks trained alone are judged on."""
    held: float = 0.3
    """Share of the training part that these two are taken from."""
    batch_size: int = 64
    """Images per step, of supernets and of networks alone."""
    lr: float = 0.08
    """Peak learning rate; a fifth of it in fine-tuning."""
    augment: bool = False
    """Augment the training images, as the paper does."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""

    @property
    def images(self) -> _common.Images:
        """The three disjoint sets."""
        sizes = (320, 200, 300) if self.quick else (self.train, self.search_images, self.truth_images)
        return _common.Images(self.data, str(self.data_root), *sizes, held=self.held)

    @property
    def budget(self) -> _common.Budget:
        """How a network is trained alone: as the paper does where images are augmented."""
        schedule = "linear" if self.augment else "cosine"
        return _common.Budget(self.images, self.alone, self.batch_size, self.lr, self.augment, schedule)

    @property
    def progress(self) -> Progress:
        return shown(not (self.quick or self.quiet))

    def seconds(self, space: Space, data: TrainVal, arch: Arch, seed: int, folder: Path) -> float:
        """What training a network takes by the clock, however often it is stopped."""
        fit = self.budget.fit(seed)
        _common.trained(space, arch, data, fit, folder, defaults.device(self.device))
        steps = data.train.steps(fit.batch_size, drop_last=True)
        return TrainingFolder(folder).seconds(steps * fit.batch_size)


@dataclass(frozen=True)
class Options(Alone):
    """Options of what searches, too."""

    population: int = 24
    """Architectures per iteration of CES."""
    iterations: int = 8
    """Iterations of CES."""
    threshold: float | None = None
    """P_th: operations of at most this probability are removed; defaults to the paper's 1 % where 2,560 architectures
    are scored as there, to more where fewer are."""
    share: float = 0.6
    """The bound on multiply-adds, of the way from the smallest to the largest network; searches keep to it, and so do
    random networks."""
    probes: int = 0
    """Random networks of each supernet, scored after each epoch, for the curves."""

    def settled(self, **changes: Any) -> Any:
        """These options with ``changes``, and the threshold where it was not given."""
        args = dataclasses.replace(self, **changes)
        usual = pad_nas.usual_threshold(CESConfig(args.population, args.iterations).evaluations)
        return args if args.threshold is not None else dataclasses.replace(args, threshold=usual)


def bounded(
    space: Space, share: float, lut: Path | None, window: tuple[float, float]
) -> tuple[str, TableCost, tuple[float, float]]:
    """A cost by its name, and its bounds: a share of the span of multiply-adds, or a window of latency by a table.

    Raises:
        UserError: no share, or bounds that no network keeps.
    """
    if not 0 <= share <= 1:
        raise UserError(f"--share {share:g}: expected one from 0 to 1")
    if lut is None:
        unit, cost = "flops", additive(space, lambda spec: spec.flops)
        low, high = cost.bounds(space)
        window = (0.0, low + share * (high - low))
    else:
        unit, cost = "latency", additive(space, LatencyTable.load(lut, space).price)
    Window(space, {unit: cost}, {unit: window})
    return unit, cost, window


class Study:
    """Supernets of one space, trained, searched and pruned within one window.

    Args:
        lut: a latency table, which the window is then in.
        window: lowest and highest latency in ms.
        at: the highest cost of what is compared; by default that of the window.

    Raises:
        UserError: a space without layers, a window beside all of it; ``at`` is below the window, or all of the space.
    """

    def __init__(
        self,
        args: Options,
        space: Space,
        data: TrainVal,
        lut: Path | None = None,
        window: tuple[float, float] = (0.0, math.inf),
        at: float | None = None,
    ):
        families.require_layers(space, resolution=True)
        self.args, self.space, self.data = args, space, data
        self.unit, self.cost, self.bounds = bounded(space, args.share, lut, window)
        self.compared = (self.bounds[0], min(self.bounds[1], math.inf if at is None else at))
        least = max(self.bounds[0], self.cost.bounds(space)[0])
        if self.compared[1] < least:
            raise UserError(f"--at {at:g}: {space.name} has networks from {least:g} on in its window")
        self.truth = _common.Truth(args.run, space, args.budget, args.jobs, args.quiet, args.device)
        self.where = defaults.device(args.device)

    @property
    def scoring(self) -> Scoring:
        return Scoring(recalibration=(4, 128), executor=Threads(self.args.jobs))

    def config(self, epochs: tuple[int, ...], seed: int, threshold: float | None = None, **more: Any) -> pad_nas.Config:
        """Algorithm 1 with a stage for each entry of ``epochs``."""
        args = self.args
        return pad_nas.Config(
            FitConfig(1, args.batch_size, seed=seed, augment=args.augment),
            epochs,
            lr=args.lr,
            fine_tune_lr=args.lr / 5,
            threshold=args.threshold if threshold is None else threshold,
            ces=CESConfig(args.population, args.iterations, seed=seed),
            scoring=self.scoring,
            random=0,
            kernels=defaults.kernels(self.where),
            probes=args.probes,
            **more,
        )

    def train(
        self, folder: Path, cfg: pad_nas.Config, start: Path | None = None, space: Space | None = None
    ) -> list[pad_nas.Stage]:
        """All stages; ``start`` is a run that has the same first one already, ``space`` a part to begin with."""
        if start is not None and not folder.exists():
            copied = folder.with_name(f"{folder.name}.copy")
            shutil.copytree(start / "supernet-1", copied / "supernet-1", dirs_exist_ok=True)
            copied.rename(folder)
        costs, bounds = {self.unit: self.cost}, {self.unit: self.bounds}
        how = costs, bounds, [self.unit], folder, self.where, {}, self.args.progress
        return list(pad_nas.run(space or self.space, self.data, cfg, *how))

    def pruned_alike(self, nested: Sequence[Space], cfg: pad_nas.Config, folder: Path, start: Path) -> Supernet:
        """A supernet trained as ``cfg`` says, but on given spaces; its first stage is that of ``start``."""
        model = None
        for number, space in enumerate(nested, start=1):
            here = start / "supernet-1" if number == 1 else folder / f"supernet-{number}"
            model = pad_nas.train(space, self.data, cfg, number, here, self.where, {}, self.args.progress, model)
        assert model is not None
        return model

    def best(self, front: Sequence[Record]) -> Record:
        """The last network of a front, cheapest first, that costs no more than what is compared, else its first."""
        return ([record for record in front if record.costs[self.unit] <= self.compared[1]] or front[:1])[-1]

    def draw(self, space: Space, n: int, key: Sequence[int]) -> list[Arch]:
        """Up to n distinct random networks of the costs that are compared; none where the space has none."""
        if not self.reaches(space):
            return []
        window = Window(space, {self.unit: self.cost}, {self.unit: self.compared})
        return window.sample(np.random.default_rng(key), n, (), TRIES)

    def reaches(self, space: Space) -> bool:
        """Whether a part of the space is not all cheaper or all dearer than what is compared."""
        (low, high), (cheapest, dearest) = self.compared, self.cost.bounds(space)
        return cheapest <= high and low <= dearest


def evaluator(study: Study, model: Supernet) -> Any:
    """One-shot accuracies by a supernet that was not searched."""
    return study.scoring.evaluator(model, study.data)


def told(record: Record, unit: str) -> dict[str, Any]:
    """A found network in plain JSON."""
    return {"arch": list(record.arch), "cost": record.costs[unit], "one_shot": record.accuracy}


def curve(stages: Iterable[Path]) -> list[list[float]]:
    """Epochs so far and the accuracy of the probes, over all trainings of a supernet."""
    points, before = [], 0
    for folder in stages:
        lines = TrainingFolder(folder).metrics.read()
        points += [[before + line["epoch"], line["val_accuracy"]] for line in lines if "val_accuracy" in line]
        before += max((line["epoch"] for line in lines), default=0)
    return points


def uniform(space: Space) -> dict[str, Arch]:
    """Networks as one makes them by hand: the same kernel and expansion in every layer that has it, as MobileNetV2."""
    found = {}
    kinds = {(choice.kernel, choice.expand) for gene in space.genes for choice in gene.choices if choice.op == "ib"}
    for kernel, expand in sorted(kinds):
        arch = []
        for gene in space.genes:
            near = [abs(c.expand - expand) if c.op == "ib" and c.kernel == kernel else np.inf for c in gene.choices]
            arch.append(int(np.argmin(near)))
        found[f"k{kernel}_e{expand}"] = tuple(arch)
    return found


def at_random(stages: Sequence[Space], seed: int, fits: Callable[[Space], bool] = lambda space: True) -> list[Space]:
    """Spaces that keep as many operations in every layer as ``stages``, drawn at random, each inside the last.

    Args:
        fits: what the last one has to be; 1,000 draws are tried.
    """
    rng = np.random.default_rng([seed, 4])
    for _ in range(1000):
        nested = [stages[0]]
        for stage in stages[1:]:
            pairs = zip(nested[-1].allowed, map(len, stage.allowed), strict=True)
            keep = [rng.choice(open_, size, replace=False) for open_, size in pairs]
            nested.append(nested[-1].restrict([set(layer.tolist()) for layer in keep]))
        if fits(nested[-1]):
            break
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
