"""Benchmarks of the hot paths: ratios measured side by side in one interleaved run."""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from supernet import machine
from supernet.cli import common, starting
from supernet.errors import UserError
from supernet.tables import Table


@dataclass(frozen=True)
class Measured(common.Answering):
    """Options of all benchmarks."""

    output: Path | None = None
    """Write the figures here as JSON."""


@dataclass(frozen=True)
class Step(Measured):
    """A supernet training step on our operators against the same step in plain PyTorch."""

    space: str = "mobile-small"
    """The supernet."""
    resolution: int = 28
    """Height and width of the images."""
    batch_size: int = 64
    """Images per step."""
    rounds: int = 30
    """Paths that every form takes, interleaved."""
    threads: int = 1
    """Threads; one is timed by its CPU clock, several by wall-clock time."""


def step(args: Step) -> None:
    from bench import step

    figures = step.run(args.space, args.resolution, args.batch_size, args.rounds, args.threads)
    common.show(step.table(figures))
    report(args, {"step": figures, "threads": args.threads})


def report(args: Measured, figures: dict) -> None:
    """State the machine, and write the figures."""
    import torch

    from latency.measure import host
    from supernet.training import defaults

    machine = {
        **host(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "allocator": f"glibc, {'keeping' if defaults.keeps_memory() else 'returning'} freed memory",
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "load": os.getloadavg()[0],
    }
    common.tell(", ".join(f"{k} {v}" for k, v in machine.items()), style="dim")
    figures = {**machine, **figures}
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(figures, indent=1) + "\n")
        common.tell(f"→ {args.output}")
    common.answer(args, figures)


def chosen(wanted: Sequence[str], known: Collection[str]) -> Sequence[str]:
    """The groups that are asked for, by default all."""
    if unknown := set(wanted) - set(known):
        raise UserError(f"unknown groups {', '.join(unknown)}: expected some of {', '.join(known)}")
    return wanted or tuple(known)


@dataclass(frozen=True)
class Kernels(Measured):
    """Every operator against plain PyTorch: one thread by its CPU clock, or a GPU by CUDA events."""

    rounds: int = 15
    """Rounds in which every form of a case runs once, in a shuffled order."""
    groups: tuple[str, ...] = ()
    """Only these groups of rows; defaults to all."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run."""


def kernels(args: Kernels) -> None:
    import torch
    from bench import kernels

    from latency.measure import pin_core

    groups = chosen(args.groups, kernels.GROUPS)
    if args.device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda needs a CUDA device, and PyTorch sees none: use --device cpu")
        common.say(common.escape(torch.cuda.get_device_name()))
    with pin_core():
        results = kernels.run(args.rounds, groups, device=args.device)
    common.show(kernels.table(results, args.device))
    if args.device == "cpu":
        common.tell(kernels.CAPTION)
    figures = {"kernels": kernels.summary(results, args.device), "cases": results, "threads": 1}
    report(args, {**figures, "device": args.device})


@dataclass(frozen=True)
class CudaModel(Measured):
    """What the CUDA kernels move, counted on the CPU, and the time that A100 and H100 need for it at best."""

    groups: tuple[str, ...] = ()
    """Only these operators; defaults to all."""
    images: int = 64
    """Images of a batch."""


def cuda_model(args: CudaModel) -> None:
    from bench import cuda_model

    results = cuda_model.run(chosen(args.groups, cuda_model.GROUPS), args.images)
    for grid, text in ((cuda_model.table(results), 3), (cuda_model.goals_table(results), 2)):
        rows = list(zip(*(column.cells for column in grid.columns), strict=True))
        common.show(Table([str(column.header) for column in grid.columns], rows, str(grid.title), text))
        if grid.caption:
            common.tell(grid.caption)
    report(args, {"cuda_model": results})


@dataclass(frozen=True)
class Population(Measured, common.Workers):
    """A recorded CES population scored at once against one architecture at a time, one thread; or by workers."""

    population: Path | None = None
    """The recorded generations; defaults to those of the tests."""
    images: int = 1500
    """Images of the validation split."""
    recalibration: tuple[int, int] = (4, 128)
    """Batches and images per batch that BN is recalibrated with."""
    generations: int = 4
    """How many of the recorded generations, evenly spaced."""
    workers: int = 1
    """With two or more: what they gain over one process, and what a task costs besides its work."""


