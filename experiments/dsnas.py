"""DSNAS on real images: what a step costs, direct against retrained, progressive stop, and SPOS with fine-tuning.

Every finished cell is kept in RUN: the same command continues. Accuracies are those of one half of the validation
split; SPOS selects on the other half, DSNAS on neither. The test set stays closed.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import t as student
from torch.nn import functional as F

from experiments import _common
from latency.measure import host, pin_core
from search.costs import AdditiveCost, Window
from supernet import families, files, spaces
from supernet.data import sets
from supernet.methods import dsnas, soft_mixture, spos
from supernet.model import Network, Supernet
from supernet.runs import RunFolder
from supernet.space import Arch, Choice, Gene, Space
from supernet.training import defaults, optimizers, paths
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit


@dataclass(frozen=True)
class Args(_common.OnDevice):
    run: Path = Path("runs/experiment-dsnas")
    """Folder of the trainings and of the finished cells."""
    output: Path = Path("docs/results")
    """Where dsnas.json and dsnas.png go."""
    seeds: int = 3
    """Seeds 0, 1, …: of the split, the weights, the paths."""
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Dataset directory."""
    limit: int = 5000
    """Training images, stratified."""
    epochs: int = 12
    """Epochs of every arm: DSNAS search and child, SPOS and fine-tuning, training from scratch."""
    batch_size: int = 32
    """Images per step."""
    search_share: float = 0.5
    """Epochs until DSNAS fixes its child and SPOS selects."""
    arch_lr: float = 0.01
    """Adam's rate for α; the paper's .001 is for a hundred times as many steps."""
    flops_max: float = 2e6
    """The bound of DSNAS and of SPOS, multiply-adds."""
    candidates: int = 32
    """Architectures that SPOS scores and selects from."""
    rounds: int = 30
    """Steps that each form is timed on."""
    quick: bool = False
    """Everything tiny, on digits: does it run at all?"""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    if args.quick:
        args = dataclasses.replace(args, seeds=2, data="digits", limit=320, epochs=2, candidates=3, rounds=2)
    config = {k: v for k, v in dataclasses.asdict(args).items() if k not in ("run", "output", "data_root", "seeds")}
    defaults.device(args.device)
    open_images(args, seed=0)  # what cannot be is refused before anything is written
    RunFolder(args.run).begin(config, defaults=_common.OLDER)
    costs = cell(args.run / "step.json", lambda: step_costs(args.rounds))
    arms = [seed_cells(args, seed) for seed in range(args.seeds)]
    show(costs, arms)
    minutes = sum(c["minutes"] for c in [costs, *(c for by_arm in arms for c in by_arm.values())])
    machine = {**host(), "torch": torch.__version__, "load": os.getloadavg()[0], "minutes": round(minutes, 1)}
    args.output.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output / "dsnas.json", {"settings": config, "machine": machine, "step": costs, "seeds": arms})
    plot(args.output / "dsnas.png", costs, arms)
    _common.console.print(f"{minutes:.0f} minutes → {args.output / 'dsnas.json'}", markup=False)


def cell(path: Path, compute: Callable[[], dict]) -> dict:
    """What ``compute`` gave the first time, with the minutes it took."""
    return _common.timed_cell(path, compute, time.monotonic)


# --- what a step costs


def space_of(n: int) -> Space:
    """Six layers of n candidates; their mean cost is the same for n = 2, 4, 8, as it is linear in the expansion."""
    choices = tuple(Choice("ib", 3, e) for e in range(7 - n // 2, 7 + n // 2))
    shapes = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1), (16, 16, 1)]
    genes = tuple(Gene(f"layer{i}", choices, *shape) for i, shape in enumerate(shapes))
    return Space(f"n{n}", 1, 28, 10, 8, 2, 64, "relu6", genes, (tuple(range(n)),) * len(genes))


def step_costs(rounds: int) -> dict:
    """Thread CPU time (ms) and bytes kept for the backward pass, of one whole step of each form and n, interleaved."""
    x, y = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    steps = {
        (name, n): make(space_of(n), x, y)
        for name, make in (("one path", single_path), ("DSNAS", dsnas_step), ("full", full_step))
        for n in (2, 4, 8)
    }
    times: dict = {key: [] for key in steps}
    memory: dict = {key: [] for key in steps}
    for key, step in steps.items():
        for i in range(2):
            step(i)
        memory[key] = [saved_bytes(step, i) for i in range(2, 2 + min(rounds, 20))]
    rng = np.random.default_rng(0)
    with pin_core():
        for i in range(30, 30 + rounds):
            for k in rng.permutation(len(steps)):
                key = list(steps)[k]
                start = time.thread_time()
                steps[key](i)
                times[key].append(1e3 * (time.thread_time() - start))
    forms: dict = {}
    for (name, n), values in times.items():
        figures = {"ms": float(np.mean(values)), "ms_interval": interval(values)}
        forms.setdefault(name, {})[str(n)] = {**figures, "mb": float(np.mean(memory[name, n])) / 1e6}
    return {"forms": forms}


