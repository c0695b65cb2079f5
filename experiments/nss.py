"""NSS on real images: are networks of an elite space cheaper to find and better than those of the expanded space?

Samples until a FLOPs target is met, the best of five, 16 elite against 16 random networks at equal FLOPs, and the
search without its warm-up. Every finished cell is kept in RUN: the same command continues. Networks are trained alone;
of five the best is chosen on one half of the validation split, its error told on the other. The test set stays closed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import t as student

from experiments import _common
from latency.measure import host
from supernet import families, files, spaces
from supernet.data import sets
from supernet.methods import network_spaces, nss
from supernet.model import Network
from supernet.runs import RunFolder
from supernet.space import Arch
from supernet.training import checkpoint, defaults
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit

DRAWS = 20_000  # of the expanded space, for its share of networks near a target


@dataclass(frozen=True)
class Args(_common.OnDevice):
    run: Path = Path("runs/experiment-nss")
    """Folder of the searches and of the finished cells."""
    output: Path = Path("docs/results")
    """Where nss.md, nss.json and nss.png go."""
    seeds: int = 3
    """Searches 0, 1, …: seeds of weights, spaces and split into halves."""
    targets: tuple[float, float, float] = (0.8e6, 1.6e6, 3.2e6)
    """Multiply-adds; 16 are compared with 16 at the middle one."""
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Dataset directory."""
    limit: int = 3000
    """Training images, stratified."""
    search_epochs: int = 16
    """Of NSS, the warm-up among them."""
    epochs: int = 4
    """Of every stand-alone training."""
    compared: int = 16
    """Elite and random networks in the comparison at equal FLOPs."""
    quick: bool = False
    """Everything tiny, on digits: does it run at all?"""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    if args.quick:
        args = dataclasses.replace(args, data="digits", limit=320, search_epochs=3, epochs=1, compared=3)
    config = {k: v for k, v in dataclasses.asdict(args).items() if k not in ("run", "output", "data_root", "seeds")}
    study = Study(args)
    RunFolder(args.run).begin(config, defaults=_common.OLDER)
    warm = [study.search(seed, args.targets, warmup=0.3) for seed in range(args.seeds)]
    cold = [study.search(seed, args.targets[1:2], warmup=0.0) for seed in range(args.seeds)]
    report = {
        "samples": study.samples(warm),
        "best_of_5": study.best_of_5(warm),
        "equal_flops": study.equal_flops([s[1] for s in warm], [s[0] for s in cold]),
        "same_as_by_cost_alone": [study.by_cost_alone(seed, search) for seed, search in enumerate(warm)],
        "off_target": [[abs(e["argmax_cost"] / t - 1) for e, t in zip(s, args.targets, strict=True)] for s in warm],
    }
    machine = {**host(), "torch": torch.__version__, "load": os.getloadavg()[0], "cpu_minutes": study.minutes()}
    args.output.mkdir(parents=True, exist_ok=True)
    result = {"settings": config, "seeds": args.seeds, "machine": machine, **report}
    files.write_json(args.output / "nss.json", result)
    text = markdown(result)
    files.write_bytes(args.output / "nss.md", text.encode())
    plot(args.output / "nss.png", report, args.targets)
    print(text)


