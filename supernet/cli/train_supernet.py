"""Train a weight-sharing supernet on your images. --method M --help lists the options of method M."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from latency.table import LatencyTable
from search.costs import AdditiveCost, Window
from supernet import families, files, spaces
from supernet.cli import common
from supernet.data import NAMES, sets
from supernet.errors import UserError
from supernet.families import residual
from supernet.methods import dsnas, nss, spos
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.spec import Price
from supernet.training import defaults, distributed
from supernet.training.loop import FitConfig


@dataclass(frozen=True)
class Args:
    """What every method takes. A method adds its flags, how they become its Config, and its run."""

    method: Literal["spos", "dsnas", "nss"] = "spos"
    """spos: one uniform path per step; dsnas: architecture and weights together, ready to use; nss: spaces of residual
    networks that are good for a cost."""
    run: Path = Path("runs/default")
    """Folder of the run; the same command continues a run that was stopped."""
    data: Annotated[str | None, tyro.conf.arg(metavar="|".join(NAMES))] = None
    """Images; fashion-mnist where it can be had, else the bundled digits."""
    data_root: Path = Path("data")
    """Where image sets lie, or the folder that holds train/ and val/ for --data folder."""
    space: str | None = None
    """A space by name or a space .json; mobile-small for images under 96 pixels, else mobile."""
    epochs: int = 12
    """Passes over the training images (SPOS on ImageNet: 120)."""
    batch_size: int = 64
    """Images per step and process (SPOS on ImageNet: 1024)."""
    lr: float | None = None
    """Peak learning rate; 0.2 · sqrt(batch/64) up to SPOS's 0.5."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    clip: float = 0.0
    """Largest gradient norm; 0 is off."""
    augment: bool | None = None
    """Random crops and flips; on from 30 epochs on: a short training does better without."""
    limit: int | None = None
    """Train on this many images only, stratified."""
    resolution: int | None = None
    """Height and width in pixels, for --data folder; 224."""
    seed: int = 0
    """Of the split, the weights, the paths and the augmentation."""
    kernels: Literal["fused", "eager"] | None = None
    """The project's operators or plain PyTorch; fused on the CPU."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    workers: int = 0
    """Processes that decode images, for --data folder."""
    restart: bool = False
    """Throw the run in --run away and start again."""
    quiet: bool = False
    """No progress."""


@dataclass(frozen=True)
class Spos(Args):
    """SPOS: the supernet that searches score architectures on."""

    sampling: Literal["uniform", "flops"] = "uniform"
    """Paths drawn uniformly, or in a uniformly drawn bin of multiply-adds (SPOS's code)."""
    flops_bins: tuple[float, float, float] = (290e6, 360e6, 10e6)
    """From, to and width of the bins, multiply-adds."""

    def config(self, space: Space, fit: FitConfig, kernels: str) -> spos.Config:
        """The method's Config; refuses what cannot be before anything is written."""
        return spos.Config(fit, self.sampling, self.flops_bins, kernels)

    def train(self, space: Space, images: sets.TrainVal, cfg: spos.Config, device: torch.device) -> None:
        """Train in the run folder, or continue there; tell what came out and the next command."""
        spos.run(space, images, cfg, self.run, device, shown(not self.quiet))
        if distributed.rank() == 0:
            last = files.JsonLines(self.run / "metrics.jsonl").read()[-1]
            common.console.print(
                f"trained: loss {last['loss']:.3f}, one-shot accuracy of {cfg.probes} random architectures "
                f"{100 * last['val_accuracy']:.1f} % → {self.run / 'checkpoint.pt'}",
                highlight=False,
            )
            common.next_command(f"python tools/build_lut.py{common.run_flag(self.run)}")


@dataclass(frozen=True)
class Dsnas(Args):
    """DSNAS: architecture and weights together; the child keeps its weights."""

    flops_max: float | None = None
    """Most multiply-adds of the child."""
    lat_max: float | None = None
    """Largest latency of the child in ms, instead; needs --lut."""
    lut: str | None = None
    """Latency table of the space, from tools/build_lut.py."""
    search_epochs: int | None = None
    """Epochs until the child is fixed and goes on alone; a third of --epochs (the paper: 80 of 240)."""
    weight_epochs: int = 0
    """The first epochs of the search that train weights only."""
    arch_lr: float = 1e-3
    """Adam's rate for the distribution over architectures; short searches need more."""
    coefficient: float = 0.1
    """Of the budget's term in the loss of paths that break the budget."""
    stop_gap: float = 0.3
    """A layer is settled where its two largest probabilities are so far apart; above 1 is never."""
    retrain: bool = False
    """Train the child from scratch too, as long, to measure the gap."""

    def config(self, space: Space, fit: FitConfig, kernels: str) -> dsnas.Config:
        name, limit = self.bound()
        cost = self.costs(space)[name]
        Window(space, {name: cost}, {name: (0.0, limit)})  # refuses a limit out of reach
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
            raise UserError(
                "--lat-max takes the place of --flops-max and needs --lut FILE: build the table of the space with "
                "python tools/build_lut.py --space SPACE --output FILE"
            )
        return "latency_ms", self.lat_max

    def costs(self, space: Space) -> dict[str, AdditiveCost]:
        """Multiply-adds, parameters, and latency where there is a table."""
        families.require_layers(space)
        layout = families.layout(space)
        prices = {"flops": lambda spec: spec.flops, "params": lambda spec: spec.params}
        if self.lut is not None:
            prices = {"latency_ms": LatencyTable.load(self.lut, space).price, **prices}
        return {name: AdditiveCost(*layout.priced(price)) for name, price in prices.items()}

    def train(self, space: Space, images: sets.TrainVal, cfg: dsnas.Config, device: torch.device) -> None:
        child = dsnas.run(space, images, cfg, self.run, device, shown(not self.quiet))
        if self.retrain:
            scratch = dsnas.retrain(
                space, images, child.arch, cfg, self.run / "retrained", device, shown(not self.quiet)
            )
        if distributed.rank() > 0:
            return
        if self.lut is not None and not (self.run / "lut.json").exists():
            shutil.copy(self.lut, self.run / "lut.json")
        self.write_front(space, child.arch)
        found = files.read_json(self.run / "arch.json", "child", "run the same command again")
        name, limit = self.bound()
        accuracy = 100 * found["val_accuracy"]
        common.console.print(
            f"child: {found['layers']}; {name} {found['cost']:.6g} (at most {limit:g}); validation accuracy "
            f"{accuracy:.2f} % with the weights of the search → {self.run / 'child'}",
            highlight=False,
        )
        if self.retrain:
            gap = 100 * scratch - accuracy
            common.console.print(f"from scratch, as long: {100 * scratch:.2f} %, {gap:+.2f} points", highlight=False)
        flag = common.run_flag(self.run)
        common.next_command(f"python tools/retrain.py --inherit --epochs 0 --controls 0{flag}  # test it as it is")

    def write_front(self, space: Space, arch: Arch) -> None:
        """The child as a front of one, beside random architectures of the same bound, as ``retrain.py`` reads it."""
        (name, limit), costs = self.bound(), self.costs(space)
        window = Window(space, costs, {name: (0.0, limit)})
        random = window.sample(np.random.default_rng([self.seed, 1]), 8, [arch], 2000)

        def entry(z: Arch) -> dict:
            return {"arch": list(z), "layers": space.describe(z), **{cost: float(f(z)) for cost, f in costs.items()}}

        files.write_json(
            self.run / "front.json",
            {
                "schema": 1,
                "space": {"name": space.name, "fingerprint": space.fingerprint},
                "bounds": {name: [0.0, limit if math.isfinite(limit) else None]},
                "best": 0,
                "knee": 0,
                "front": [entry(arch)],
                "random": [entry(z) for z in random],
            },
        )


@dataclass(frozen=True)
class Nss(Args):
    """NSS: spaces of residual networks that are good for a cost; each is then a --space of its own."""

    method: Literal["spos", "dsnas", "nss"] = "nss"
    space: str | None = "residual-small"
    """residual, residual-medium, residual-small, or a .json of such a space."""
    lr: float | None = 0.025
    """Peak learning rate; it ends at 0.001."""
    clip: float = 5.0
    """Largest gradient norm; 0 is off."""
    targets: Annotated[str, tyro.conf.arg(metavar="T,T,…")] = ""
    """Average cost of each elite space to be found: multiply-adds, or ms with --lut; else thirds of what is there."""
    lut: Path | None = None
    """Latency table of the space: targets are milliseconds."""
    depth_range: int | None = None
    """Depths in one range; a quarter of the open ones, at least 2 (the paper: 4 of 16)."""
    width_range: int | None = None
    """Widths in one range; a sixteenth of the open ones, at least 4 (the paper: 32 of 512)."""
    warmup: float = 0.3
    """Share of the epochs that train weights alone."""
    theta_lr: float | None = None
    """Adam's rate for the probabilities; DARTS's 3e-4, more in short runs."""

    def config(self, space: Space, fit: FitConfig, kernels: str) -> nss.Config:
        """The method's Config; refuses what cannot be before anything is written."""
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
        return LatencyTable.load(self.lut, space).price if self.lut else lambda spec: spec.flops

    def train(self, space: Space, images: sets.TrainVal, cfg: nss.Config, device: torch.device) -> None:
        """Search every target in the run folder, or continue there; tell what came out and the next command."""
        unit, scale = ("ms", 1.0) if self.lut else ("MFLOPs", 1e-6)
        elites = nss.run(space, images, cfg, self.run, device, shown(not self.quiet), self.price(space))
        if distributed.rank() > 0:
            return
        for target, elite in zip(cfg.targets, elites, strict=True):
            folder = nss.folder_of(self.run, target)
            result = files.read_json(folder / "probabilities.json", "result", "run it again")
            cost, most_probable = scale * result["cost"], scale * result["argmax_cost"]
            genes = "  ".join(
                f"{gene.name} {gene.choices[open_[0]].count}–{gene.choices[open_[-1]].count}"
                for gene, open_ in zip(elite.genes, elite.allowed, strict=True)
            )
            common.console.print(
                f"{scale * target:.4g} {unit}: {elite.size:,} networks of {cost:.4g} {unit} on average (the most "
                f"probable space: {most_probable:.4g}): {genes} → {folder / 'space.json'}",
                highlight=False,
                soft_wrap=True,
            )
        first = nss.folder_of(self.run, cfg.targets[0])
        common.next_command(f"python tools/train_supernet.py --space {first / 'space.json'} --run {first / 'supernet'}")


METHODS = {"spos": Spos, "dsnas": Dsnas, "nss": Nss}


def chosen(argv: Sequence[str]) -> type[Args]:
    """The options of the method that ``--method`` names; a name that is none is left to the real parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default="spos")
    return METHODS.get(parser.parse_known_args(argv)[0].method, Spos)


def run(args: Spos | Dsnas | Nss) -> None:
    device = defaults.device(args.device)
    distributed.start(device)
    name, reason = (args.data, "") if args.data else sets.default_name(args.data_root)
    images = sets.open_train(
        name,
        args.data_root,
        seed=args.seed,
        resolution=args.resolution,
        workers=args.workers,
        limit=args.limit,
    )
    space = spaces.get(
        args.space or ("mobile-small" if images.resolution < 96 else "mobile"),
        images.channels,
        images.resolution,
        images.classes,
    )
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
    settings = dataclasses.replace(
        args, data=name, space=space.name, lr=fit.lr, kernels=cfg.kernels, augment=fit.augment
    )
    if distributed.rank() == 0:
        prepare(args, settings, space)
        common.console.print(
            f"[bold]{space.name}[/bold]: {len(space.genes)} layers, {space.size:.3g} architectures; "
            f"[bold]{name}[/bold]{reason and f' ({reason})'}: {len(images.train):,} training, {len(images.val):,} "
            f"validation images, {images.channels}×{images.resolution}²; {args.run}",
            highlight=False,
        )
    args.train(space, images, cfg, device)
    distributed.stop()


def prepare(args: Args, settings: Args, space) -> None:
    """The run folder: new, the one to continue, or a UserError if it holds another run."""
    if args.restart and args.run.exists():
        common.require_run_folder(args.run)
        shutil.rmtree(args.run)
    config = args.run / "config.json"
    ignored = ("run", "device", "workers", "restart", "quiet")
    wanted = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ignored}
    wanted["data_root"] = str(args.data_root)  # where the later tools look
    if not files.same_config(config, wanted, "use --restart to replace it, or another --run folder"):
        files.write_json(args.run / "space.json", space.to_json())
        files.write_json(config, wanted)


def main() -> None:
    """The command line."""
    common.main(run, chosen(sys.argv[1:]))
