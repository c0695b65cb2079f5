"""Search the trained supernet for the most accurate networks within a latency bound (CES: constrained NSGA-II)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _cli
import numpy as np
from rich.table import Table

from latency.table import LatencyTable
from search import front as fronts
from search.ces import CES, CESConfig, Record
from search.costs import AdditiveCost
from search.evaluator import Evaluator
from supernet import blocks, checkpoint, spos
from supernet.errors import UserError
from supernet.progress import Bar
from supernet.space import Arch, Space


@dataclass(frozen=True)
class Args:
    lat_max: float | None = None
    """Latency bound in ms; without one, 40 % of the way from the fastest to the slowest architecture."""
    lat_min: float = 0.0
    """Lower end of the latency window in ms."""
    flops_max: float = math.inf
    """Bound on multiply-adds."""
    params_max: float = math.inf
    """Bound on parameters."""
    run: Path = Path("runs/default")
    """Folder of the trained supernet; the front goes there."""
    lut: Path | None = None
    """Latency table; RUN/lut.json."""
    population: int = 32
    """Architectures per iteration (the paper: 64)."""
    iterations: int = 12
    """Iterations, the random first one included (the paper: 40)."""
    random: int = 32
    """Random architectures of the same window to compare with."""
    recalibration: tuple[int, int] = (8, 128)
    """Batches and images per batch that BN is recalibrated with."""
    val_limit: int | None = None
    """Score on this many validation images only, stratified."""
    data_root: Path = Path("data")
    """Where image sets lie."""
    seed: int = 0
    """Of the search."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    workers: int = os.cpu_count() or 1
    """Threads that score architectures side by side, on the CPU."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    space = _cli.load_space(args.run)
    lut_path = args.lut or args.run / "lut.json"
    lut = LatencyTable.load(lut_path, space)
    supernet = _cli.load_supernet(args.run, space, _cli.device(args.device))
    specs = blocks.layers(space)
    costs = {
        "latency": AdditiveCost(*specs.priced(lut.price)),
        "flops": AdditiveCost(*specs.priced(lambda spec: spec.flops)),
        "params": AdditiveCost(*specs.priced(lambda spec: spec.params)),
    }
    window = (args.lat_min, latency_bound(args, space, costs["latency"]))
    bounds = {"latency": window, "flops": (0.0, args.flops_max), "params": (0.0, args.params_max)}
    ces = CES(space, costs, bounds, ["latency"], CESConfig(args.population, args.iterations, seed=args.seed))

    images = _cli.open_images(args.run, args.data_root)
    val = images.val if args.val_limit is None else images.val.subset(args.val_limit, seed=args.seed)
    evaluator = Evaluator(
        supernet,
        spos.recalibration_images(images, *args.recalibration),
        list(val.batches(512, seed=0, epoch=0, augment=False, drop_last=False)),
        args.workers,
    )
    scores = Scores(args, evaluator, ces)
    random = ces.window.sample(np.random.default_rng([args.seed, 1]), args.random, (), 2000)
    scores.search(random)
    write_front(args, space, ces, [scores.record(arch) for arch in random], lut, window)


def latency_bound(args: Args, space: Space, latency: AdditiveCost) -> float:
    """The upper bound in ms: as given, or 40 % of the range; says where it does not bind."""
    low, high = latency.bounds(space)
    bound = args.lat_max
    if bound is None:
        bound = _cli.default_bound(low, high)
        reason = "--lat-max is not given: 40 % of the way from the fastest to the slowest"
    elif bound < low:
        raise UserError(
            f"--lat-max {bound:g} ms is below the fastest architecture of {space.name}, {low:.4g} ms (the slowest "
            f"takes {high:.4g} ms): raise it, or build a table for a faster device or a smaller space"
        )
    else:
        reason = "does not bind" if bound >= high else f"{(bound - low) / (high - low):.0%} of the range"
    if args.lat_min > min(bound, high):
        raise UserError(
            f"no latency lies between --lat-min {args.lat_min:g} and {bound:g} ms: {space.name} attains {low:.4g} to "
            f"{high:.4g} ms"
        )
    _cli.console.print(
        f"latency ≤ [bold]{bound:.4g} ms[/bold] ({reason}); {space.name} attains {low:.4g} to {high:.4g} ms on this "
        "table's device",
        highlight=False,
    )
    return bound


class Scores:
    """The search with its files: ``search.json`` (state), ``population.jsonl`` (all that was told), ``scores.jsonl``.

    Scores outlive a search: another bound on the same supernet does not score an architecture again.
    """

    def __init__(self, args: Args, evaluator: Evaluator, ces: CES):
        self.args, self.evaluator, self.ces = args, evaluator, ces
        self.state = args.run / "search.json"
        self.log = checkpoint.JsonLines(args.run / "population.jsonl")
        self.cache = checkpoint.JsonLines(args.run / "scores.jsonl")
        weights = hashlib.sha256((args.run / "checkpoint.pt").read_bytes()).hexdigest()[:16]
        self.scored_with = {
            "checkpoint": weights,
            "recalibration": list(args.recalibration),
            "val_limit": args.val_limit,
        }
        lines = self.cache.read()
        if lines and lines[0] == self.scored_with:
            evaluator.scores.update({tuple(line["arch"]): line["accuracy"] for line in lines[1:]})
        self.cache.keep(lambda line: line == self.scored_with or (evaluator.scores and "arch" in line))
        if not self.cache.read():
            self.cache.append(self.scored_with)
        self.resume()

    def resume(self) -> None:
        """Continue the search of the same settings and weights, if there is one."""
        old = checkpoint.read_json(self.state, "search state", "run it again") if self.state.exists() else None
        if not isinstance(old, dict) or old.get("scored_with") != self.scored_with:
            old = None
        try:
            if old is not None:
                self.ces.load_state_dict(old["ces"])
        except UserError as error:
            known = len(self.evaluator.scores)
            _cli.console.print(f"a new search ({error}); {known} earlier scores are reused", highlight=False)
        self.log.keep(lambda line: line["generation"] < self.ces.generation)

    def search(self, random: Sequence[Arch]) -> None:
        """Run CES to its end, then score the random architectures."""
        ces = self.ces
        total = ces.config.population * ces.config.iterations + len(random)
        done = len(ces.records())
        with Bar("evolve", total, done=done, unit="architectures", quiet=self.args.quiet) as bar:
            while not ces.done:
                archs = ces.ask()
                generation = ces.generation
                ces.tell(archs, self.score(archs, bar))
                for arch in archs:
                    self.log.append({**asdict(self.record(arch)), "generation": generation})
                checkpoint.write_json(self.state, {"scored_with": self.scored_with, "ces": ces.state_dict()})
                hypervolume = ces.history[-1]["hypervolume"]
                bar.advance(0, text=f"generation {ces.generation} front {len(ces.front())} hv {hypervolume:.4g}")
            self.score(random, bar)
        for note in ces.notes:
            _cli.console.print(f"[dim]{note}[/dim]")

    def score(self, archs: Sequence[Arch], bar: Bar) -> list[float]:
        """Accuracies; new ones go to the cache as they come."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.evaluator.scores]
        bar.advance(len(archs) - len(new), work=0)
        accuracies = self.evaluator(archs, bar)
        for arch in new:
            self.cache.append({"arch": list(arch), "accuracy": self.evaluator.scores[arch]})
        return accuracies

    def record(self, arch: Arch) -> Record:
        """A scored architecture with its costs."""
        costs = {name: float(cost(arch)) for name, cost in self.ces.costs.items()}
        return Record(arch, self.evaluator.scores[arch], costs, 0, 0)


