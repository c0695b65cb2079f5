"""The trainings of one seed of ``experiments.dsnas``: DSNAS, SPOS in four ways, random search; what each took."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _common
from search.costs import AdditiveCost, Window
from search.evolution import RandomConfig, RandomSearch, SPOSConfig, SPOSEvolution
from search.run import Scoring, SearchRun
from supernet import families, files, spaces
from supernet.data import sets
from supernet.executor import Threads
from supernet.methods import dsnas, spos
from supernet.model import Network, Supernet, load_network
from supernet.runs import RunFolder
from supernet.space import Arch
from supernet.training import checkpoint, defaults
from supernet.training.evaluation import validate
from supernet.training.folder import TrainingFolder
from supernet.training.loop import Drive, FitConfig, fit

NEVER = 2.0  # a gap that probabilities cannot have
RECALIBRATION = (4, 128)
Curve = list[list[float]]  # epoch, seconds, accuracy


class Ledger:
    """Seconds of the parts of an experiment that are no trainings, in ``ledger.jsonl``.

    A part that is interrupted is told, too, and so is the rest of it when it goes on. Trainings tell their own, by the
    images per second of each epoch.
    """

    def __init__(self, folder: Path):
        self.file = files.JsonLines(folder / "ledger.jsonl")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The clock runs while this is open."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.file.append({"part": name, "seconds": time.monotonic() - began})

    def seconds(self, name: str) -> float:
        """Of a part, by all processes that took part in it."""
        return sum(line["seconds"] for line in self.file.read() if line["part"] == name)


def until(epoch: int) -> Drive:
    """Takes the steps of a training up to the end of this epoch; one that is beyond stays as it is."""

    def drive(training: Any, check: Callable[[], dict], bar: Any) -> None:
        training.validate(check)
        while training.step < min(training.end, epoch * training.per_epoch):
            training.epoch(bar)
            training.validate(check)

    return drive


class Seed:
    """Everything that is trained with one seed, each in a folder of its own; arms share what they have in common.

    Args:
        args: of ``experiments.dsnas``.
        split: the seed of the split, where it is another one.

    Raises:
        UserError: a space without layers, or a bound that no network keeps.
    """

    def __init__(self, args: Any, seed: int, split: int | None = None):
        self.args, self.seed, self.folder = args, seed, args.run / f"seed{seed}"
        split = seed if split is None else split
        images = open_images(args, split)
        order = np.random.default_rng(split).permutation(len(images.val))
        select, report = (np.sort(half) for half in np.array_split(order, 2))
        self.reporting = dataclasses.replace(images, val=images.val.take(report))
        self.selecting = dataclasses.replace(images, val=images.val.take(select[: min(args.select, len(select))]))
        self.space = spaces.get(args.space, images.channels, images.size, images.classes)
        families.require_layers(self.space, edges=True)
        self.flops = AdditiveCost(*families.layout(self.space).priced(lambda spec: spec.flops))
        Window(self.space, {"flops": self.flops}, {"flops": (0.0, args.flops_max)})
        self.device = defaults.device(args.device)
        self.kernels = defaults.kernels(self.device)
        self.fit = self.schedule(args.epochs)
        self.images = images.train.steps(args.batch_size, drop_last=True) * args.batch_size  # of an epoch
        self.ledger = Ledger(self.folder)

    def schedule(self, epochs: int) -> FitConfig:
        """The same for DSNAS and SPOS, as in the paper; 5 epochs of 240 are warm-up."""
        args, rate = self.args, {"schedule": "cosine", "warmup_epochs": min(5.0, epochs / 48)}
        lr = defaults.learning_rate(args.batch_size) if args.lr is None else args.lr
        return FitConfig(epochs, args.batch_size, lr, augment=args.augment, seed=self.seed, **rate)

    def arm(self, name: str, compute: Callable[[], dict]) -> dict:
        """What the arm has; kept."""
        path = self.folder / f"{name.lower().replace(' ', '-')}.json"
        return _common.timed_cell(path, compute, time.monotonic)

    def spent(self, folder: Path) -> float:
        """Seconds of a training."""
        return TrainingFolder(folder).seconds(self.images)

    def curve(self, folder: Path, epoch: int = 0, seconds: float = 0.0) -> Curve:
        """Accuracies after each epoch, of a training that begins after these epochs and seconds."""
        rows = []
        for line in TrainingFolder(folder).metrics.read():
            seconds += self.images / line["images_per_second"]
            if "val_accuracy" in line:
                rows.append([epoch + line["epoch"], seconds, line["val_accuracy"]])
        return rows

    # --- DSNAS

    def dsnas_config(self, search_epochs: int, stop_gap: float) -> dsnas.Config:
        budget = dsnas.Budget(self.flops.table, self.flops.base, self.args.flops_max)
        rate, kernels = self.args.arch_lr, self.kernels
        return dsnas.Config(self.fit, budget, search_epochs, arch_lr=rate, stop_gap=stop_gap, kernels=kernels)

    def dsnas(self, stop_gap: float, name: str) -> dict:
        """Search and child in one training."""
        folder, epochs = self.folder / name, self.args.search_epochs
        network = dsnas.run(self.space, self.reporting, self.dsnas_config(epochs, stop_gap), folder, self.device)
        log = TrainingFolder(folder).metrics.read()
        chance = [math.log(len(open_)) for open_ in self.space.allowed]
        return {
            "arch": list(network.arch),
            "flops": self.flops(network.arch),
            "entropy": sum(log[epochs - 1]["entropy"]) / sum(chance),
            "settled_early": len(log[epochs - 2]["frozen"]) if epochs > 1 else 0,
            "seconds": self.spent(folder),
            "curve": self.curve(folder),
            **self.judged(network),
            "accuracy": log[-1]["val_accuracy"],
        }

    def judged(self, network: Network) -> dict[str, float]:
        """Table 3's other accuracy."""
        return {"top5": validate(network, self.reporting.val, metric="top5")}

    def evolved_dsnas(self) -> dict:
        """SPOS's evolution on DSNAS's parent, which never settles, where SPOS has it; the child goes on (§4.2)."""
        folder, half = self.folder / "dsnas-evolution", self.args.spos_epochs
        dsnas.run(
            self.space,
            self.reporting,
            self.dsnas_config(self.args.epochs, NEVER),
            folder,
            self.device,
            drive=until(half),
        )
        parent = Supernet(self.space, affine=True, eps=dsnas.EPS, kernels=self.kernels).to(self.device)
        parent.load_state_dict(checkpoint.load(TrainingFolder(folder).checkpoint, missing="run")["model"])
        found = self.evolve(parent, folder, "evolution", 0.0, self.args.flops_max)
        return found | self.go_on(parent, found, folder, self.fit, (half, self.args.epochs), dsnas.EPS)

    # --- SPOS

    def supernet(self, cfg: FitConfig, name: str, drive: Drive | None = None) -> tuple[Supernet, Path]:
        """A supernet of uniform paths."""
        folder = self.folder / name
        config = spos.Config(cfg, kernels=self.kernels, probes=1)
        return spos.run(self.space, self.reporting, config, folder, self.device, drive=drive), folder

    def evolve(
        self, supernet: Supernet, trained: Path, name: str, low: float, high: float, random: bool = False
    ) -> dict:
        """The best by one-shot accuracy within bounds, of SPOS's evolution, or of as many drawn at random.

        Args:
            trained: the folder of the supernet. name: of the search in it.
        """
        args, folder = self.args, trained / name
        size = {"population": args.population, "iterations": args.generations, "seed": self.seed}
        scoring = Scoring(recalibration=RECALIBRATION, executor=Threads(1))
        bounds = self.space, {"flops": self.flops}, {"flops": (low, high)}, ["flops"]
        search = (
            RandomSearch(*bounds, RandomConfig(**size))
            if random
            else SPOSEvolution(*bounds, SPOSConfig(**size, top_k=max(2, args.population // 5)))
        )
        run = SearchRun(
            folder,
            search,
            scoring.evaluator(supernet, self.selecting),
            scoring.identity(RunFolder(trained).identity),
        )
        part = str(folder.relative_to(self.folder))
        with self.ledger.part(part):
            run.run()
        ranked = sorted(search.records(), key=lambda record: -record.accuracy)
        best = ranked[0]
        images = spos.recalibration_images(self.reporting, *RECALIBRATION)
        return {
            "arch": list(best.arch),
            "flops": self.flops(best.arch),
            "one_shot": best.accuracy,
            "search_accuracy": spos.score(supernet, images, self.reporting, best.arch),
            "seconds": self.spent(trained) + self.ledger.seconds(part),
            "top": [[list(record.arch), record.accuracy] for record in ranked[: args.top]],
        }

    def searched(self, random: bool = False) -> tuple[Supernet, dict]:
        """SPOS's search at the length that it has in the paper: a half."""
        model, folder = self.supernet(self.schedule(self.args.spos_epochs), "spos")
        name = "random" if random else "evolution"
        return model, self.evolve(model, folder, name, 0.0, self.args.flops_max, random)

    def go_on(
        self, supernet: Supernet, found: dict, trained: Path, cfg: FitConfig, epochs: tuple[int, int], eps: float = 1e-5
    ) -> dict:
        """Train what was found on with the supernet's weights, within ``cfg``'s schedule.

        Args:
            trained: the folder of the supernet, whose curve comes first.
        """
        arch, folder = tuple(found["arch"]), trained.with_name(f"{trained.name}-child-{_digits(found['arch'])}")
        network = Network(self.space, arch, eps=eps, kernels=self.kernels).to(self.device)
        network.inherit(supernet)
        meta = {"kind": "network", "space": self.space.to_json(), "arch": list(arch), "eps": eps}
        log = fit(
            network,
            self.reporting.train,
            lambda step: None,
            cfg,
            folder,
            meta=meta,
            validate=lambda: {"val_accuracy": validate(network, self.reporting.val)},
            label="child",
            epochs=epochs,
        )
        before = self.curve(trained)
        offset = 0 if epochs[0] else len(before)  # its epochs count from the supernet's schedule, or anew
        return {
            "seconds": found["seconds"] + self.spent(folder),
            "curve": before + self.curve(folder, offset, found["seconds"]),
            **self.judged(network),
            "accuracy": log[-1]["val_accuracy"],
        }

    def tuned(self, low: float, high: float, name: str) -> dict:
        """SPOS searched for a half and fine-tuned for the other, at the rate's second schedule."""
        rest = self.schedule(self.args.epochs - self.args.spos_epochs)
        model, folder = self.supernet(self.schedule(self.args.spos_epochs), "spos")
        found = self.evolve(model, folder, name, low, high)
        return found | self.go_on(model, found, folder, rest, (0, rest.epochs))

    def one_stage(self) -> dict:
        """SPOS's supernet half of the way, the evolution, and its child on within the same schedule."""
        half = self.args.spos_epochs
        model, folder = self.supernet(self.fit, "spos-whole", until(half))
        found = self.evolve(model, folder, "evolution-at-half", 0.0, self.args.flops_max)
        return found | self.go_on(model, found, folder, self.fit, (half, self.args.epochs))

    def searched_whole(self) -> dict:
        """SPOS searched as long as DSNAS takes for all, then retrained."""
        model, folder = self.supernet(self.fit, "spos-whole")  # the one of ``one_stage``, which has stopped in it
        found = self.evolve(model, folder, "evolution", 0.0, self.args.flops_max)
        return found | self.scratch(found, self.curve(folder))

    def scratch(self, found: dict, before: Curve) -> dict:
        """The architecture found, trained from scratch for all epochs, in DSNAS's way."""
        folder = self.folder / f"scratch-{_digits(found['arch'])}"
        cfg, arch = self.dsnas_config(1, NEVER), tuple(found["arch"])
        accuracy = dsnas.retrain(self.space, self.reporting, arch, cfg, folder, self.device)
        curve = [*before, *self.curve(folder, len(before), found["seconds"])]
        judged = self.judged(load_network(folder).to(self.device))
        return {"seconds": found["seconds"] + self.spent(folder), "curve": curve, **judged, "accuracy": accuracy}


def _digits(arch: Arch | list[int]) -> str:
    return "-".join(map(str, arch))


def open_images(args: Any, seed: int) -> sets.TrainVal:
    """The images by the split of a seed."""
    size = {"resolution": args.pixels} if args.pixels else {}
    how = {"limit": args.limit or None, "workers": args.decoders, **size}
    return sets.open_train(args.data, args.data_root, seed=seed, **how)


def arms(args: Any, seed: int) -> dict[str, dict]:
    """Every arm of one seed, by its name in the results."""
    one, found = Seed(args, seed), {}

    def add(name: str, compute: Callable[[], dict]) -> dict:
        found[name] = one.arm(name, compute)
        return found[name]

    direct = add("direct", lambda: one.dsnas(args.stop_gap, "dsnas"))
    add("retrained", lambda: {"flops": direct["flops"], **one.scratch(direct, direct["curve"])})
    add("no stop", lambda: one.dsnas(NEVER, "dsnas-no-stop"))
    add("DSNAS evolution", one.evolved_dsnas)
    low, high = 0.9 * direct["flops"], 1.1 * direct["flops"]
    add("SPOS matched", lambda: one.tuned(low, high, "evolution-matched"))
    add("SPOS bound", lambda: one.tuned(0.0, args.flops_max, "evolution"))
    half = TrainingFolder(one.folder / "spos")

    def retrained(random: bool) -> dict:
        _, chosen = one.searched(random)
        return chosen | one.scratch(chosen, one.curve(half.path))

    add("SPOS retrained", lambda: retrained(False))
    add("random search", lambda: retrained(True))
    add("SPOS one stage", one.one_stage)
    add("SPOS whole", one.searched_whole)
    return found
