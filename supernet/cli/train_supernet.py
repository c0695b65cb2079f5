"""Train a weight-sharing supernet on your images. --method M --help lists the options of method M."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    import torch

    from search.costs import AdditiveCost
    from supernet.data.sets import TrainVal
    from supernet.methods import dsnas, nss, spos
    from supernet.runs import RunFolder
    from supernet.space import Arch, Space
    from supernet.spec import Price
    from supernet.training.loop import FitConfig


@dataclass(frozen=True)
class Args(common.Training, common.NewRun):
    """What every method takes; enough for one whose ``Config`` and ``run`` need no more (``supernet/methods``)."""

    method: Annotated[str, tyro.conf.arg(metavar="spos|dsnas|nss")] = "spos"
    """spos: one uniform path per step; dsnas: architecture and weights together, ready to use; nss: spaces of residual
    networks that are good for a cost."""
    space: str | None = None
    """Search space: a name, a space .json, or FILE.py:function; defaults to mobile-small for images under 96 pixels,
    else mobile."""
    epochs: int = 12
    """Epochs (SPOS on ImageNet: 120)."""
    batch_size: int = 64
    """Images per step and process (SPOS on ImageNet: 1024)."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    clip: float = 0.0
    """Largest gradient norm; 0 turns clipping off."""
    augment: bool | None = None
    """Random crops and flips; defaults to on from 30 epochs, since short trainings do better without."""
    kernels: Literal["fused", "eager"] | None = None
    """The project's operators or plain PyTorch; defaults to fused on the CPU."""

    @property
    def library(self) -> Any:
        """The module of the method."""
        return importlib.import_module(f"supernet.methods.{self.method}")

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> Any:
        """The method's Config; refuses what cannot be before anything is written."""
        return self.library.Config(fit, kernels=kernels)

    def train(self, space: Space, images: TrainVal, cfg: Any, device: torch.device, run: RunFolder) -> None:
        """Train in the run folder, or continue there."""
        self.library.run(space, images, cfg, run.path, device, self.progress)

    def report(self, space: Space, cfg: Any, run: RunFolder) -> None:
        """Tell what came out and the next command."""
        last = run.metrics.read()[-1]
        accuracy = last.get("val_accuracy")
        told = "" if accuracy is None else f", one-shot accuracy of random architectures {100 * accuracy:.1f} %"
        common.say(f"trained: loss {last['loss']:.3f}{told} → {common.escape(str(run.checkpoint))}")
        common.next_command("build_lut", self)


@dataclass(frozen=True)
class Spos(Args):
    """SPOS: the supernet that searches score architectures on."""

    sampling: Literal["uniform", "flops"] = "uniform"
    """Draw paths uniformly, or within a uniformly drawn bin of multiply-adds (SPOS's code)."""
    flops_bins: tuple[float, float, float] = (290e6, 360e6, 10e6)
    """From, to and width of the bins, in multiply-adds."""

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> spos.Config:
        """The method's Config; refuses what cannot be before anything is written."""
        from supernet.methods import spos

        return spos.Config(fit, self.sampling, self.flops_bins, kernels)


