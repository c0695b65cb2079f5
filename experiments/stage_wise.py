"""Stage-Wise NAS on real images: is depth better where features are important? Criteria, and weights from a donor.

Written down before any run:

*Hypothesis.* At equal multiply-adds (within 3 %) the depths found by PLS-VIP give a higher accuracy than depths as
equal as can be. Test: the paired difference per seed (one search, and the network that it found against the uniform
one, each trained alone with that seed), two-sided sign-flip permutation test over at least 8 seeds, level .05.
*Expectation.* Earlier runs had five allocations of equal cost within .75 points, the uniform one first, with a seed SD
of .35 points: 8 seeds resolve about half a point. No difference is the likely result, and is reported as such.
*Controls.* Random depths of equal cost, and the network that inf-FS and il-FS find, judged alike against the uniform
ones of their costs. How far importance moves with the seed alone stands beside the differences that decide growth.
*Weight transfer.* The same search from a donor, a trained deeper network, with a quarter of the epochs: CPU seconds of
all trainings (the donor's not counted, and counted), accuracy of the found networks as the search leaves them.

Three disjoint sets of images: for training, for the search's validation, for the truth; the test set stays closed.
Every finished cell is kept in RUN: the same command continues, and where all are finished it only writes the tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, _report, _stages
from search import stage_wise_run
from search.criteria import CRITERIA
from search.drawing import Block, draw
from search.stage_wise import Config, StageWise
from supernet import executor, families, machine
from supernet.families import module_stages
from supernet.model import load_network
from supernet.progress import shown
from supernet.runs import RunFolder
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.training import defaults, standalone
from supernet.training.loop import FitConfig

CPU = torch.device("cpu")
LEVEL = 0.05  # of the test


@dataclass(frozen=True)
class Args(_common.OnImages):
    run: Path = Path("runs/experiments")
    """Folder of finished cells and trainings; truth.jsonl is shared by the experiments."""
    output: Path = Path("docs/results/stage_wise.json")
    """The results; tables (.md), a picture (.png) and the found networks (_networks.png) beside them."""
    seeds: int = 8
    """Searches and trainings for each criterion: 0, 1, …"""
    transfer_seeds: int = 3
    """Searches from a donor."""
    random: int = 2
    """Random allocations beside each found one."""
    width: int = 8
    """Channels of the first stage."""
    initial: int = 2
    """Modules in each stage at first."""
    iterations: int = 3
    """Iterations of Algorithm 1."""
    epochs: int = 4
    """Epochs of every network in a search."""
    alone: int = 8
    """Passes over the training images, for the networks that are compared."""
    train: int = 10_000
    """Training images, stratified."""
    jobs: int = machine.cores()
    """Searches and trainings run in parallel, one thread each."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    clock = _common.Clock(args.run, "stage_wise")
    if args.quick:
        small = {"seeds": 2, "transfer_seeds": 1, "random": 1, "width": 4, "initial": 1, "iterations": 1}
        args = dataclasses.replace(args, **small, epochs=1, alone=1)
    study = Study(args)
    study.search_all()
    searches = {name: [study.search(name, seed) for seed in range(args.seeds)] for name in CRITERIA}
    accuracies = study.alone.pairs(
        [
            (arch, seed)
            for found in searches.values()
            for seed, search in enumerate(found)
            for arch in study.allocations(search, seed)
        ],
        "networks alone",
    )
    found = {
        "images": {"train": len(study.data.train), "search": len(study.data.val), "truth": len(study.truth_images)},
        "against_uniform": {name: study.against_uniform(found, accuracies) for name, found in searches.items()},
        "importance": {name: decided(found) for name, found in searches.items()},
        "weight_transfer": study.transfer(),
    }
    finish(args, _common.results("stage_wise", args, clock, **found, networks=study.drawn(found)))


def finish(args: Args, result: dict) -> None:
    """The files."""
    _report.report(args.output, result, tables(result), draw_results)
    rows = {
        name: [Block(Size.of(size), *block) for size, *block in blocks] for name, blocks in result["networks"].items()
    }
    draw(args.output.with_name(f"{args.output.stem}_networks.png"), rows)


