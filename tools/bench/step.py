"""A supernet training step on our operators against the same step in plain PyTorch, and what the allocator is worth."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F

from latency.measure import pin_core
from supernet import active, families, spaces
from supernet.families import elastic_sharing, residual, slices
from supernet.families.base import Ascending
from supernet.model import Network, Supernet, run_path
from supernet.progress import Bar
from supernet.space import Arch, Space
from supernet.tables import Table
from supernet.training import defaults
from supernet.training.config import FitConfig
from supernet.training.optimizers import make

# A supernet and whether its images are NCHW, by the name of the form.
FORMS: dict[str, Callable[[Space], Supernet]] = {
    "ours": lambda space: Supernet(space, kernels="fused"),
    "eager channels_last": lambda space: Supernet(space, kernels="eager"),
    "eager NCHW": lambda space: Supernet(space, kernels="eager").to(memory_format=torch.contiguous_format),
}
LARGEST = -1  # in place of a seed: the path with the most multiply-adds

Shape = tuple[str, int, int, int]  # space, resolution, images per step, threads


def run(space: str, resolution: int, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds of every form on ``rounds`` paths, interleaved; peak memory in MiB; the allocator's ratios."""
    shape = (space, resolution, batch, threads)
    memory = {}
    for name in FORMS:
        with worker(keep=True) as process:
            memory[name] = process.submit(peak_memory, shape, name).result()
    with Bar("step", (len(FORMS) + 2 * 2) * rounds, unit="steps") as bar:
        seconds = interleave(shape, rounds, bar)
        allocator = {name: keeping(shape, name, rounds, bar) for name in ("ours", "eager channels_last")}
        sliced = isinstance(families.layout(space_of(shape)), Ascending)
        full_width = against_the_network_alone(shape, rounds) if sliced else None
    # The paths differ in cost; a ratio is taken path by path.
    ratios = {name: statistics.median(np.divide(of, seconds["ours"])) for name, of in seconds.items()}
    return {
        "space": space,
        "batch_size": batch,
        "ratios": ratios,
        "keeping_memory_ratios": allocator,
        "full_width_ratio": full_width,
        "peak_memory_mib": memory,
        "seconds": seconds,
    }


def table(figures: dict[str, Any]) -> Table:
    """One row per form."""
    rounds = len(figures["seconds"]["ours"])
    title = f"{figures['space']}, batch {figures['batch_size']}, {rounds} paths"
    if figures["full_width_ratio"]:
        title += f"; the largest takes {figures['full_width_ratio']:.3f} times what it takes alone"
    rows = []
    for name, seconds in figures["seconds"].items():
        median, kept = statistics.median(seconds), figures["keeping_memory_ratios"].get(name)
        speed = f"{1e3 * median:.1f}", f"{figures['batch_size'] / median:.0f}", f"{figures['ratios'][name]:.2f}×"
        rows.append((name, *speed, f"{kept:.2f}×" if kept else "", f"{figures['peak_memory_mib'][name]:.0f}"))
    headings = ("", "ms per step", "images/s", "ours is faster by", "keeping freed memory gives", "peak MiB")
    return Table(headings, rows, title)


def steppers(shape: Shape, names: Iterable[str]) -> dict[str, Callable[[int], None]]:
    """One whole SGD step of each form, on the path of a seed."""
    space = space_of(shape)
    x, y = images(space, shape)
    return {form: stepper(FORMS[form](space), x, y, form == "eager NCHW") for form in names}


def space_of(shape: Shape) -> Space:
    """NCHW and NHWC are the same thing for one channel, so that images have three."""
    return spaces.get(shape[0], 3, shape[1], 10)


