"""Stage-Wise NAS: find how many modules each stage of a network needs, by the importance of its features."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.table import Table

from search import stage_wise_run
from search.importance import CRITERIA
from search.stage_wise import Config, StageWise, plot
from supernet import donors, families, files
from supernet.cli import common
from supernet.data import NAMES, sets
from supernet.errors import UserError
from supernet.families import module_stages
from supernet.model import Network, load_network
from supernet.progress import shown
from supernet.space import Space
from supernet.training import defaults, energy
from supernet.training.loop import FitConfig


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/stage-wise")
    """Folder of the run; the same command continues a run that was stopped."""
    data: Annotated[str | None, tyro.conf.arg(metavar="|".join(NAMES))] = None
    """Images; fashion-mnist where it can be had, else the bundled digits."""
    data_root: Path = Path("data")
    """Where image sets lie, or the folder that holds train/ and val/ for --data folder."""
    preset: Literal["small", "paper"] = "small"
    """Sizes and training: the paper's (GPU-days), or small ones for two cores."""
    module: str = "residual"
    """residual (CIFAR ResNet), bottleneck (ResNet-50) or nasnet (NASNet-A's cells)."""
    criterion: str = "pls"
    """Importance by pls (PLS-VIP), inf-fs or il-fs."""
    initial: int | None = None
    """Modules in each stage at first; 2, the paper's 6."""
    step: int | None = None
    """Modules that a stage can grow by in an iteration; 1, the paper's 2 (1 of nasnet)."""
    iterations: int | None = None
    """2n + 1 networks are trained for n iterations; 3, the paper's 5."""
    margin: float = 0.0
    """A stage grows where its importance rises by more than this."""
    depth_max: int | None = None
    """Most modules in a stage."""
    flops_max: float = math.inf
    """Bound on the multiply-adds of candidates."""
    params_max: float = math.inf
    """Bound on the parameters of candidates."""
    width: int | None = None
    """Channels of the first stage: 8 (4 of nasnet), the paper's 16 (64 of bottleneck, 32 of nasnet)."""
    donor: str | None = None
    """Begin with weights of a trained deeper network: its folder, a torchvision or timm ResNet's file, or timm:NAME."""
    epochs: int | None = None
    """Of every network; 4, the paper's 200, with a donor 50."""
    further_epochs: int | None = None
    """More for candidates; none, the paper's 100."""
    batch_size: int | None = None
    """Images per step; 64, the paper's 128."""
    lr: float | None = None
    """First learning rate; 0.1, the paper's 0.01."""
    noise: int = 0
    """Train the initial network so many more times, with other seeds, for the spread of its importance."""
    carbon: bool = False
    """Measure energy and CO₂ of each training (needs the extra carbon)."""
    country: str = "USA"
    """Whose electricity --carbon assumes, an ISO code of three letters."""
    limit: int | None = None
    """Train on this many images only, stratified."""
    resolution: int | None = None
    """Height and width in pixels, for --data folder; 224."""
    seed: int = 0
    """Of the split, the weights and the augmentation."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    restart: bool = False
    """Throw the run in --run away and start again."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    device = defaults.device(args.device)
    name, reason = (args.data, "") if args.data else sets.default_name(args.data_root)
    images = sets.open_train(name, args.data_root, seed=args.seed, resolution=args.resolution, limit=args.limit)
    # All that can be wrong is found before any training.
    args, config, space, search = plan(args, images)
    donor = None if args.donor is None else open_donor(args.donor, space, config)
    cfg = stage_wise_run.Training(
        fit_config(args), args.further_epochs, args.criterion, kernels=defaults.kernels(device)
    )
    images.train.steps(args.batch_size, drop_last=True)
    if args.carbon:
        energy.require(args.country)
    prepare(args, {"data": name, "fingerprint": space.fingerprint})
    files.write_json(args.run / "space.json", space.to_json())
    common.console.print(
        f"{args.module} modules, at first {config.initial} in each of {config.stages} stages, {config.iterations} "
        f"iterations; [bold]{name}[/bold]{reason and f' ({reason})'}: {len(images.train):,} training, "
        f"{len(images.val):,} validation images; {args.run}",
        highlight=False,
        soft_wrap=True,
    )

    options: dict[str, Any] = {"donor": donor, "progress": shown(not args.quiet)}
    if args.carbon:
        options["meter"] = functools.partial(energy.measure, args.country)
    results = []
    for result in stage_wise_run.run(search, space, images, cfg, args.run, device, **options):
        results.append(result)
        if not args.quiet:
            common.console.print(describe(result, results), highlight=False, soft_wrap=True)

    def train(folder: Path, seed: int) -> dict:
        again = dataclasses.replace(cfg, fit=dataclasses.replace(cfg.fit, seed=seed))
        return stage_wise_run.train(search.records[0].network, space, images, again, folder, device, **options)

    noise = spread(args, results[0], train)
    finish(args, name, space, search, results, noise, device)


