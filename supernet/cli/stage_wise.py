"""Stage-Wise NAS: find how many modules each stage of a network needs, by the importance of its features."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from supernet import machine, metrics
from supernet.cli import common, opening, report, starting
from supernet.errors import UserError
from supernet.metrics import HEADINGS, METRICS, key, percent
from supernet.quantities import several

if TYPE_CHECKING:
    from search.stage_wise import Config
    from search.stage_wise_settings import Settings
    from supernet.runs import RunFolder
    from supernet.space import Arch, Space


@dataclass(frozen=True)
class Modules:
    """Options of what the networks are made of."""

    topic: ClassVar[str] = "network"
    module: str = "residual"
    """residual (CIFAR ResNet), bottleneck (ResNet-50) or nasnet (NASNet-A's cells)."""
    width: Annotated[int | None, common.UNSET] = None
    """Channels of the first stage; defaults to 8, for nasnet 4 (the paper: 16, for bottleneck 64, for nasnet 32)."""
    initial: Annotated[int | None, common.UNSET] = None
    """Modules in each stage of the initial network; defaults to 2 (the paper: 6, for nasnet 2)."""
    depth_max: Annotated[tuple[int, ...] | None, common.UNSET] = None
    """Most modules in a stage: one number for all, or one for each, such as those of a donor (ResNet-152: 3 8 36 3)."""
    donor: Annotated[str | None, common.UNSET] = None
    """Start from a deeper network's weights: its folder, a file of a torchvision or timm ResNet, or timm:NAME."""


@dataclass(frozen=True)
class Search(common.Judged):
    """Options of how the stages grow."""

    topic: ClassVar[str] = "search"
    criterion: str = "pls"
    """Importance by pls (PLS-VIP), inf-fs or il-fs."""
    step: Annotated[int | None, common.UNSET] = None
    """Modules that a stage can grow by in an iteration; defaults to 1 (the paper: 2, for nasnet 1)."""
    iterations: Annotated[int | None, common.UNSET] = None
    """Iterations; n of them train 2n + 1 networks. Defaults to 3 (the paper: 5)."""
    margin: float = 0.0
    """A stage grows if its importance rises by more than this."""
    pairs: int = 1
    """Most pairs of trainings, each of another seed, that decide an iteration by a sequential test; the paper: 1."""
    level: float = 0.2
    """Share of wrong decisions on a stage that --pairs allow at most."""
    noise: int = 0
    """Train the initial network this many more times, with other seeds, to measure how its importance varies."""


@dataclass(frozen=True)
class Training:
    """Options of how every network is trained."""

    topic: ClassVar[str] = "training"
    epochs: Annotated[int | None, common.UNSET] = None
    """Epochs of every network; defaults to 4 (the paper: 200, with a donor 50)."""
    further_epochs: Annotated[int | None, common.UNSET] = None
    """Further epochs of candidates, once their importance is measured; defaults to 0 (the paper: 100)."""
    passes: Annotated[int | None, common.UNSET] = None
    """Passes over the training images in an epoch, each augmented anew; defaults to 1 (the paper's authors: 3)."""
    batch_size: Annotated[int | None, common.UNSET] = None
    """Images per step; defaults to 64 (the paper: 128)."""
    lr: Annotated[float | None, common.UNSET] = None
    """Initial learning rate; defaults to 0.1 (the paper: 0.01)."""


@dataclass(frozen=True)
class Measuring:
    """Options of trainings on this machine."""

    topic: ClassVar[str] = "machine"
    jobs: int = machine.cores()
    """Networks trained in parallel, on the CPU, sharing the --workers: two at most, and those of --noise."""
    carbon: bool = False
    """Measure energy and CO₂ of each training (needs the extra carbon)."""
    country: str = "USA"
    """Country whose electricity mix --carbon assumes, an ISO code of three letters."""


@dataclass(frozen=True)
class Bounds(common.Bounds):
    """Options of what candidates may cost."""

    topic: ClassVar[str] = "bound"
    latency_max: float = math.inf
    """Bound on the predicted latency of candidates in ms: by --lut, else of layers measured here as they come up."""
    lut: Annotated[Path | None, common.UNSET] = None
    """Latency table of the run's space (build_lut.py, once the run has begun) for --latency-max."""


@dataclass(frozen=True)
class Args(Bounds, Measuring, Training, Search, Modules, common.Workers, common.Kernels, opening.NewRun):
    run: common.Folder = Path("runs/stage-wise")
    preset: Literal["small", "paper"] = "small"
    """Sizes and training: the paper's (GPU-days), or small ones for two cores."""


def run(args: Args) -> None:
    from search import stage_wise_run, stage_wise_settings
    from search.stage_wise import plot
    from supernet.executor import Processes
    from supernet.training import defaults, energy

    device = defaults.device(args.device)
    if args.carbon and args.workers_on == "ray":
        raise UserError("--carbon measures one training after another on this machine: leave --workers-on ray out")
    executor = args.ray_or(Processes(1 if args.carbon else args.jobs))
    share = -(-args.workers // min(2, executor.at_once))  # of the processes that decode
    name, reason, images = opening.open_images(dataclasses.replace(args, workers=share))
    # All that can be wrong is found before any training.
    metrics.require(args.metric, images.classes)
    if args.lut is not None and not math.isfinite(args.latency_max):
        raise UserError("--lut is for --latency-max: give both, or neither")
    paper, names = args.preset == "paper", [field.name for field in dataclasses.fields(stage_wise_settings.Settings)]
    given = stage_wise_settings.preset(paper, args.module, args.donor, **{name: getattr(args, name) for name in names})
    config = configure(args, given, stage_wise_settings.stages_for(images))
    space = stage_wise_settings.space_for(images, args.module, config, given.width, paper)
    bounds = args.flops_max, args.params_max
    search = stage_wise_settings.controller(config, space, *bounds)
    if args.lut is not None:
        search = stage_wise_settings.controller(config, space, *bounds, args.latency_max, by_table(args.lut, space))
    donor = None if args.donor is None else stage_wise_settings.open_donor(args.donor, space, config)
    fit = stage_wise_settings.fit_config(paper, given, args.seed)
    kernels = defaults.kernels(device, args.kernels)
    training = stage_wise_run.Training(fit, given.further_epochs * given.passes, args.criterion, kernels=kernels)
    images.train.steps(given.batch_size, drop_last=True)
    if args.noise < 0:
        raise UserError(f"--noise {args.noise}: expected no negative number")
    folder = common.open_run(args)
    job = stage_wise_run.StageRun(
        folder,
        space,
        folder.decoded(images, args.progress),
        training,
        device,
        donor,
        progress=args.progress,
        executor=executor,
        metric=args.metric,
    )
    if args.carbon:
        energy.require(args.country)
        job = dataclasses.replace(job, meter=functools.partial(energy.measure, args.country))

    shaping = common.settings(args, "kernels", "noise", "carbon", "country", "jobs") | vars(given)
    shaping |= {"data": name, "fingerprint": space.fingerprint}
    usual = common.defaults(args) | {"passes": 1}
    with folder.lock():
        folder.begin(shaping, restart=args.restart, defaults=usual, images=images)
        folder.write_space(space)
        common.say(
            f"{args.module} modules, at first {config.initial} in each of {several(config.stages, 'stage')}, "
            f"{several(config.iterations, 'iteration')}; {opening.in_words(images, name, reason)}; "
            f"{common.escape(str(args.run))}"
        )
        if args.lut is None and math.isfinite(args.latency_max):
            measured = measured_latency(args, folder, space, config)
            search = stage_wise_settings.controller(config, space, *bounds, args.latency_max, measured)
        results: list[Mapping[str, Any]] = []
        for result in job.search(search):
            results.append(result)
            if not args.quiet:
                modules, alpha = stage_wise_run.modules_and_importance(result)
                share = 100 * result[key("val", args.metric)]
                found = f"importance {alpha}, {HEADINGS[args.metric]}validation {share:.2f} %"
                common.say(f"{len(results)}. {stage_wise_run.role(result)} {modules}: {found}")
        noise = job.spread(search.records[0].network, results[0], args.noise)
        tested = job.test(results, lambda: folder.test_images(args.data_root, args.workers))
        best = job.write_best(results, tested, noise)
        plot(folder.depths_picture, search.records, f"{args.module} modules by {args.criterion}, {name}")
    common.show(stage_wise_run.table(results, tested, args.criterion, noise, args.noise + 1, args.carbon, args.metric))
    if search.converged:
        common.say("ended early: no stage wanted to grow, or none could")
    test, together = tested_in_words(tested, best["name"])
    common.say(
        f"best on validation: [bold]{stage_wise_run.modules_and_importance(best)[0]}[/bold], test "
        f"{common.escape(test)}; ensemble of all candidates {common.escape(together)} → "
        f"{common.escape(f'{folder.arch_path}, {folder.depths_picture}')}"
    )
    network = folder.stage_network(best["name"]).path.relative_to(folder.path)
    common.next_command("export", args, after=("--pick", network))
    common.answer(args, folder.arch_path)


def configure(args: Args, given: Settings, stages: int) -> Config:
    """Algorithm 1's settings."""
    from search.stage_wise import Config

    depth: Any = args.depth_max
    depth = depth[0] if depth is not None and len(depth) == 1 else depth
    sizes = stages, given.initial, given.step, given.iterations
    return Config(*sizes, args.margin, depth, pairs=args.pairs, level=args.level)


def tested_in_words(tested: Mapping[str, Any], name: str) -> list[str]:
    """The test accuracies of a network and of the ensemble, by every metric that was taken down."""
    told: dict[str, list[str]] = {"of it": [], "of all": []}
    for metric in (metric for metric in METRICS if key("test", metric) in tested):
        taken = key("test", metric)
        for words, share in zip(told.values(), (tested[taken][name], tested[f"ensemble_{taken}"]), strict=True):
            row = {taken: share, "test_images": tested["test_images"]}
            words.append(f"{HEADINGS[metric]}{percent(row, 'test', metric)}")
    return [", ".join(words) for words in told.values()]


def by_table(path: Path, space: Space) -> Callable[[Space, Arch], float]:
    """Predicted latencies in ms by a table of this space."""
    from latency.table import LatencyTable

    table = LatencyTable.load(path, space)
    return lambda _, arch: table.predict_arch(space, arch)


def measured_latency(args: Args, folder: RunFolder, space: Space, config: Config) -> Callable[[Space, Arch], float]:
    """Predicted latencies in ms on this machine, kept in the run."""
    from latency.on_demand import OnDemandTable
    from supernet.families import module_stages

    ends = [(space, module_stages.arch(space, modules)) for modules in (config.first, config.reach)]
    return OnDemandTable(folder.lut_path, ends, args.progress).latency


main = starting.entry(run, Args, after=report.leave_page)