def population(args: Population) -> None:
    import torch
    from bench import population

    from latency.measure import pin_core
    from supernet.executor import Threads

    torch.set_num_threads(1)
    given = args.population or population.POPULATION, args.images, args.recalibration, args.generations
    if args.workers > 1:
        result = population.share(*given, args.ray_or(Threads(args.workers)))
        common.say(
            f"{result['at_once']} workers ({args.workers_on}): {result['gain']:.2f} times as fast as one process; "
            f"{result['overhead_ms_per_task']:.2g} ms for a task besides its work"
        )
    else:
        with pin_core():
            result = population.run(*given)
        common.show(population.table(result))
    report(args, {"population": result, "threads": 1})


@dataclass(frozen=True)
class Ddp(Measured):
    """Gradients of the path alone against DistributedDataParallel: bytes and time of a step, one thread a process."""

    space: str = "mobile"
    """The supernet."""
    resolution: int = 96
    """Height and width of the images."""
    classes: int = 1000
    """Classes: the classifier is on every path."""
    batch_size: int = 8
    """Images per step and process."""
    rounds: int = 12
    """Paths that both forms take, interleaved."""
    processes: int = 2
    """Processes on this machine."""


def ddp(args: Ddp) -> None:
    from bench import ddp

    figures = ddp.run(args.space, args.resolution, args.classes, args.batch_size, args.rounds, args.processes)
    common.show(ddp.table(figures))
    report(args, {"ddp": figures, "threads": 1})


@dataclass(frozen=True)
class Data(Measured):
    """Decoding a folder of JPEG files, against torchvision's ImageFolder with a DataLoader."""

    images: int = 512
    """Files that are rendered."""
    resolution: int = 224
    """Height and width that images are served in."""
    batch_size: int = 64
    """Images per batch."""
    workers: int = machine.cores()
    """Processes that decode. Defaults to the cores that may be used."""
    rounds: int = 7
    """Epochs of each form, interleaved."""


def data(args: Data) -> None:
    import torch
    from bench import data

    torch.set_num_threads(1)
    figures = data.run(args.images, args.resolution, args.batch_size, args.workers, args.rounds)
    common.show(data.table(figures))
    report(args, {"data": figures})


@dataclass(frozen=True)
class Paths(Measured):
    """A path of a drawn bin of multiply-adds (SPOS): by counting, as ours, against drawing until one is in the bin."""

    space: str = "shufflenet"
    """The space."""
    resolution: int = 224
    """Height and width of the images."""
    bins: tuple[float, float, float] = (290e6, 360e6, 10e6)
    """From, to and width of the bins; the default is SPOS's."""
    draws: int = 200
    """Paths of each form, interleaved."""
    most: int = 10_000
    """Uniform paths after which rejection gives up a bin."""


def paths(args: Paths) -> None:
    from bench import paths

    figures = paths.run(args.space, args.resolution, args.bins, args.draws, args.most)
    common.show(paths.table(figures))
    report(args, {"paths": figures, "threads": 1})


Args = (
    Annotated[Step, tyro.conf.subcommand("step", description=Step.__doc__)]
    | Annotated[Kernels, tyro.conf.subcommand("kernels", description=Kernels.__doc__)]
    | Annotated[CudaModel, tyro.conf.subcommand("cuda-model", description=CudaModel.__doc__)]
    | Annotated[Population, tyro.conf.subcommand("population", description=Population.__doc__)]
    | Annotated[Ddp, tyro.conf.subcommand("ddp", description=Ddp.__doc__)]
    | Annotated[Data, tyro.conf.subcommand("data", description=Data.__doc__)]
    | Annotated[Paths, tyro.conf.subcommand("paths", description=Paths.__doc__)]
)
BENCHES = {Step: step, Kernels: kernels, CudaModel: cuda_model, Population: population, Ddp: ddp, Data: data} | {
    Paths: paths
}


def run(args: Step | Kernels | CudaModel | Population | Ddp | Data | Paths) -> None:
    BENCHES[type(args)](args)


if __name__ == "__main__":
    starting.main(run, tyro.conf.ConsolidateSubcommandArgs[Args])