def images(space: Space, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch and its labels; sets the threads."""
    *_, batch, threads = shape
    torch.set_num_threads(threads)
    x = torch.randn(batch, space.channels, *space.input_size)
    return x, torch.randint(space.classes, (batch,))


@contextlib.contextmanager
def slices_of_pytorch() -> Iterator[None]:
    """Parts of parameters as PyTorch slices and differentiates them, in place of ours."""

    def plain(parameters: Any, boxes: Any) -> list[torch.Tensor]:
        return list(map(active.part, parameters, boxes))

    with contextlib.ExitStack() as stack:
        for module in (elastic_sharing, residual, slices):
            stack.enter_context(mock.patch.object(module, "active", plain))
        yield


def stepper(model: Supernet | Network, x: torch.Tensor, y: torch.Tensor, nchw: bool) -> Callable[[int], None]:
    """Forward, backward and SGD on the path of a seed; of eager forms with PyTorch's own slices and optimiser."""
    optimizer, space = make(model.train(), FitConfig(epochs=1)), model.space
    eager = isinstance(model, Supernet) and model.options["kernels"] == "eager"
    if eager:
        optimizer = torch.optim.SGD(optimizer.param_groups, optimizer.defaults["lr"])
    largest = largest_of(space)

    def one(seed: int) -> None:
        with slices_of_pytorch() if eager else contextlib.nullcontext():
            step(seed)

    def step(seed: int) -> None:
        arch = largest if seed == LARGEST else space.sample(np.random.default_rng(seed))
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


def largest_of(space: Space) -> Arch:
    """The architecture with the most multiply-adds, gene by gene."""
    if isinstance(layout := families.layout(space), Ascending):
        return layout.largest
    flops = layout.priced(lambda spec: spec.flops).table
    return tuple(max(range(len(row)), key=row.__getitem__) for row in flops)


def against_the_network_alone(shape: Shape, rounds: int) -> float:
    """A step of the largest network as slices of the supernet over one of the network alone, both on our operators."""
    space, times = space_of(shape), []
    models = FORMS["ours"](space), Network(space, largest_of(space), affine=False, kernels="fused")
    _, y = images(space, shape)
    x = torch.randn(len(y), *models[1].input_shape)  # of its own resolution, which need not be that of the space
    steps = [stepper(model, x, y, False) for model in models]
    for i in range(-2, rounds):
        seconds = [timed(step, LARGEST, shape) for step in (steps if i % 2 else steps[::-1])]
        if i >= 0:
            times.append(seconds if i % 2 else seconds[::-1])
    return statistics.median(ours / alone for ours, alone in times)


def interleave(shape: Shape, rounds: int, bar: Bar) -> dict[str, list[float]]:
    """Seconds of every form on every path: one path after the other, the forms in turn, in a shuffled order."""
    forms, rng = steppers(shape, FORMS), np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for step in forms.values():
        for seed in range(2):
            step(seed)
    gc.collect()
    with pin_core():
        for seed in range(rounds):
            for name in rng.permutation(list(forms)):
                times[name].append(timed(forms[name], seed, shape))
                bar.advance()
    return times


def timed(step: Callable[[int], None], seed: int, shape: Shape) -> float:
    """Seconds of one step: of the thread's CPU clock where it is alone, else of the wall."""
    clock = time.thread_time if shape[-1] == 1 else time.perf_counter
    start = clock()
    step(seed)
    return clock() - start


# --- in processes of their own, whose memory nothing else has touched


def worker(keep: bool) -> ProcessPoolExecutor:
    """A fresh process, with the allocator asked to keep freed memory or left as it is."""
    prepare = defaults.keep_memory if keep else os.getpid
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=prepare)


def peak_memory(shape: Shape, name: str) -> float:
    """MiB that the first step on the largest path adds to the process's largest size."""
    step = steppers(shape, [name])[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(LARGEST)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def keeping(shape: Shape, name: str, rounds: int, bar: Bar) -> float:
    """How much faster a step is where freed memory is kept: two processes that take turns, path by path."""
    ratios = []
    with worker(keep=True) as kept, worker(keep=False) as returned:
        for seed in range(-2, rounds):
            first, second = (kept, returned) if seed % 2 else (returned, kept)
            seconds = {
                process: process.submit(step_in_worker, shape, name, max(seed, 0)).result()
                for process in (first, second)
            }
            if seed >= 0:
                ratios.append(seconds[returned] / seconds[kept])
                bar.advance(2)
    return statistics.median(ratios)


_steps: dict[str, Callable[[int], None]] = {}  # of a worker, made once


def step_in_worker(shape: Shape, name: str, seed: int) -> float:
    """Seconds of one step in this process."""
    if name not in _steps:
        _steps.update(steppers(shape, [name]))
    return timed(_steps[name], seed, shape)