@dataclass(frozen=True)
class Dsnas(Args):
    """DSNAS: architecture and weights together; the child keeps its weights."""

    flops_max: float | None = None
    """Most multiply-adds of the child."""
    lat_max: float | None = None
    """Largest latency of the child in ms, instead of --flops-max; needs --lut."""
    lut: str | None = None
    """Latency table of the space, from build_lut.py."""
    search_epochs: int | None = None
    """Epochs until the child is fixed and trains on alone; defaults to a third of --epochs (the paper: 80 of 240)."""
    weight_epochs: int = 0
    """First epochs of the search, which train weights only."""
    arch_lr: float = 1e-3
    """Adam's learning rate for the distribution over architectures; short searches need more."""
    coefficient: float = 0.1
    """Weight of the budget in the loss of paths that exceed it."""
    stop_gap: float = 0.3
    """A layer is settled when its two largest probabilities differ by this much; above 1 is never."""
    retrain: bool = False
    """Also train the child from scratch for as long, to measure the gap."""

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> dsnas.Config:
        """The method's Config; refuses a limit out of reach."""
        from search.costs import Window
        from supernet.methods import dsnas

        name, limit = self.bound()
        cost = self.costs(space)[name]
        Window(space, {name: cost}, {name: (0.0, limit)})
        return dsnas.Config(
            dataclasses.replace(fit, schedule="cosine"),
            dsnas.Budget(cost.table, cost.base, limit),
            self.search_epochs if self.search_epochs is not None else -(-fit.epochs // 3),
            self.weight_epochs,
            self.arch_lr,
            self.coefficient,
            self.stop_gap,
            kernels,
        )

    def bound(self) -> tuple[str, float]:
        """The cost that is bounded, and its limit."""
        if self.lat_max is None:
            return "flops", math.inf if self.flops_max is None else self.flops_max
        if self.flops_max is not None or self.lut is None:
            table = common.command("build_lut", None, "--space", "SPACE", "--output", "FILE")
            raise UserError(
                f"--lat-max takes the place of --flops-max and needs --lut FILE, the table of the space, by {table}"
            )
        return "latency_ms", self.lat_max

    def costs(self, space: Space) -> dict[str, AdditiveCost]:
        """Multiply-adds, parameters, and latency where there is a table."""
        from latency.table import LatencyTable
        from search.costs import AdditiveCost
        from supernet import families

        families.require_layers(space)
        layout = families.layout(space)
        prices: dict[str, Price] = {"flops": lambda spec: spec.flops, "params": lambda spec: spec.params}
        if self.lut is not None:
            prices = {"latency_ms": LatencyTable.load(self.lut, space).price, **prices}
        return {name: AdditiveCost(*layout.priced(price)) for name, price in prices.items()}

    def train(self, space: Space, images: TrainVal, cfg: dsnas.Config, device: torch.device, run: RunFolder) -> None:
        """Search and train in the run folder, or continue there; then train the child from scratch if asked."""
        from supernet.methods import dsnas

        child = dsnas.run(space, images, cfg, run.path, device, self.progress)
        if self.retrain:
            dsnas.retrain(space, images, child.arch, cfg, run.network("retrained").path, device, self.progress)

    def report(self, space: Space, cfg: dsnas.Config, run: RunFolder) -> None:
        """Leave table and front for the later commands; tell what came out and the next command."""
        found = run.found()
        if self.lut is not None and not run.lut_path.exists():
            shutil.copy(self.lut, run.lut_path)
        self.write_front(space, tuple(found["arch"]), run)
        name, limit = self.bound()
        accuracy = 100 * found["val_accuracy"]
        common.say(
            f"child: {found['layers']}; {name} {found['cost']:.6g} (at most {limit:g}); validation accuracy "
            f"{accuracy:.2f} % with the weights of the search → {common.escape(str(run.child.path))}"
        )
        if self.retrain:
            scratch = 100 * run.network("retrained").metrics.read()[-1]["val_accuracy"]
            common.say(f"from scratch, as long: {scratch:.2f} %, {scratch - accuracy:+.2f} points")
        asis = ("--inherit", "--epochs", 0, "--controls", 0)
        common.next_command("retrain", self, *asis, note="test it as it is")

    def write_front(self, space: Space, arch: Arch, run: RunFolder) -> None:
        """The child as a front of one, beside random architectures of the same bound, as ``retrain.py`` reads it."""
        import numpy as np

        from search.costs import Window

        (name, limit), costs = self.bound(), self.costs(space)
        window = Window(space, costs, {name: (0.0, limit)})
        random = window.sample(np.random.default_rng([self.seed, 1]), 8, [arch], 2000)
        entries = [{"arch": list(z), **{cost: float(f(z)) for cost, f in costs.items()}} for z in (arch, *random)]
        run.write_front(space, entries[:1], entries[1:], {name: (0.0, limit)})


@dataclass(frozen=True)
class Nss(Args):
    """NSS: spaces of residual networks that are good for a cost; each is then a --space of its own."""

    method: Annotated[str, tyro.conf.arg(metavar="spos|dsnas|nss")] = "nss"
    space: str | None = "residual-small"
    """Search space: residual, residual-medium, residual-small, or a .json of such a space."""
    lr: float | None = 0.025
    """Peak learning rate; it ends at 0.001."""
    clip: float = 5.0
    """Largest gradient norm; 0 turns clipping off."""
    targets: Annotated[str, tyro.conf.arg(metavar="T,T,…")] = ""
    """Average cost of each elite space to find: multiply-adds, or ms with --lut; defaults to quarters of the range."""
    lut: Path | None = None
    """Latency table of the space: targets are then milliseconds."""
    depth_range: int | None = None
    """Depths in one range; defaults to a quarter of the open ones, at least 2 (the paper: 4 of 16)."""
    width_range: int | None = None
    """Widths in one range; defaults to a sixteenth of the open ones, at least 4 (the paper: 32 of 512)."""
    warmup: float = 0.3
    """Share of the epochs that train weights only."""
    theta_lr: float | None = None
    """Adam's learning rate for the probabilities; defaults to DARTS's 3e-4, more in short runs."""

    def config(self, space: Space, fit: FitConfig, kernels: Any) -> nss.Config:
        """The method's Config; refuses what cannot be before anything is written."""
        from supernet.families import residual
        from supernet.methods import nss

        residual.require(space)
        fit = dataclasses.replace(fit, schedule="cosine", weight_decay=3e-4, label_smoothing=0.0)
        depths, widths = (len(open_) for open_ in space.allowed[:2])
        ranges = (self.depth_range or max(2, depths // 4), self.width_range or max(4, widths // 16))
        cfg = nss.Config(fit, (), ranges, self.warmup, theta_lr=self.theta_lr, kernels=kernels)
        cost = nss.SpaceCost.of(space, nss.split(space, ranges), self.price(space))
        try:
            targets = [float(target) for target in self.targets.split(",") if target]
        except ValueError as error:
            raise UserError(f"--targets {self.targets}: expected numbers with commas between ({error})") from error
        low, high = cost.all().min(), cost.all().max()
        targets = targets or [float(f"{low * (high / low) ** (i / 4):.2g}") for i in (1, 2, 3)]
        nss.require_attainable(cost, targets, cfg.tolerance, space)
        return dataclasses.replace(cfg, targets=tuple(targets))

    def price(self, space: Space) -> Price:
        """What a layer costs, in the unit of the targets."""
        from latency.table import LatencyTable

        return LatencyTable.load(self.lut, space).price if self.lut else lambda spec: spec.flops

    def train(self, space: Space, images: TrainVal, cfg: nss.Config, device: torch.device, run: RunFolder) -> None:
        """Search every target in the run folder, or continue there."""
        from supernet.methods import nss

        nss.run(space, images, cfg, run.path, device, self.progress, self.price(space))

    def report(self, space: Space, cfg: nss.Config, run: RunFolder) -> None:
        """Tell what came out and the next command."""
        unit, scale = ("ms", 1.0) if self.lut else ("MFLOPs", 1e-6)
        for target in cfg.targets:
            folder = run.elite(target)
            elite, result = folder.space(), folder.probabilities()
            genes = "  ".join(
                f"{gene.name} {gene.choices[open_[0]].count}–{gene.choices[open_[-1]].count}"
                for gene, open_ in zip(elite.genes, elite.allowed, strict=True)
            )
            common.say(
                f"{scale * target:.4g} {unit}: {elite.size:,} networks of {scale * result['cost']:.4g} {unit} on "
                f"average (the most probable space: {scale * result['argmax_cost']:.4g}): {genes} → "
                f"{common.escape(str(folder.space_path))}"
            )
        first = run.elite(cfg.targets[0])
        common.next_command(
            "train_supernet", None, "--space", first.space_path, "--run", first.path / "supernet", *self.same_images()
        )

    def same_images(self) -> list[object]:
        """The options that name these images to another training."""
        words: list[object] = [] if self.data is None else ["--data", self.data]
        words += [] if self.data_root == Path("data") else ["--data-root", self.data_root]
        return words + ([] if self.resolution is None else ["--resolution", self.resolution])


# The options of each method: its own, or ``Args`` where those are enough.
METHODS: dict[str, type[Args]] = {"spos": Spos, "dsnas": Dsnas, "nss": Nss}


def chosen(argv: Sequence[str]) -> type[Args]:
    """The options of the method that ``--method`` names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?", default="spos")
    name = parser.parse_known_args(argv)[0].method
    if name not in METHODS:
        common.refuse(f"--method {name}: expected one of {', '.join(METHODS)}")
    return METHODS[name]


def run(args: Args) -> None:
    from supernet import spaces
    from supernet.training import defaults, distributed
    from supernet.training.loop import FitConfig

    device = defaults.device(args.device)
    distributed.start(device)
    name, reason, images = common.open_images(args)
    wanted = args.space or ("mobile-small" if images.resolution < 96 else "mobile")
    space = spaces.get(wanted, images.channels, images.resolution, images.classes)
    fit = FitConfig(
        args.epochs,
        args.batch_size,
        args.lr if args.lr is not None else defaults.learning_rate(args.batch_size),
        warmup_epochs=args.warmup_epochs,
        clip=args.clip,
        seed=args.seed,
        augment=defaults.augments(args.augment, args.epochs),
    )
    cfg = args.config(space, fit, args.kernels or defaults.kernels(device))
    args = dataclasses.replace(args, data=name, lr=fit.lr, kernels=cfg.kernels, augment=fit.augment)
    folder, leader = common.open_run(args), distributed.rank() == 0
    with folder.lock() if leader else folder.unlocked():
        if leader:
            begin(args, folder, space, images)
            common.say(
                f"[bold]{space.name}[/bold]: {len(space.genes)} genes, {space.size:.3g} architectures; "
                f"{common.in_words(images, name, reason)}; {common.escape(str(args.run))}"
            )
        args.train(space, folder.decoded(images), cfg, device, folder)
        if leader:
            args.report(space, cfg, folder)
    distributed.stop()


def begin(args: Args, folder: RunFolder, space: Space, images: TrainVal) -> None:
    """The run folder: new, the one to continue, or a UserError if it holds another run."""
    settings = {**common.settings(args), "space": space.name}  # which one says the space file
    if folder.begin(settings, restart=args.restart, made_with={"data": images.identity, "space": args.space}):
        folder.write_space(space)


def main() -> None:
    """The command line."""
    common.main(run, chosen(sys.argv[1:]))