def single_path(space: Space, x: torch.Tensor, y: torch.Tensor) -> Callable[[int], None]:
    """SPOS with DSNAS's BN: the sub-network alone."""
    model = Supernet(space, affine=True).train()
    optimizer, pick = optimizers.make(model, FitConfig(1)), paths.uniform_path(space, 0)

    def step(i: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x, pick(i)), y).backward()
        optimizer.step()

    return step


def dsnas_step(space: Space, x: torch.Tensor, y: torch.Tensor) -> Callable[[int], None]:
    cfg = dsnas.Config(
        FitConfig(1), dsnas.Budget(*families.layout(space).priced(lambda spec: spec.flops)[:2]), search_epochs=1
    )
    model = dsnas.Parent(space, [torch.ones(()) for _ in space.genes]).train()
    optimizer, search = optimizers.make(model, cfg.fit), dsnas.Distribution(model, cfg, per_epoch=10**9)

    def step(i: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x, search.sample(i)), y).backward()
        optimizer.step()
        search.update(i)

    return step


def full_step(space: Space, x: torch.Tensor, y: torch.Tensor) -> Callable[[int], None]:
    model = Supernet(space, affine=True).train()
    alpha = [torch.ones(len(open_), requires_grad=True) for open_ in space.allowed]
    optimizer, adam = optimizers.make(model, FitConfig(1)), torch.optim.Adam(alpha, lr=1e-3, betas=(0.5, 0.999))

    def step(i: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        F.cross_entropy(soft_mixture.forward(model, x, soft_mixture.softmax_weights(alpha)), y).backward()
        optimizer.step()
        adam.step()

    return step


def saved_bytes(step: Callable[[int], None], i: int) -> int:
    """Bytes of the distinct tensors that a step keeps for its backward pass, parameters left out."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(i)
    return sum(kept.values())


# --- accuracies


def open_images(args: Args, seed: int) -> sets.TrainVal:
    """The images by the split of a seed."""
    return sets.open_train(args.data, args.data_root, seed=seed, limit=args.limit)


def seed_cells(args: Args, seed: int) -> dict[str, dict]:
    """Every arm of one seed."""
    images, device = open_images(args, seed), defaults.device(args.device)
    order = np.random.default_rng(seed).permutation(len(images.val))
    select, report = (np.sort(half) for half in np.array_split(order, 2))
    reporting = dataclasses.replace(images, val=images.val.take(report))
    selecting = dataclasses.replace(images, val=images.val.take(select[: min(1000, len(select))]))
    space = spaces.get("mobile-small", images.channels, images.size, images.classes)
    flops = AdditiveCost(*families.layout(space).priced(lambda spec: spec.flops))
    lr = defaults.learning_rate(args.batch_size)
    fit_cfg = FitConfig(args.epochs, args.batch_size, lr, schedule="cosine", augment=False, seed=seed)
    search_epochs = max(1, round(args.search_share * args.epochs))
    folder = args.run / f"seed{seed}"

    def search(stop_gap: float, name: str) -> dict:
        budget = dsnas.Budget(flops.table, flops.base, args.flops_max)
        cfg = dsnas.Config(fit_cfg, budget, search_epochs, arch_lr=args.arch_lr, stop_gap=stop_gap)
        network = dsnas.run(space, reporting, cfg, folder / name, device)
        log = files.JsonLines(folder / name / "metrics.jsonl").read()
        chance = [math.log(len(open_)) for open_ in space.allowed]
        entropy = sum(log[search_epochs - 1]["entropy"]) / sum(chance)
        early = len(log[search_epochs - 2]["frozen"]) if search_epochs > 1 else 0
        result = {"arch": list(network.arch), "flops": flops(network.arch), "entropy": entropy, "settled_early": early}
        return {**result, "accuracy": log[-1]["val_accuracy"]}

    def scratch(arch: Arch) -> dict:
        cfg = dsnas.Config(fit_cfg, dsnas.Budget(flops.table, flops.base), search_epochs)
        return {
            "flops": flops(arch),
            "accuracy": dsnas.retrain(space, reporting, arch, cfg, folder / "scratch", device),
        }

    def spos_tuned(low: float, high: float, name: str) -> dict:
        """The best of ``candidates`` by one-shot accuracy, fine-tuned with the supernet's weights."""
        cfg = spos.Config(dataclasses.replace(fit_cfg, epochs=search_epochs), probes=0)
        supernet = spos.run(space, reporting, cfg, folder / "spos", device)
        window = Window(space, {"flops": flops}, {"flops": (low, high)})
        archs = window.sample(np.random.default_rng(seed), args.candidates, (), 2000)
        recalibration = spos.recalibration_images(images, 4, 128)
        one_shot, best = max((spos.score(supernet, recalibration, selecting, arch), arch) for arch in archs)
        network = Network(space, best).to(device)
        network.inherit(supernet)
        rest = dataclasses.replace(fit_cfg, epochs=max(1, args.epochs - search_epochs))
        meta = {"kind": "network", "space": space.to_json(), "arch": list(best)}
        fit(network, reporting.train, lambda step: None, rest, folder / name, meta=meta, label=name)
        accuracy = evaluate(network, reporting.val.plain_batches(512))
        return {"arch": list(best), "flops": flops(best), "one_shot": one_shot, "accuracy": accuracy}

    arms = {"direct": cell(folder / "direct.json", lambda: search(0.3, "dsnas"))}
    child = arms["direct"]
    arms["retrained"] = cell(folder / "retrained.json", lambda: scratch(tuple(child["arch"])))
    arms["no stop"] = cell(folder / "no-stop.json", lambda: search(2.0, "dsnas-no-stop"))
    for arm, low, high in (("SPOS matched", 0.9, 1.1), ("SPOS bound", 0.0, args.flops_max / child["flops"])):
        file = arm.lower().replace(" ", "-")
        ends = low * child["flops"], high * child["flops"]
        arms[arm] = cell(folder / f"{file}.json", lambda ends=ends, file=file: spos_tuned(*ends, f"{file}-tuned"))
    return arms


# --- what came out


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, by Student's t."""
    n = len(values)
    return float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None


def mean(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean ± 95 % interval."""
    half = interval(values)
    return form.format(np.mean(values)) + ("" if half is None else f" ± {half:.2f}")


def show(costs: dict, arms: Sequence[dict[str, dict]]) -> None:
    table = Table("a step", *(f"n = {n}" for n in (2, 4, 8)), title="ms of CPU time (MB kept for the backward pass)")
    for name, by_n in costs["forms"].items():
        cells = (f"{c['ms']:.1f} ± {c['ms_interval']:.1f} ({c['mb']:.1f})" for c in by_n.values())
        table.add_row(name, *cells)
    _common.console.print(table)

    title = f"{len(arms)} seeds, mean ± 95 % interval"
    table = Table("arm", "accuracy %", "minus direct, paired", "MFLOPs", "entropy / max", "settled early", title=title)
    for arm in arms[0]:
        rows = [by_arm[arm] for by_arm in arms]
        accuracy = [100 * row["accuracy"] for row in rows]
        gap = [a - 100 * by_arm["direct"]["accuracy"] for a, by_arm in zip(accuracy, arms, strict=True)]
        optional = [mean([r[key] for r in rows]) if key in rows[0] else "" for key in ("entropy", "settled_early")]
        flops = mean([row["flops"] / 1e6 for row in rows])
        table.add_row(arm, mean(accuracy), "" if arm == "direct" else mean(gap, "{:+.2f}"), flops, *optional)
    _common.console.print(table)


def plot(path: Path, costs: dict, arms: Sequence[dict[str, dict]]) -> None:
    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, by_n in costs["forms"].items():
        left.plot([int(n) for n in by_n], [c["ms"] for c in by_n.values()], marker="o", label=name)
    left.set(xlabel="candidates per layer", ylabel="ms of CPU time", title="one training step", ylim=(0, None))
    left.legend()
    for seed, by_arm in enumerate(arms):
        right.scatter(list(by_arm), [100 * row["accuracy"] for row in by_arm.values()], label=f"seed {seed}")
    right.set(ylabel="validation accuracy (%)", title="equal epochs")
    right.tick_params(axis="x", rotation=20)
    right.grid(alpha=0.2)
    right.legend()
    figure.savefig(path)


if __name__ == "__main__":
    _common.main(run, Args)