def write_front(
    args: Args,
    space: Space,
    ces: CES,
    random: list[Record],
    lut: LatencyTable,
    window: tuple[float, float],
) -> None:
    """``front.json``, ``front.png`` and a table."""
    front = ces.front()
    best, knee = fronts.best(front), fronts.knee(front, "latency")

    def entry(record: Record) -> dict[str, Any]:
        costs = {("latency_ms" if name == "latency" else name): value for name, value in record.costs.items()}
        named = {"arch": list(record.arch), "layers": space.describe(record.arch)}
        return {**named, "one_shot_accuracy": record.accuracy, **costs}

    bounds = {name: [x if math.isfinite(x) else None for x in ends] for name, ends in ces.window.bounds.items()}
    checkpoint.write_json(
        args.run / "front.json",
        {
            "schema": 1,
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "bounds": bounds,
            "device": lut.device,
            "runtime": lut.runtime,
            "evaluated": len(ces.records()),
            "best": best,
            "knee": knee,
            "front": [entry(record) for record in front],
            "random": [entry(record) for record in random],
        },
    )
    picture = args.run / "front.png"
    title = f"{space.name}: CES, {len(ces.records())} architectures scored"
    fronts.plot(picture, ces.records(), front, random, window, title)

    table = Table(title=f"front within {window[1]:.4g} ms: {len(front)} architectures")
    for column in ("", "latency ms", "one-shot %", "MFLOPs", "k params"):
        table.add_column(column, justify="right" if column else "left")
    shown = sorted({0, best, knee, len(front) - 1, *np.linspace(0, len(front) - 1, 8).astype(int).tolist()})
    for i in shown:
        c = front[i].costs
        name = " ".join([str(i)] + ["best"] * (i == best) + ["knee"] * (i == knee))
        table.add_row(
            name,
            f"{c['latency']:.4g}",
            f"{100 * front[i].accuracy:.2f}",
            f"{c['flops'] / 1e6:.2f}",
            f"{c['params'] / 1e3:.1f}",
        )
    _cli.console.print(table)
    chance = np.array([100 * r.accuracy for r in random])
    if len(chance) > 1:
        _cli.console.print(
            f"best {100 * front[best].accuracy:.2f} % one-shot, against {chance.mean():.2f} ± {chance.std(ddof=1):.2f} "
            f"% of {len(random)} random architectures of the same window (their best: {chance.max():.2f} %)",
            highlight=False,
        )
    _cli.console.print(f"→ {args.run / 'front.json'}, {picture}", highlight=False)
    _cli.next_command(f"python tools/retrain.py --pick best{_cli.run_flag(args.run)}")


if __name__ == "__main__":
    _cli.main(run, Args)