def search(args: Args, criterion: str, seed: int, transfer: bool) -> None:
    """One cell, in a process of its own."""
    defaults.keep_memory()
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first one imports torch._dynamo: seconds that no network should be charged
    Study(args).search(criterion, seed, transfer)


class Study:
    """The cells of the experiment, each computed once."""

    def __init__(self, args: Args):
        self.args = args
        images = _common.images_of(args, (128, 60, 100))
        self.data, self.truth_images = _common.open_images(images)
        self.config = Config(initial=args.initial, step=1, iterations=args.iterations)
        self.deepest = max(self.config.reach) + args.iterations  # of allocations that are compared
        shape = (self.data.channels, self.data.resolution, self.data.classes)
        options = {"width": args.width, "stem_stride": 2, "deepest": self.deepest}
        self.space: Space = module_stages.space("residual", *shape, **options)
        self.alone = _common.Truth(args.run, self.space, _common.Budget(images, args.alone), args.jobs, args.quiet)
        budget = (images.train, args.width, args.initial, args.iterations, args.epochs)
        self.folder = args.run / f"stage_wise-{args.data}-{'-'.join(map(str, budget))}"

    def fit(self, epochs: int, seed: int) -> FitConfig:
        return FitConfig(epochs, lr=0.08, schedule="cosine", augment=False, seed=seed)

    def search_all(self) -> None:
        """All searches, in parallel."""
        args, transfers = self.args, range(self.args.transfer_seeds)
        wanted = [(name, seed, False) for name in CRITERIA for seed in range(args.seeds)]
        wanted += [("pls", seed, transfer) for seed in transfers for transfer in (False, True)]
        wanted = list(dict.fromkeys(wanted))
        left = {self.path(*cell).stem: (args, *cell) for cell in wanted if not self.path(*cell).exists()}
        if left:
            bar = shown(not args.quiet)("searches", len(wanted), done=len(wanted) - len(left), unit="runs")
            executor.run(executor.Processes(args.jobs), search, left, bar)

    def path(self, criterion: str, seed: int, transfer: bool) -> Path:
        return self.folder / f"{criterion}-{seed}{'-transfer' if transfer else ''}.json"

    def search(self, criterion: str, seed: int, transfer: bool = False) -> dict:
        """One search: every network's result, the depths found, and accuracies on the truth images.

        Args:
            transfer: from a donor, with a quarter of the epochs.
        """
        path, epochs = self.path(criterion, seed, transfer), self.args.epochs
        epochs = max(1, epochs // 4) if transfer else epochs
        cfg = stage_wise_run.Training(self.fit(epochs, seed), criterion=criterion)

        def compute() -> dict:
            run = RunFolder(path.with_suffix(""))
            donor = load_network(self.donor(seed)[0]) if transfer else None
            job = stage_wise_run.StageRun(run, self.space, self.data, cfg, CPU, donor, cpu_clock)
            results = list(job.search(StageWise(self.config)))
            trained = stage_wise_run.judged(results)
            networks = [run.stage_network(r["name"]).trained(self.space) for r in trained[1:] or trained]
            batches = self.truth_images.plain_batches(512)
            alone, together = stage_wise_run.vote(networks, batches)
            accuracies = [answers.share() for answers in alone]
            found = {"found": trained[-1]["modules"], "accuracy": accuracies[-1], "ensemble": together.share()}
            return {"results": results, "candidates": accuracies, **found}

        return _common.cell(path, compute)

    def donor(self, seed: int) -> tuple[Path, float]:
        """The folder of the deepest network that a search can ask for, trained, and the CPU seconds that it took."""
        folder, arch = (
            self.folder / f"donor-{seed}",
            module_stages.arch(self.space, self.config.reach),
        )

        def compute() -> dict:
            with cpu_clock() as spent:
                cfg = self.fit(self.args.epochs, seed)
                standalone.train(self.space, arch, self.data, cfg, folder, CPU, kernels="fused")
            return spent

        return folder, _common.cell(folder / "result.json", compute)["cpu_seconds"]

    def flops(self, arch: Arch) -> int:
        return families.flops(self.space, arch)

    def equal(self, arch: Arch) -> list[Arch]:
        """All allocations that cost as much as ``arch``, the most even ones first."""
        return _stages.equal(self.space, arch, self.deepest)

    def allocations(self, search: dict, seed: int) -> list[Arch]:
        """What a search found, and at equal multiply-adds the most even allocation, then random ones."""
        found = module_stages.arch(self.space, search["found"])
        uniform, *others = self.equal(found)
        others = [arch for arch in others if arch != found]
        drawn = np.random.default_rng([seed, 1]).permutation(len(others))[: self.args.random]
        return [found, uniform, *(others[i] for i in drawn)]

    def against_uniform(self, searches: Sequence[dict], accuracies: dict[tuple[Arch, int], float]) -> dict:
        """Accuracy alone of what each search found, of the most even allocation, and of random ones."""
        rows = []
        for seed, search in enumerate(searches):
            archs = self.allocations(search, seed)
            rows.append(
                {
                    "seed": seed,
                    "modules": [module_stages.depths(self.space, arch) for arch in archs],
                    "flops": [self.flops(arch) for arch in archs],
                    "accuracies": [accuracies[arch, seed] for arch in archs],  # found, uniform, random ones
                }
            )
        difference = [row["accuracies"][0] - row["accuracies"][1] for row in rows]
        return {"rows": rows, "difference": difference, "p": sign_flip(difference)}

    def transfer(self) -> list[dict]:
        """Searches from a donor with a quarter of the epochs, beside those from scratch with the same seeds."""
        rows = []
        for seed in range(self.args.transfer_seeds):
            row: dict = {"seed": seed, "donor_cpu_seconds": self.donor(seed)[1]}
            for name, transfer in (("scratch", False), ("donor", True)):
                found = self.search("pls", seed, transfer)
                # A training that was killed and continued does not know all of its seconds.
                seconds = [result["cpu_seconds"] for result in found["results"] if result["whole"]]
                row[name] = {key: found[key] for key in ("found", "accuracy", "candidates", "ensemble")}
                row[name] |= {"cpu_seconds": float(np.mean(seconds)), "networks": len(found["results"])}
            rows.append(row)
        return rows

    def drawn(self, found: dict) -> dict[str, list[tuple[int | str, int, str]]]:
        """For seed 0, the modules of what each criterion found and of the even allocation of the first one's cost."""
        rows = {name: compared["rows"][0]["modules"] for name, compared in found["against_uniform"].items()}
        networks = {f"{name}, seed 0": modules[0] for name, modules in rows.items()}
        networks["as even as pls costs"] = rows["pls"][1]
        return {
            f"{name}\n{'-'.join(map(str, modules))}": [
                (spec.out_size.plain, spec.out_channels, "residual module")
                for spec in families.layout(self.space).pick(module_stages.arch(self.space, modules))[1:-1]
            ]
            for name, modules in networks.items()
        }


@contextmanager
def cpu_clock() -> Iterator[dict]:
    """What runs inside, in CPU seconds of this process: other work on the machine does not count."""
    spent, began = {}, time.process_time()
    yield spent
    spent["cpu_seconds"] = time.process_time() - began


def decided(searches: Sequence[dict]) -> dict:
    """What growth was decided by, and how much the seed alone moves the initial network's importance."""
    gains = []
    for search in searches:
        alpha = None
        for result in search["results"]:
            if result["role"] == "T":
                gains.append(np.subtract(result["importance"], alpha).tolist())
            else:
                alpha = result["importance"]
    initial = np.array([search["results"][0]["importance"] for search in searches])
    return {
        "median_absolute_gain": float(np.median(np.abs(gains))),
        "seed_sd": initial.std(axis=0, ddof=1).tolist() if len(initial) > 1 else None,
        "found": [search["found"] for search in searches],
    }


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of a mean of 0: the share of all 2^n choices of signs with a mean at least as far from 0."""
    d = np.asarray(differences, float)
    signs = np.array(list(itertools.product((1, -1), repeat=len(d))))
    means = np.abs(signs @ d) / len(d)
    return float((means >= abs(d.mean()) - 1e-12).mean())


def tables(result: dict) -> _report.Tables:
    """What a reader sees; ± is one standard deviation over the seeds."""
    compared, importance, transfer = {}, {}, {}
    for name, against in result["against_uniform"].items():
        rows = against["rows"]
        found, even = columns(rows)
        random = [a for row in rows for a in row["accuracies"][2:]]
        compared[name] = {
            "seeds": str(len(rows)),
            "found": _report.mean_sd(found, 100),
            "as even as can be": _report.mean_sd(even, 100),
            "random": _report.mean_sd(random, 100) if random else "",
            "found − even, points": _report.mean_sd(against["difference"], 100),
            "p": f"{against['p']:.3f}",
            "found is even": f"{sum(row['modules'][0] == row['modules'][1] for row in rows)} of {len(rows)}",
        }
    for name, decided_by in result["importance"].items():
        importance[name] = {
            "median of the absolute gain": f"{decided_by['median_absolute_gain']:.4f}",
            "seed SD of the initial network's, by stage": " ".join(f"{s:.4f}" for s in decided_by["seed_sd"] or []),
            "found": ", ".join("-".join(map(str, modules)) for modules in decided_by["found"]),
        }
    for name, start in (("scratch", "from scratch"), ("donor", "from a donor, a quarter of the epochs")):
        of = [row[name] for row in result["weight_transfer"]]
        spent = np.array([r["cpu_seconds"] * r["networks"] for r in of])
        given = [row["donor_cpu_seconds"] if name == "donor" else 0.0 for row in result["weight_transfer"]]
        transfer[start] = {
            "CPU s per network": _report.mean_sd([r["cpu_seconds"] for r in of]),
            "per search": _report.mean_sd(spent),
            "with the donor's training": _report.mean_sd(spent + given),
            "found, %": _report.mean_sd([r["accuracy"] for r in of], 100),
            "mean candidate, %": _report.mean_sd([np.mean(r["candidates"]) for r in of], 100),
            "ensemble of all candidates, %": _report.mean_sd([r["ensemble"] for r in of], 100),
        }
    pls = result["against_uniform"]["pls"]
    better = pls["p"] < LEVEL and np.mean(pls["difference"]) > 0
    verdict = (
        f"the hypothesis, PLS-VIP better than even depth, is {'' if better else 'not '}supported at level {LEVEL:g}"
    )
    return {
        f"Trained alone at equal multiply-adds, % of {result['images']['truth']:,} unseen images: {verdict}": compared,
        "Importance: what decides growth, and how far the seed alone moves it": importance,
        "Weight transfer by PLS-VIP, networks as the searches left them": transfer,
    }


def columns(rows: Sequence[dict]) -> tuple[list[float], list[float]]:
    """Accuracies of the found and of the even networks."""
    return [row["accuracies"][0] for row in rows], [row["accuracies"][1] for row in rows]


def draw_results(figure: Figure, result: dict) -> None:
    """Found minus even for every seed; accuracy over the cost of a network, from scratch and from a donor."""
    left, right = figure.subplots(1, 2)
    names = list(result["against_uniform"])
    for i, name in enumerate(names):
        compared = result["against_uniform"][name]
        points = 100 * np.array(compared["difference"])
        at = i + np.linspace(-0.15, 0.15, len(points))
        left.scatter(at, points, s=20, color=f"C{i}", alpha=0.7)
        left.hlines(points.mean(), i - 0.3, i + 0.3, color="black", linewidth=1.5)
    left.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    labels = [f"{name}\np = {result['against_uniform'][name]['p']:.3f}" for name in names]
    left.set(xticks=range(len(names)), xticklabels=labels, ylabel="found − even (points)")
    left.set_title("trained alone at equal multiply-adds; each point a seed", fontsize=10)
    for i, (name, label) in enumerate((("scratch", "from scratch"), ("donor", "from a donor"))):
        rows = result["weight_transfer"]
        seconds = [row[name]["cpu_seconds"] for row in rows]
        right.scatter(seconds, [100 * row[name]["accuracy"] for row in rows], color=f"C{i}", label=label)
    right.set(xlabel="CPU seconds per network", ylabel="accuracy (%)", xlim=(0, None))
    right.set_title("weight transfer: found networks as the search leaves them", fontsize=10)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