def plan(args: Args, images: sets.TrainVal) -> tuple[Args, Config, Space, StageWise]:
    """Fill in the preset; the space and the search, which refuse what cannot be."""
    kind, paper, large = module_stages.kind_of(args.module), args.preset == "paper", images.resolution >= 96
    if args.criterion not in CRITERIA:
        raise UserError(f"--criterion {args.criterion}: expected {', '.join(CRITERIA)}")
    if args.epochs == 0 and args.donor is None:
        raise UserError("--epochs 0 trains nothing: expected at least one epoch, or a --donor")
    widths = {"residual": (8, 16), "bottleneck": (8, 64), "nasnet": (4, 32)}
    presets = {
        "initial": (2, 6),
        "step": (1, kind.step),
        "iterations": (3, 5),
        "width": widths[args.module],
        "epochs": (4, 200 if args.donor is None else 50),
        "further_epochs": (0, 100),
        "batch_size": (64, 128),
        "lr": (0.1, 0.01),
    }
    args = dataclasses.replace(args, **{k: v[paper] for k, v in presets.items() if getattr(args, k) is None})
    if min(args.epochs, args.further_epochs, args.noise) < 0:
        raise UserError("--epochs, --further-epochs and --noise: expected no negative number")
    config = Config(4 if large else 3, args.initial, args.step, args.iterations, args.margin, args.depth_max)
    space = module_stages.space(
        args.module,
        images.channels,
        images.resolution,
        images.classes,
        width=args.width,
        stages=config.stages,
        stem_stride=4 if large else 1 if paper else 2,
        deepest=config.reach,
    )
    module_stages.arch(space, (config.initial,) * config.stages)
    costs = {
        "multiply-adds": lambda m: families.flops(space, module_stages.arch(space, m)),
        "parameters": lambda m: families.params(space, module_stages.arch(space, m)),
    }
    bounds = {"multiply-adds": args.flops_max, "parameters": args.params_max}
    return args, config, space, StageWise(config, costs, bounds)


def open_donor(source: str, space: Space, config: Config) -> Network:
    """The donor, if it fits every network that the search can ask for."""
    donor = donors.load(source)
    donors.require_depth(donor, (config.reach,) * config.stages)
    initial = module_stages.arch(space, (config.initial,) * config.stages)
    donors.transfer(Network(space, initial, kernels="eager"), donor)
    return donor


def fit_config(args: Args) -> FitConfig:
    """The paper's §IV: SGD .01, ÷10 at a half and three quarters, Nesterov .9, weight decay 1e-4; or a short one."""
    shared = {"batch_size": args.batch_size, "lr": args.lr, "weight_decay": 1e-4, "seed": args.seed}
    if args.preset == "paper":
        return FitConfig(args.epochs, schedule="step", nesterov=True, label_smoothing=0.0, **shared)
    return FitConfig(args.epochs, schedule="cosine", clip=5.0, augment=defaults.augments(None, args.epochs), **shared)


def prepare(args: Args, settings: dict) -> None:
    """A fresh run folder, or one that holds the same search."""
    if args.restart and args.run.exists():
        common.require_run_folder(args.run)
        shutil.rmtree(args.run)
    ignored = ("run", "data_root", "noise", "carbon", "country", "device", "restart", "quiet")
    given = {k: v for k, v in dataclasses.asdict(args).items() if k not in ignored}
    finite = {k: None if v == math.inf else v for k, v in given.items()}
    config = {**finite, **settings}
    if not files.same_config(args.run / "config.json", config, "use another --run, or --restart"):
        files.write_json(args.run / "config.json", config)


def describe(result: dict, before: list[dict]) -> str:
    """One line for a trained network."""
    alpha = " ".join(f"{value:.4f}" for value in result["importance"])
    modules, accuracy = "-".join(map(str, result["modules"])), 100 * result["val_accuracy"]
    return f"{len(before)}. {result['role']} {modules}: importance {alpha}, validation {accuracy:.2f} %"