class Study:
    """The cells of one experiment, each computed once."""

    def __init__(self, args: Args):
        self.args = args
        self.device = defaults.device(args.device)
        images = sets.open_train(args.data, args.data_root, limit=args.limit)
        self.space = spaces.get("residual-small", images.channels, images.size, images.classes)
        chosen_on = images.val.subset(len(images.val) // 2, seed=0)
        told_on = images.val.take(np.flatnonzero(~np.isin(images.val.index, chosen_on.index)))
        self.images, self.halves = images, (chosen_on, told_on)

    def cell(self, name: str, compute: Callable[[], dict]) -> dict:
        """What ``compute`` gave the first time, with the CPU minutes that it took then."""
        return _common.timed_cell(self.args.run / f"{name}.json", compute)

    def minutes(self) -> float:
        """CPU minutes of all cells."""
        cells = [*self.args.run.glob("*-*.json"), *self.args.run.glob("networks/*.json")]
        return round(sum(json.loads(path.read_text())["minutes"] for path in cells), 1)

    def config(self, seed: int, targets: Sequence[float], warmup: float) -> nss.Config:
        settings = FitConfig(
            self.args.search_epochs,
            lr=0.025,
            schedule="cosine",
            weight_decay=3e-4,
            label_smoothing=0.0,
            clip=5.0,
            augment=False,
            seed=seed,
        )
        return nss.Config(settings, tuple(targets), ranges=(2, 4), warmup=warmup)

    def search(self, seed: int, targets: Sequence[float], warmup: float) -> list[dict]:
        """One search: for each target the elite space's open choices, its cost and that of the most probable space."""
        name = f"{'warm' if warmup else 'cold'}-{seed}"
        cfg = self.config(seed, targets, warmup)

        def compute() -> dict:
            folder = self.args.run / name
            nss.run(self.space, self.images, cfg, folder, self.device)
            found = []
            for target in targets:
                own = RunFolder(folder).elite(target)
                result, allowed = own.probabilities(), own.space().allowed
                found.append({"allowed": allowed, "cost": result["cost"], "argmax_cost": result["argmax_cost"]})
            return {"elites": found}

        return self.cell(name, compute)["elites"]

    def by_cost_alone(self, seed: int, search: Sequence[dict]) -> list[bool]:
        """Whether Θ finds the same spaces without any image: the same draws, Adam and λ, the cost term alone."""
        cfg, space = self.config(seed, self.args.targets, 0.3), self.space
        ranges = network_spaces.split(space, cfg.ranges)
        cost = network_spaces.SpaceCost.of(space, ranges, lambda spec: spec.flops)
        per_epoch, warmup = len(self.images.train) // 2 // cfg.fit.batch_size, nss.warmup_epochs(cfg)
        total, first, same = cfg.fit.epochs * per_epoch, warmup * per_epoch, []
        for target, found in zip(cfg.targets, search, strict=True):
            theta = [torch.zeros(len(options), requires_grad=True) for options in ranges]
            adam = nss.theta_adam(theta, cfg, total - first)
            weight = cfg.cost_weight
            for step in range(first, total):
                tau = np.interp(step, (0, total - 1), cfg.temperature).item()
                sample = network_spaces.draw(space, ranges, theta, tau, (seed, step, nss.THETA))
                adam.zero_grad()
                (weight * cost.deviation(sample.weights, target)).backward()
                adam.step()
                argmax = cost.all()[tuple(int(logits.argmax()) for logits in theta)]
                if (step + 1) % per_epoch == 0 and abs(argmax / target - 1) > cfg.tolerance:
                    weight *= 2
            chosen = network_spaces.elite(ranges, theta, cost, target, cfg.tolerance)
            allowed = space.restrict([options[i] for options, i in zip(ranges, chosen, strict=True)]).allowed
            same.append([list(open_) for open_ in allowed] == found["allowed"])
        return same

    def near(self, found: dict, target: float, tolerance: float) -> tuple[float, list[Arch]]:
        """The share of a found space's networks that are near the target, and these."""
        elite = self.space.restrict(found["allowed"])
        archs = [a for a in elite.enumerate() if abs(families.flops(elite, a) / target - 1) <= tolerance]
        return len(archs) / elite.size, archs

    def random(self, target: float, tolerance: float, n: int, seed: int) -> list[Arch]:
        """Networks of the expanded space near the target, drawn uniformly."""
        rng, archs = np.random.default_rng([seed, int(target)]), []
        while len(archs) < n:
            arch = self.space.sample_where(
                rng, lambda a: abs(families.flops(self.space, a) / target - 1) <= tolerance, tries=DRAWS
            )
            archs.append(arch)
        return archs

    def accuracies(self, arch: Arch) -> tuple[float, float]:
        """Of the network trained alone: on the half that chooses and on the one that tells."""
        name = "_".join(map(str, arch))

        def compute() -> dict:
            torch.manual_seed(0)
            network = Network(self.space, arch).to(self.device)
            settings = FitConfig(self.args.epochs, lr=defaults.learning_rate(64), augment=False)
            fit(
                network,
                self.images.train,
                lambda step: None,
                settings,
                self.args.run / "now" / name,
                meta={},
            )
            checkpoint.delete(self.args.run / "now" / name / "checkpoint.pt")
            batches = ((s.plain_batches(512)) for s in self.halves)
            return {"accuracies": [evaluate(network, b) for b in batches], "flops": families.flops(self.space, arch)}

        return tuple(self.cell(f"networks/{name}", compute)["accuracies"])

    def samples(self, warm: list[list[dict]]) -> list[dict]:
        """Draws until the first network within 10 % of each target: on average 1 / share."""
        rng = np.random.default_rng(0)
        flops = np.array([families.flops(self.space, self.space.sample(rng)) for _ in range(DRAWS)])
        rows = []
        for i, target in enumerate(self.args.targets):
            shares = [self.near(search[i], target, 0.1)[0] for search in warm]
            expanded = float((np.abs(flops / target - 1) <= 0.1).mean())
            rows.append({"target": target, "elite": [1 / s if s else None for s in shares], "expanded": 1 / expanded})
        return rows

    def best_of_5(self, warm: list[list[dict]]) -> list[dict]:
        """Error of the best of five networks within 10 % of the target, elite and expanded, per target and search."""
        rows = []
        for i, target in enumerate(self.args.targets):
            for seed, search in enumerate(warm):
                near = self.near(search[i], target, 0.1)[1]
                rng = np.random.default_rng([seed, i])
                elite = [near[k] for k in rng.permutation(len(near))[:5]]
                row = {"target": target, "search": seed, "networks": {}}
                for name, archs in (("elite", elite), ("expanded", self.random(target, 0.1, 5, seed))):
                    scores = [self.accuracies(arch) for arch in archs]
                    row[name] = 1 - max(scores)[1]
                    row["networks"][name] = [
                        (families.flops(self.space, a), s[1]) for a, s in zip(archs, scores, strict=True)
                    ]
                rows.append(row)
        return rows

    def equal_flops(self, warm: list[dict], cold: list[dict]) -> dict:
        """Accuracies of networks within 3 % of the middle target; the elite ones come from all searches in turn."""
        target, n = self.args.targets[1], self.args.compared
        groups = {"random": self.random(target, 0.03, n, 99)}
        for name, found in (("elite", warm), ("elite without warm-up", cold)):
            rng = np.random.default_rng(7)
            pools = [
                [near[k] for k in rng.permutation(len(near))] for near in (self.near(f, target, 0.03)[1] for f in found)
            ]
            turns = [pool[k] for k in range(n) for pool in pools if k < len(pool)]
            groups[name] = list(dict.fromkeys(turns))[:n]
        scores = {name: [self.accuracies(arch)[1] for arch in archs] for name, archs in groups.items()}
        pairs = (("elite", "random"), ("elite without warm-up", "random"), ("elite", "elite without warm-up"))
        return {"accuracies": scores, "differences": [{"pair": p, **permuted(*(scores[g] for g in p))} for p in pairs]}


def permuted(a: Sequence[float], b: Sequence[float], n: int = 20_000) -> dict:
    """Difference of means and its two-sided p by permutation, with Welch's 95 % interval."""
    a, b = np.array(a), np.array(b)
    both, rng, observed = np.concatenate([a, b]), np.random.default_rng(0), a.mean() - b.mean()
    order = rng.permuted(np.tile(np.arange(len(both)), (n, 1)), axis=1)
    first = both[order[:, : len(a)]].mean(1)
    rest = both[order[:, len(a) :]].mean(1)
    extreme = (np.abs(first - rest) >= abs(observed) - 1e-12).sum()
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if va + vb else 1.0
    half = float(student.ppf(0.975, degrees)) * (va + vb) ** 0.5
    return {"difference": float(observed), "interval": [observed - half, observed + half], "p": (extreme + 1) / (n + 1)}


def markdown(result: dict) -> str:
    """The tables, the command and the machine."""
    settings, machine = result["settings"], result["machine"]
    lines = [
        "# NSS: elite against expanded space",
        "",
        f"`python -m experiments.nss --seeds {result['seeds']}{' --quick' if settings['quick'] else ''}`: "
        f"residual-small, {settings['data'] or 'the default images'}, {settings['limit']:,} for training, searches of "
        f"{settings['search_epochs']} epochs, networks trained alone for {settings['epochs']}; {machine['cpu']}, one "
        f"core, {machine['cpu_minutes']:.0f} CPU minutes.",
        "",
        "| target, MFLOPs | samples until ±10 %, elite (each search) | expanded | error of the best of 5, elite, % "
        "| expanded, % |",
        "|---|---|---|---|---|",
    ]
    differences = []
    for row in result["samples"]:
        best = [b for b in result["best_of_5"] if b["target"] == row["target"]]
        elite, expanded = (np.array([100 * b[k] for b in best]) for k in ("elite", "expanded"))
        differences += list(elite - expanded)
        needed = ", ".join("none" if e is None else f"{e:.1f}" for e in row["elite"])
        lines.append(
            f"| {row['target'] / 1e6:.2g} | {needed} | {row['expanded']:.1f} | {spread(elite)} | {spread(expanded)} |"
        )
    low, high = paired(differences)
    off = 100 * np.array(result["off_target"])
    lines += [
        "",
        f"Best of 5, elite minus expanded, over {len(differences)} pairs: {np.mean(differences):+.2f} points (95 % "
        f"interval {low:+.2f} to {high:+.2f}; negative is better). The most probable spaces were {off.min():.0f} to "
        f"{off.max():.0f} % off their targets; the elite ones are the most probable of those within 10 %. "
        f"{sum(map(sum, result['same_as_by_cost_alone']))} of {len(differences)} elite spaces are those that the cost "
        "term finds alone, without images.",
        "",
        f"Within ±3 % of {settings['targets'][1] / 1e6:.2g} MFLOPs:",
        "",
        "| networks | n | accuracy, % |",
        "|---|---|---|",
    ]
    for name, scores in result["equal_flops"]["accuracies"].items():
        lines.append(f"| {name} | {len(scores)} | {spread(100 * np.array(scores))} |")
    lines += ["", "| difference of means | points | 95 % interval | p (permutation) |", "|---|---|---|---|"]
    for d in result["equal_flops"]["differences"]:
        low, high = (100 * end for end in d["interval"])
        lines.append(
            f"| {' − '.join(d['pair'])} | {100 * d['difference']:+.2f} | {low:+.2f} to {high:+.2f} | {d['p']:.3f} |"
        )
    return "\n".join([*lines, "", "± is one standard deviation.", ""])


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation."""
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values.mean():.2f}"


def paired(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    half = float(student.ppf(0.975, len(values) - 1)) * np.std(values, ddof=1) / len(values) ** 0.5
    return np.mean(values) - half, np.mean(values) + half


def plot(path: Path, report: dict, targets: Sequence[float]) -> None:
    """Accuracy over FLOPs of all networks of the best-of-5 comparison; samples needed per target."""
    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, color, marker in (("expanded", "tab:orange", "x"), ("elite", "tab:blue", "o")):
        points = np.array([p for row in report["best_of_5"] for p in row["networks"][name]])
        left.scatter(points[:, 0] / 1e6, 100 * points[:, 1], s=18, color=color, marker=marker, label=name)
        for i, row in enumerate(report["samples"]):
            needed = [n for n in (row["elite"] if name == "elite" else [row["expanded"]]) if n is not None]
            right.scatter([i] * len(needed), needed, color=color, marker=marker, label=name if i == 0 else None)
    left.set(xscale="log", xlabel="MFLOPs", ylabel="accuracy (%)", title="stand-alone, within ±10 % of a target")
    labels = [f"{t / 1e6:.2g}" for t in targets]
    right.set(yscale="log", xticks=range(len(targets)), xticklabels=labels, xlabel="target (MFLOPs)")
    right.set(ylabel="samples until within ±10 %", title="each point a search")
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    _common.main(run, Args)
