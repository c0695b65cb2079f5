"""Benchmarks of the hot paths: ratios measured side by side in one interleaved run."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import _cli  # isort: skip  (sets the environment that torch reads when it loads)
import _bench_cuda_model
import _bench_kernels
import _bench_population
import numpy as np
import torch
import tyro
from rich.table import Table
from torch.nn import functional as F

from latency.measure import host, pin_core
from supernet import spaces
from supernet.blocks import additive
from supernet.errors import UserError
from supernet.model import Supernet, run_path
from supernet.progress import Bar
from supernet.space import Space
from supernet.train import FitConfig, sgd


@dataclass(frozen=True)
class Step:
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
    """Threads; one is timed by its CPU clock, more by the wall."""
    output: Path | None = None
    """Write the figures here as JSON."""


# A supernet and whether its images are NCHW, by the name of the form.
FORMS: dict[str, Callable[[Space], Supernet]] = {
    "ours": lambda space: Supernet(space, kernels="fused"),
    "eager channels_last": lambda space: Supernet(space, kernels="eager"),
    "eager NCHW": lambda space: Supernet(space, kernels="eager").to(memory_format=torch.contiguous_format),
}


def steppers(args: Step, names: Iterable[str] = FORMS) -> tuple[Space, dict[str, Callable]]:
    """The space, and one whole SGD step on a path for each form."""
    torch.set_num_threads(args.threads)
    space = spaces.get(args.space, 3, args.resolution, 10)  # NCHW and NHWC are the same thing for one channel
    x = torch.randn(args.batch_size, space.channels, space.resolution, space.resolution)
    y = torch.randint(space.classes, (args.batch_size,))
    return space, {name: stepper(FORMS[name](space), x, y, name == "eager NCHW") for name in names}


def step(args: Step) -> None:
    memory = {name: in_own_process(step_memory, args, name) for name in FORMS}
    space, steps = steppers(args)
    rng = np.random.default_rng(0)
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    with Bar("step", args.rounds * len(steps), unit="steps") as bar:
        times = interleave(steps, [space.sample(rng) for _ in range(args.rounds)], clock, bar)
    table = Table(title=f"{space.name}, batch {args.batch_size}, {args.threads} thread(s), {args.rounds} paths")
    for column in ("", "ms per step", "images/s", "ours is faster by", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")
    ratios = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        # The paths differ in cost; the ratio is taken path by path.
        ratios[name] = statistics.median(t / own for t, own in zip(seconds, times["ours"], strict=True))
        speed = f"{1e3 * median:.1f}", f"{args.batch_size / median:.0f}", f"{ratios[name]:.2f}×"
        table.add_row(name, *speed, f"{memory[name]:.0f}")
    _cli.console.print(table)
    report(
        args.output,
        {"step": {"ratios": ratios, "peak_memory_mib": memory, "seconds": times}, "threads": args.threads},
    )


def step_memory(args: Step, name: str) -> float:
    """MiB that the first step on the path with the most multiply-adds adds to the process's largest size."""
    space, steps = steppers(args, [name])
    arch = tuple(max(range(len(adds)), key=adds.__getitem__) for adds in additive(space, "flops")[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps[name](arch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def in_own_process(function: Callable, *args):
    """What ``function`` returns when run in a fresh process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def stepper(model: Supernet, x: torch.Tensor, y: torch.Tensor, nchw: bool) -> Callable:
    """One whole SGD step on a path."""
    optimizer = sgd(model.train(), FitConfig(epochs=1))

    def one(arch) -> None:
        optimizer.zero_grad(set_to_none=True)
        if nchw:
            logits = x
            for module in model.path(arch):
                logits = module(logits)
        else:
            logits = run_path(model.path(arch), x)
        F.cross_entropy(logits, y).backward()
        optimizer.step()

    return one


def interleave(
    forms: dict[str, Callable], inputs: list, clock: Callable[[], float], bar: Bar
) -> dict[str, list[float]]:
    """Seconds of every form on every input: one input after the other, the forms in turn, in a shuffled order."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    rng = np.random.default_rng(0)
    for call in forms.values():
        for each in inputs[:2]:
            call(each)
    gc.collect()
    with pin_core():
        for each in inputs:
            for name in rng.permutation(list(forms)):
                start = clock()
                forms[name](each)
                times[name].append(clock() - start)
                bar.advance()
    return times


def report(output: Path | None, figures: dict) -> None:
    """State the machine, and write the figures."""
    machine = {
        **host(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "allocator": "glibc, keeping freed memory (mallopt)",
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "load": os.getloadavg()[0],
    }
    _cli.console.print(", ".join(f"{k} {v}" for k, v in machine.items()), highlight=False, style="dim")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({**machine, **figures}, indent=1) + "\n")
        _cli.console.print(f"→ {output}", highlight=False)


@dataclass(frozen=True)
class Kernels:
    """Every operator against plain PyTorch: one thread by its CPU clock, or a GPU by CUDA events."""

    rounds: int = 15
    """Rounds in which every form of a case runs once, in a shuffled order."""
    groups: tuple[str, ...] = tuple(_bench_kernels.GROUPS)
    """Only these groups of rows."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run."""
    output: Path | None = None
    """Write the figures here as JSON."""


def kernels(args: Kernels) -> None:
    unknown = set(args.groups) - set(_bench_kernels.GROUPS)
    if unknown:
        raise UserError(f"unknown groups {', '.join(unknown)}: expected some of {', '.join(_bench_kernels.GROUPS)}")
    if args.device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda needs a CUDA device, and PyTorch sees none: use --device cpu")
        _cli.console.print(torch.cuda.get_device_name(), highlight=False)
    with pin_core():
        results = _bench_kernels.run(args.rounds, args.groups, device=args.device)
    _cli.console.print(_bench_kernels.table(results, args.device))
    figures = {"kernels": _bench_kernels.summary(results, args.device), "cases": results, "threads": 1}
    report(args.output, {**figures, "device": args.device})


@dataclass(frozen=True)
class CudaModel:
    """What the CUDA kernels move, counted on the CPU, and the time that A100 and H100 need for it at best."""

    groups: tuple[str, ...] = tuple(_bench_cuda_model.GROUPS)
    """Only these operators."""
    output: Path | None = None
    """Write the figures here as JSON."""


def cuda_model(args: CudaModel) -> None:
    unknown = set(args.groups) - set(_bench_cuda_model.GROUPS)
    if unknown:
        raise UserError(f"unknown groups {', '.join(unknown)}: expected some of {', '.join(_bench_cuda_model.GROUPS)}")
    results = _bench_cuda_model.run(args.groups)
    _cli.console.print(_bench_cuda_model.table(results))
    report(args.output, {"cuda_model": results})


@dataclass(frozen=True)
class Population:
    """A recorded CES population scored at once against one architecture at a time, one thread."""

    population: Path = _bench_population.POPULATION
    """The recorded generations."""
    images: int = 1500
    """Of the validation split."""
    recalibration: tuple[int, int] = (4, 128)
    """Batches and images per batch that BN is recalibrated with."""
    generations: int = 4
    """How many of the recorded generations, evenly spaced."""
    output: Path | None = None
    """Write the figures here as JSON."""


def population(args: Population) -> None:
    torch.set_num_threads(1)
    with pin_core():
        result = _bench_population.run(args.population, args.images, args.recalibration, args.generations)
    _cli.console.print(_bench_population.table(result))
    report(args.output, {"population": result, "threads": 1})


Args = (
    Annotated[Step, tyro.conf.subcommand("step", description=Step.__doc__)]
    | Annotated[Kernels, tyro.conf.subcommand("kernels", description=Kernels.__doc__)]
    | Annotated[CudaModel, tyro.conf.subcommand("cuda-model", description=CudaModel.__doc__)]
    | Annotated[Population, tyro.conf.subcommand("population", description=Population.__doc__)]
)


def run(args: Step | Kernels | CudaModel | Population) -> None:
    {Step: step, Kernels: kernels, CudaModel: cuda_model, Population: population}[type(args)](args)


if __name__ == "__main__":
    _cli.main(run, tyro.conf.ConsolidateSubcommandArgs[Args])