def spread(args: Args, first: dict, train: Callable[[Path, int], dict]) -> list[float] | None:
    """Standard deviation of the initial network's importance over seeds, stage by stage.

    Args:
        first: its result in the search. train: trains it in a folder with a seed, and gives the result.
    """
    if not args.noise:
        return None
    seeds = range(args.seed + 1, args.seed + 1 + args.noise)
    scores = [first, *(train(args.run / f"seed-{seed}", seed) for seed in seeds)]
    return np.std([score["importance"] for score in scores], axis=0, ddof=1).tolist()


def finish(
    args: Args,
    name: str,
    space: Space,
    search: StageWise,
    results: list[dict],
    noise: list[float] | None,
    device: torch.device,
) -> None:
    """Test the candidates and their ensemble, once; ``candidates.json``, ``arch.json``, the picture, the table."""
    path = args.run / "candidates.json"
    trained = [result for result in results if result["role"] != "T"]
    if not path.exists():
        test = sets.open_test(name, args.data_root, resolution=args.resolution)
        accuracies, ensemble = {}, 0.0
        for group in (trained[:1], trained[1:]):  # the initial network is no candidate and has no vote
            if group:
                networks = [load_network(args.run / "networks" / result["name"]).to(device) for result in group]
                batches = test.batches(256, seed=0, epoch=0, augment=False, drop_last=False)
                alone, ensemble = stage_wise_run.vote(networks, batches)
                accuracies |= {result["name"]: accuracy for result, accuracy in zip(group, alone, strict=True)}
        tested = {"test_accuracy": accuracies, "ensemble_test_accuracy": ensemble, "test_images": len(test)}
        files.write_json(path, {"schema": 1, **tested})
    tested = files.read_json(path, "test result", "run the same command again")
    # The last of the most accurate on the validation split: of equals the one that the search went on from.
    best = max(reversed(trained[1:] or trained), key=lambda result: result["val_accuracy"])
    files.write_json(
        args.run / "arch.json",
        {
            "schema": 1,
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "arch": list(module_stages.arch(space, best["modules"])),
            **{key: best[key] for key in ("name", "modules", "val_accuracy", "params", "flops")},
            "test_accuracy": tested["test_accuracy"][best["name"]],
            "importance_sd": noise,
        },
    )
    picture = args.run / "depths.png"
    plot(picture, search.records, f"{args.module} modules by {args.criterion}, {name}")
    show(args, results, tested, noise)
    if search.converged:
        common.console.print("ended early: no stage wanted to grow, or none could", highlight=False)
    common.console.print(
        f"best on validation: [bold]{'-'.join(map(str, best['modules']))}[/bold], test "
        f"{100 * tested['test_accuracy'][best['name']]:.2f} %; ensemble of all candidates "
        f"{100 * tested['ensemble_test_accuracy']:.2f} % → {args.run / 'arch.json'}, {picture}",
        highlight=False,
        soft_wrap=True,
    )
    common.next_command(f"python tools/export.py --run {args.run} --pick networks/{best['name']}")


def show(args: Args, results: list[dict], tested: dict, noise: list[float] | None) -> None:
    """One row for each network."""
    table = Table(title=f"importance by {args.criterion}, stage by stage; candidates tested once")
    columns = ["", "modules", "importance", "MFLOPs", "k params", "s", "val %", "test %"]
    columns += ["Wh", "g CO₂"] if args.carbon else []
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i > 1 else "left", no_wrap=column != "importance")
    for result in results:
        accuracy, least = tested["test_accuracy"].get(result["name"]), "" if result["whole"] else "≥ "
        row = [
            f"{result['role']} {result['iteration']}",
            "-".join(map(str, result["modules"])),
            " ".join(f"{value:.4f}" for value in result["importance"]),
            f"{result['flops'] / 1e6:.2f}",
            f"{result['params'] / 1e3:.1f}",
            f"{least}{result['seconds']:.0f}",
            f"{100 * result['val_accuracy']:.2f}",
            "" if accuracy is None else f"{100 * accuracy:.2f}",
        ]
        if args.carbon:
            spent = [result.get(key) for key in ("energy_kwh", "co2_kg")]  # not there if it was not asked for then
            row += ["" if value is None else f"{least}{1e3 * value:.3g}" for value in spent]
        table.add_row(*row)
    if noise is not None:
        table.add_section()
        table.add_row("SD", f"{args.noise + 1} seeds", " ".join(f"{value:.4f}" for value in noise))
    common.console.print(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
