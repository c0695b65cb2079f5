"""What a step costs: the sub-network alone, DSNAS, ProxylessNAS, SNAS and DARTS; forward, backward, optimiser, test.

Tables 1, 4 and 5 of DSNAS: six layers of 2, 4 and 8 candidates, a graph of cells, and a space of mobile blocks. The
forms take turns in each round. Every finished space is kept in RUN: the same command continues. Times are CPU time of
one thread, on a GPU those of the clock. Alone on the machine they mean something.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from experiments import _common, _report
from latency.measure import pin_core
from supernet import families, spaces
from supernet.errors import UserError
from supernet.methods import dsnas, proxyless, soft_mixture
from supernet.model import Supernet
from supernet.runs import RunFolder
from supernet.space import Choice, Gene, Space
from supernet.training import defaults, optimizers, paths
from supernet.training.loop import FitConfig

PARTS = ("forward", "backward", "optimiser", "test")
SNAS_TEMPERATURE = 1.0  # at the end of its search; it costs nothing


@dataclass(frozen=True)
class Args(_common.OnDevice):
    run: Path = Path("runs/experiment-dsnas-steps")
    """Folder of the finished spaces."""
    output: Path = Path("docs/results/dsnas_steps.json")
    """Results; tables and picture beside it."""
    rounds: int = 30
    """Steps that each form is timed on."""
    batch_size: int = 64
    """Images of a step (the paper, Table 4: 64)."""
    candidates: tuple[int, ...] = (2, 4, 8)
    """Operations of a layer in Table 1."""
    cells: str = "cells-small"
    """Space of cells for Table 4 (the paper: cells)."""
    mobile: str = "mobile-small"
    """Space for Table 5 (the paper: mobile, whose choices are ProxylessNAS's)."""
    mobile_batch_size: int = 64
    """Images of a step of Table 5 (the paper: 512 over all GPUs)."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    if args.quick:
        args = dataclasses.replace(args, rounds=2, batch_size=4, mobile_batch_size=4, candidates=(2, 4))
    if args.rounds < 2:
        raise UserError(f"--rounds {args.rounds}: expected two or more, as their interval is told")
    device = defaults.device(args.device)
    groups = {
        "forms": [(str(n), space_of(n), args.batch_size) for n in args.candidates],
        "cells": [(args.cells, spaces.usual(args.cells), args.batch_size)],
        "mobile": [(args.mobile, spaces.usual(args.mobile), args.mobile_batch_size)],
    }
    without = {"forms": (), "cells": (), "mobile": ("SNAS", "full")}
    RunFolder(args.run).begin(_common.identity(args))
    clock = _common.Clock(args.run, "steps")
    step = {
        name: _common.cell(
            args.run / f"{name}.json", lambda name=name: costs(args, device, groups[name], without[name])
        )
        for name in groups
    }
    finish(args, _common.results("dsnas_steps", args, clock, step=step))


def space_of(n: int) -> Space:
    """Six layers of n candidates; their mean cost is the same for n = 2, 4, 8, as it is linear in the expansion."""
    choices = tuple(Choice("ib", 3, e) for e in range(7 - n // 2, 7 + n // 2))
    shapes = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1), (16, 16, 1)]
    genes = tuple(Gene(f"layer{i}", choices, *shape) for i, shape in enumerate(shapes))
    return Space(f"n{n}", 1, 28, 10, 8, 2, 64, "relu6", genes, (tuple(range(n)),) * len(genes))


# --- one step of each form


@dataclass(frozen=True)
class Form:
    """A step in its parts; each is given the number of the step."""

    forward: Callable[[int], Tensor]  # the loss
    optimise: Callable[[int], None]  # of weights and architecture; the gradients are then gone
    test: Callable[[int], Tensor]


Make = Callable[[Space, Tensor, Tensor], Form]


def supernet(space: Space, device: torch.device) -> Supernet:
    return Supernet(space, affine=True, kernels=defaults.kernels(device)).to(device).train()


def weights_of(model: Supernet) -> torch.optim.Optimizer:
    return optimizers.make(model, FitConfig(1))


def form(
    model: Supernet, logits: Callable[[int], Tensor], y: Tensor, optimise: Callable[[int], None], test: Callable
) -> Form:
    """A form by its logits and what follows the backward pass; ``test`` gives logits, too."""

    def tested(i: int) -> Tensor:
        model.eval()
        with torch.no_grad():
            found = test(i)
        model.train()
        return found

    return Form(lambda i: F.cross_entropy(logits(i), y), optimise, tested)


def single_path(space: Space, x: Tensor, y: Tensor) -> Form:
    """SPOS with DSNAS's BN: the sub-network alone."""
    model = supernet(space, x.device)
    optimizer, pick = weights_of(model), paths.uniform_path(space, 0)

    def optimise(i: int) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return form(model, lambda i: model(x, pick(i)), y, optimise, lambda i: model(x, pick(i)))


def dsnas_step(space: Space, x: Tensor, y: Tensor) -> Form:
    cfg = dsnas.Config(
        FitConfig(1), dsnas.Budget(*families.layout(space).priced(lambda spec: spec.flops)[:2]), search_epochs=1
    )
    ones = [torch.ones((), device=x.device) for _ in space.genes]
    model = dsnas.Parent(space, ones, kernels=defaults.kernels(x.device)).to(x.device).train()
    optimizer, search = weights_of(model), dsnas.Distribution(model, cfg, per_epoch=10**9)

    def optimise(i: int) -> None:
        optimizer.step()
        search.update(i)
        optimizer.zero_grad(set_to_none=True)

    return form(model, lambda i: model(x, search.sample(i)), y, optimise, lambda i: model(x, search.child()))


def proxyless_step(space: Space, x: Tensor, y: Tensor, detached: bool) -> Form:
    """Weights and gates on the same images, in one pass of two paths, as Table 1 counts them."""
    priced = families.layout(space).priced(lambda spec: spec.flops)
    cfg = proxyless.Config(FitConfig(1), dsnas.Budget(priced.table, priced.base))
    model = supernet(space, x.device)
    optimizer, gates = weights_of(model), proxyless.Gates(model, cfg, images=None, per_epoch=1)  # type: ignore[arg-type]
    ones: list[Tensor] = []

    def logits(i: int) -> Tensor:
        ones[:] = [torch.tensor([1.0, 0.0], device=x.device, requires_grad=True) for _ in space.genes]
        return proxyless.forward(model, x, gates.pairs(i), ones, detached)

    def optimise(i: int) -> None:
        optimizer.step()
        gradients = [one.grad.cpu() for one in ones if one.grad is not None]
        gates.learn(gates.pairs(i), gradients)
        optimizer.zero_grad(set_to_none=True)

    return form(model, logits, y, optimise, lambda i: model(x, gates.child()))


def mixture_step(space: Space, x: Tensor, y: Tensor, noise: bool) -> Form:
    """All candidates, mixed by DARTS's softmax, or with ``noise`` by SNAS's concrete distribution."""
    model = supernet(space, x.device)
    alpha = [torch.ones(len(open_), device=x.device, requires_grad=True) for open_ in space.allowed]
    optimizer, adam = weights_of(model), torch.optim.Adam(alpha, lr=1e-3, betas=(0.5, 0.999))

    def logits(i: int) -> Tensor:
        if noise:
            mixed = soft_mixture.concrete_weights(alpha, SNAS_TEMPERATURE, np.random.default_rng(i))
        else:
            mixed = soft_mixture.softmax_weights(alpha)
        return soft_mixture.forward(model, x, mixed)

    def optimise(i: int) -> None:
        optimizer.step()
        adam.step()
        for one in (optimizer, adam):
            one.zero_grad(set_to_none=True)

    return form(model, logits, y, optimise, logits)


FORMS: dict[str, Make] = {
    "one path": single_path,
    "DSNAS": dsnas_step,
    "ProxylessNAS": functools.partial(proxyless_step, detached=False),
    "ProxylessNAS, its code": functools.partial(proxyless_step, detached=True),
    "SNAS": functools.partial(mixture_step, noise=True),
    "full": functools.partial(mixture_step, noise=False),
}


# --- their time and memory


def costs(args: Args, device: torch.device, cases: list[tuple[str, Space, int]], without: Sequence[str]) -> dict:
    """By form and case: ms of a step and of its parts, MB; interleaved, in an order drawn anew each round."""
    steps: dict[tuple[str, str], Form] = {}
    for case, space, batch in cases:
        x = torch.randn(batch, space.channels, *space.input_size, device=device)
        y = torch.randint(space.classes, (batch,), device=device)
        steps |= {(name, case): make(space, x, y) for name, make in FORMS.items() if name not in without}
    times: dict[tuple[str, str], list[list[float]]] = {key: [] for key in steps}
    memory = {key: memory_of(one, device) for key, one in steps.items()}
    rng = np.random.default_rng(0)
    with pin_core():
        for i in range(30, 30 + args.rounds):
            for k in rng.permutation(len(steps)):
                key = list(steps)[k]
                times[key].append(timed(steps[key], i, device))
    found: dict = {}
    for (name, case), values in times.items():
        parts, whole = np.array(values), np.array(values)[:, :3].sum(1)
        own = np.array(times["DSNAS", case])[:, :3].sum(1)
        found.setdefault(name, {})[case] = {
            "ms": float(whole.mean()),
            "ms_interval": interval(whole),
            **memory[name, case],
            "parts": {part: [float(t.mean()), interval(t)] for part, t in zip(PARTS, parts.T, strict=True)},
            "over_dsnas": [float((whole / own).mean()), interval(whole / own)],  # of the rounds, in pairs
        }
    return found


def timed(step: Form, i: int, device: torch.device) -> list[float]:
    """Milliseconds of each part."""

    def now() -> float:
        if device.type == "cpu":
            return time.thread_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    marks = [now()]
    loss = step.forward(i)
    marks.append(now())
    loss.backward()
    marks.append(now())
    step.optimise(i)
    marks.append(now())
    step.test(i)
    marks.append(now())
    return [1e3 * (b - a) for a, b in itertools.pairwise(marks)]


def memory_of(step: Form, device: torch.device, rounds: int = 8) -> dict[str, float]:
    """MB of what a step keeps for its backward pass; on a GPU also the most that it allocates."""
    for i in range(2):
        timed(step, i, device)
    found = {"mb": float(np.mean([saved_bytes(step, i) for i in range(2, 2 + rounds)])) / 1e6}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        timed(step, 2 + rounds, device)
        found["peak_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    return found


def saved_bytes(step: Form, i: int) -> int:
    """Bytes of the distinct tensors that a step keeps for its backward pass, parameters left out."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward(i)
    loss.backward()
    step.optimise(i)
    return sum(kept.values())


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean, by Student's t."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


# --- what came out


def finish(args: Args, result: dict) -> None:
    _report.report(args.output, result, tables(result), draw, (14.0, 4.0))


def tables(result: dict) -> dict[str, dict[str, dict[str, str]]]:
    """Table 1, then Tables 4 and 5 by the parts of a step."""
    step = result["step"]
    found = {
        "ms of a step (MB kept for the backward pass), by candidates": {
            name: {f"n = {n}": f"{c['ms']:.1f} ± {c['ms_interval']:.1f} ({c['mb']:.1f})" for n, c in cases.items()}
            for name, cases in step["forms"].items()
        }
    }
    for group in ("cells", "mobile"):
        rows: dict[str, dict[str, str]] = {}
        for name, cases in step.get(group, {}).items():
            ((case, c),) = cases.items()
            rows[name] = {part: f"{ms:.1f} ± {half:.1f}" for part, (ms, half) in c["parts"].items()}
            rows[name] |= {"over DSNAS": "{:.2f} ± {:.2f}".format(*c["over_dsnas"]), "MB": f"{c['mb']:.1f}"}
        if rows:
            found[f"{case}: ms of the parts of a step"] = rows
    return found


def draw(figure: Figure, result: dict) -> None:
    """Table 1 as curves, the others as bars of their parts."""
    step = result["step"]
    axes = figure.subplots(1, len(step), squeeze=False)[0]
    for name, cases in step["forms"].items():
        axes[0].plot([int(n) for n in cases], [c["ms"] for c in cases.values()], marker="o", label=name)
    axes[0].set(xlabel="candidates per layer", ylabel="ms", title="one training step", ylim=(0, None))
    axes[0].legend(fontsize=7)
    for ax, group in zip(axes[1:], [g for g in step if g != "forms"], strict=True):
        names, bottom = list(step[group]), np.zeros(len(step[group]))
        for part in PARTS:
            ms = np.array([next(iter(step[group][name].values()))["parts"][part][0] for name in names])
            ax.bar(names, ms, bottom=bottom, label=part)
            bottom += ms
        ax.set(ylabel="ms", title=next(iter(step[group]["DSNAS"])))
        ax.tick_params(axis="x", rotation=60, labelsize=7)
        ax.legend(fontsize=7)


if __name__ == "__main__":
    _common.main(run, Args, finish)
