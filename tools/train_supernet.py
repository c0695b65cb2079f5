"""Train a weight-sharing supernet on your images. --method M --help lists the options of method M."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import _cli
import torch
import tyro

from latency.table import LatencyTable
from supernet import checkpoint, data, distributed, nss, residual, spaces, spos
from supernet.blocks import Price
from supernet.errors import UserError
from supernet.space import Space
from supernet.train import FitConfig


@dataclass(frozen=True)
class Args:
    """What every method takes. A method adds its flags, how they become its Config, and its run."""

    method: Literal["spos", "nss"] = "spos"
    """spos: one uniform path per step; nss: search for elite spaces of residual networks."""
    run: Path = Path("runs/default")
    """Folder of the run; the same command continues a run that was stopped."""
    data: Annotated[str | None, tyro.conf.arg(metavar="|".join(data.NAMES))] = None
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
    """Peak learning rate; 0.08 · sqrt(batch/64) up to SPOS's 0.5."""
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

    def train(self, space: Space, images: data.TrainVal, cfg: spos.Config, device: torch.device) -> None:
        """Train in the run folder, or continue there; tell what came out and the next command."""
        spos.run(space, images, cfg, self.run, device, self.quiet)
        if distributed.rank() == 0:
            last = checkpoint.JsonLines(self.run / "metrics.jsonl").read()[-1]
            _cli.console.print(
                f"trained: loss {last['loss']:.3f}, one-shot accuracy of {cfg.probes} random architectures "
                f"{100 * last['val_accuracy']:.1f} % → {self.run / 'checkpoint.pt'}",
                highlight=False,
            )
            _cli.next_command(f"python tools/build_lut.py{_cli.run_flag(self.run)}")


@dataclass(frozen=True)
class Nss(Args):
    """NSS: spaces of residual networks that are good for a cost; each is then a --space of its own."""

    method: Literal["spos", "nss"] = "nss"
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
        residual.require_staged(space)
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

    def train(self, space: Space, images: data.TrainVal, cfg: nss.Config, device: torch.device) -> None:
        """Search every target in the run folder, or continue there; tell what came out and the next command."""
        unit, scale = ("ms", 1.0) if self.lut else ("MFLOPs", 1e-6)
        elites = nss.run(space, images, cfg, self.run, device, self.quiet, self.price(space))
        if distributed.rank() > 0:
            return
        for target, elite in zip(cfg.targets, elites, strict=True):
            folder = nss.folder_of(self.run, target)
            result = checkpoint.read_json(folder / "probabilities.json", "result", "run it again")
            cost, most_probable = scale * result["cost"], scale * result["argmax_cost"]
            genes = "  ".join(
                f"{gene.name} {gene.choices[open_[0]].count}–{gene.choices[open_[-1]].count}"
                for gene, open_ in zip(elite.genes, elite.allowed, strict=True)
            )
            _cli.console.print(
                f"{scale * target:.4g} {unit}: {elite.size:,} networks of {cost:.4g} {unit} on average (the most "
                f"probable space: {most_probable:.4g}): {genes} → {folder / 'space.json'}",
                highlight=False,
                soft_wrap=True,
            )
        first = nss.folder_of(self.run, cfg.targets[0])
        _cli.next_command(f"python tools/train_supernet.py --space {first / 'space.json'} --run {first / 'supernet'}")


METHODS = {"spos": Spos, "nss": Nss}


def chosen(argv: Sequence[str]) -> type[Args]:
    """The options of the method that ``--method`` names; a name that is none is left to the real parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default="spos")
    return METHODS.get(parser.parse_known_args(argv)[0].method, Spos)


def run(args: Spos | Nss) -> None:
    device = _cli.device(args.device)
    distributed.start(device)
    name, reason = (args.data, "") if args.data else data.default_name(args.data_root)
    images = data.open_train(
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
        args.lr if args.lr is not None else _cli.default_lr(args.batch_size),
        warmup_epochs=args.warmup_epochs,
        clip=args.clip,
        seed=args.seed,
        augment=_cli.augments(args.augment, args.epochs),
    )
    cfg = args.config(space, fit, args.kernels or _cli.default_kernels(device))
    settings = dataclasses.replace(
        args, data=name, space=space.name, lr=fit.lr, kernels=cfg.kernels, augment=fit.augment
    )
    if distributed.rank() == 0:
        prepare(args, settings, space)
        _cli.console.print(
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
        _cli.require_run_folder(args.run)
        shutil.rmtree(args.run)
    config = args.run / "config.json"
    ignored = ("run", "data_root", "device", "workers", "restart", "quiet")
    wanted = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ignored}
    if not checkpoint.same_config(config, wanted, "use --restart to replace it, or another --run folder"):
        checkpoint.write_json(args.run / "space.json", space.to_json())
        checkpoint.write_json(config, wanted)


if __name__ == "__main__":
    _cli.main(run, chosen(sys.argv[1:]))
