"""Stage-Wise NAS: find how many modules each stage of a network needs, by the importance of its features."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from search.stage_wise import plot
from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    from search.stage_wise_run import Settings


@dataclass(frozen=True)
class Args(common.NewRun):
    run: Path = Path("runs/stage-wise")
    preset: Literal["small", "paper"] = "small"
    """Sizes and training: the paper's (GPU-days), or small ones for two cores."""
    module: str = "residual"
    """residual (CIFAR ResNet), bottleneck (ResNet-50) or nasnet (NASNet-A's cells)."""
    criterion: str = "pls"
    """Importance by pls (PLS-VIP), inf-fs or il-fs."""
    initial: int | None = None
    """Modules in each stage of the initial network; defaults to 2 (the paper: 6)."""
    step: int | None = None
    """Modules that a stage can grow by in an iteration; defaults to 1 (the paper: 2, for nasnet 1)."""
    iterations: int | None = None
    """Iterations; n of them train 2n + 1 networks. Defaults to 3 (the paper: 5)."""
    margin: float = 0.0
    """A stage grows if its importance rises by more than this."""
    depth_max: int | None = None
    """Most modules in a stage."""
    flops_max: float = math.inf
    """Bound on the multiply-adds of candidates."""
    params_max: float = math.inf
    """Bound on the parameters of candidates."""
    width: int | None = None
    """Channels of the first stage; defaults to 8, for nasnet 4 (the paper: 16, for bottleneck 64, for nasnet 32)."""
    donor: str | None = None
    """Start from the weights of a trained deeper network: its folder, a file of a torchvision or timm ResNet, or
    timm:NAME."""
    epochs: int | None = None
    """Epochs of every network; defaults to 4 (the paper: 200, with a donor 50)."""
    further_epochs: int | None = None
    """Further epochs of candidates; defaults to 0 (the paper: 100)."""
    batch_size: int | None = None
    """Images per step; defaults to 64 (the paper: 128)."""
    lr: float | None = None
    """Initial learning rate; defaults to 0.1 (the paper: 0.01)."""
    noise: int = 0
    """Train the initial network this many more times, with other seeds, to measure how its importance varies."""
    carbon: bool = False
    """Measure energy and CO₂ of each training (needs the extra carbon)."""
    country: str = "USA"
    """Country whose electricity mix --carbon assumes, an ISO code of three letters."""


def run(args: Args) -> None:
    from search import stage_wise_run
    from search.stage_wise import Config
    from supernet.training import defaults, energy

    device = defaults.device(args.device)
    name, reason, images = common.open_images(args)
    # All that can be wrong is found before any training.
    paper, given = args.preset == "paper", settings(args)
    stages = stage_wise_run.stages_for(images)
    config = Config(stages, given.initial, given.step, given.iterations, args.margin, args.depth_max)
    space = stage_wise_run.space_for(images, args.module, config, given.width, paper)
    search = stage_wise_run.controller(config, space, args.flops_max, args.params_max)
    donor = None if args.donor is None else stage_wise_run.open_donor(args.donor, space, config)
    fit = stage_wise_run.fit_config(paper, given.epochs, given.batch_size, given.lr, args.seed)
    training = stage_wise_run.Training(fit, given.further_epochs, args.criterion, kernels=defaults.kernels(device))
    images.train.steps(given.batch_size, drop_last=True)
    folder = common.open_run(args)
    job = stage_wise_run.StageRun(
        folder, space, folder.decoded(images), training, device, donor, progress=args.progress
    )
    if args.carbon:
        energy.require(args.country)
        job = dataclasses.replace(job, meter=functools.partial(energy.measure, args.country))

    shaping = common.settings(args, "noise", "carbon", "country") | vars(given)
    shaping |= {"data": name, "fingerprint": space.fingerprint}
    with folder.lock():
        folder.begin(shaping, restart=args.restart, made_with={"data": images.identity})
        folder.write_space(space)
        common.say(
            f"{args.module} modules, at first {config.initial} in each of {config.stages} stages, {config.iterations} "
            f"iterations; {common.in_words(images, name, reason)}; {common.escape(str(args.run))}"
        )
        results: list[Mapping[str, Any]] = []
        for result in job.search(search):
            results.append(result)
            if not args.quiet:
                common.say(describe(result, len(results)))
        noise = job.spread(search.records[0].network, results[0], args.noise)
        tested = job.test(results, lambda: folder.test_images(args.data_root, args.workers))
        best = job.write_best(results, tested, noise)
        plot(folder.depths_picture, search.records, f"{args.module} modules by {args.criterion}, {name}")
    show(args, results, tested, noise)
    if search.converged:
        common.say("ended early: no stage wanted to grow, or none could")
    common.say(
        f"best on validation: [bold]{'-'.join(map(str, best['modules']))}[/bold], test "
        f"{100 * tested['test_accuracy'][best['name']]:.2f} %; ensemble of all candidates "
        f"{100 * tested['ensemble_test_accuracy']:.2f} % → "
        f"{common.escape(f'{folder.arch_path}, {folder.depths_picture}')}"
    )
    network = folder.stage_network(best["name"]).path.relative_to(folder.path)
    common.next_command("export", args, after=("--pick", network))


def settings(args: Args) -> Settings:
    """The preset with what the command line says; refuses what cannot be."""
    from search import stage_wise_run
    from search.importance import CRITERIA

    preset = stage_wise_run.preset(args.preset == "paper", args.module, args.donor is not None)
    given = {name: getattr(args, name) for name in vars(preset)}
    found = dataclasses.replace(preset, **{name: value for name, value in given.items() if value is not None})
    if args.criterion not in CRITERIA:
        raise UserError(f"--criterion {args.criterion}: expected {', '.join(CRITERIA)}")
    if found.epochs == 0 and args.donor is None:
        raise UserError("--epochs 0 trains nothing: expected at least one epoch, or a --donor")
    if min(found.epochs, found.further_epochs, args.noise) < 0:
        raise UserError("--epochs, --further-epochs and --noise: expected no negative number")
    return found


def describe(result: Mapping[str, Any], number: int) -> str:
    """One line for a trained network."""
    alpha = " ".join(f"{value:.4f}" for value in result["importance"])
    modules, accuracy = "-".join(map(str, result["modules"])), 100 * result["val_accuracy"]
    return f"{number}. {result['role']} {modules}: importance {alpha}, validation {accuracy:.2f} %"


def show(args: Args, results: Sequence[Mapping], tested: Mapping, noise: list[float] | None) -> None:
    """One row for each network."""
    from rich.table import Table

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
    common.say(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
