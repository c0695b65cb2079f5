"""Stage-Wise NAS on real images: is depth better where features are important? Criteria, and weights from a donor.

Written down before any run:

*Hypothesis.* At equal multiply-adds (within 3 %) the depths found by PLS-VIP give a higher accuracy than depths as
equal as can be. Test: the paired difference per seed (one search, and the network that it found against the uniform
one, each trained alone with that seed), two-sided sign-flip permutation test over at least 8 seeds, level .05.
*Expectation.* Earlier runs had five allocations of equal cost within .75 points, the uniform one first, with a seed SD
of .35 points: 8 seeds resolve about half a point. No difference is the likely result, and is reported as such.
*Controls.* Random depths of equal cost, and the network that inf-FS and il-FS find, judged alike against the uniform
ones of their costs. How far importance moves with the seed alone stands beside the differences that decide growth.
*Weight transfer.* The same search from a donor, a trained deeper network, with a quarter of the epochs: seconds of all
trainings (the donor's not counted, and counted), accuracy of the found networks as the search leaves them.

Three disjoint sets of images: for training, for the search's validation, for the truth; the test set stays closed.
Every finished cell is kept in RUN: the same command continues.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import _common
import numpy as np
import torch
from _common import _cli
from rich.table import Table

from search import grown
from search.importance import CRITERIA
from search.stage_wise import Config, StageWise
from supernet import blocks, checkpoint, stacks, standalone
from supernet.model import Network, load_network
from supernet.space import Arch, Space
from supernet.train import FitConfig

CPU = torch.device("cpu")
TOLERANCE = 0.03  # multiply-adds count as equal within it


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/experiments")
    """Folder of finished cells and trainings; truth.jsonl is shared by the experiments."""
    output: Path = Path("docs/results/stage_wise.json")
    """The results."""
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
    """Of Algorithm 1."""
    epochs: int = 4
    """Of every network in a search."""
    alone: int = 8
    """Passes over the training images, for the networks that are compared."""
    train: int = 10_000
    """Training images, stratified."""
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Where image sets lie."""
    quick: bool = False
    """A tiny run: shows that it works, tells nothing."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    images = _common.Images(args.data, str(args.data_root), args.train)
    if args.quick:
        images = _common.Images(args.data, str(args.data_root), 128, 60, 100)
        small = {"seeds": 2, "transfer_seeds": 1, "random": 1, "width": 4, "initial": 1, "iterations": 1}
        args = dataclasses.replace(args, **small, epochs=1, alone=1)
    study = Study(args, images)
    searches = {name: [study.search(name, seed) for seed in range(args.seeds)] for name in CRITERIA}
    result = {
        "schema": 1,
        "command": _common.command(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(args).items()},
        "against_uniform": {name: study.against_uniform(found) for name, found in searches.items()},
        "importance": {name: decided(found) for name, found in searches.items()},
        "weight_transfer": study.transfer([study.search("pls", s) for s in range(args.transfer_seeds)]),
    }
    checkpoint.write_json(args.output, result)
    show(result)
    _cli.console.print(f"→ {args.output}", highlight=False)


class Study:
    """The cells of the experiment, each computed once."""

    def __init__(self, args: Args, images: _common.Images):
        self.args, self.images = args, images
        self.data, self.truth_images = _common.open_images(images)
        self.config = Config(initial=args.initial, step=1, iterations=args.iterations)
        shape = (self.data.channels, self.data.resolution, self.data.classes)
        options = {"width": args.width, "stem_stride": 2, "deepest": self.config.reach + args.iterations}
        self.space: Space = stacks.space("residual", *shape, **options)
        self.alone = _common.Truth(args.run, self.space, _common.Budget(images, args.alone), 1, args.quiet)
        budget = (args.train, args.width, args.initial, args.iterations, args.epochs)
        name = f"stage_wise-{args.data}-{images.train}-{'-'.join(map(str, budget[1:]))}"
        self.folder = args.run / name

    def fit(self, epochs: int, seed: int) -> FitConfig:
        return FitConfig(epochs, lr=0.08, schedule="cosine", augment=False, seed=seed)

    def search(self, criterion: str, seed: int, donor: Network | None = None) -> dict:
        """One search: every network's result, the depths found, and their accuracy on the truth images."""
        label = f"{criterion}-{seed}" + ("-transfer" if donor else "")
        epochs = max(1, self.args.epochs // 4) if donor else self.args.epochs
        cfg = grown.Training(self.fit(epochs, seed), criterion=criterion)

        def compute() -> dict:
            controller, folder = StageWise(self.config), self.folder / label
            options = {"donor": donor, "quiet": self.args.quiet}
            results = list(grown.run(controller, self.space, self.data, cfg, folder, CPU, **options))
            last = [result for result in results if result["role"] != "T"][-1]
            accuracy = self.accuracy(load_network(folder / "networks" / last["name"]))
            return {"results": results, "found": last["modules"], "accuracy": accuracy}

        return _common.cell(self.folder / f"{label}.json", compute)

    def accuracy(self, network: Network) -> float:
        """Of a trained network, on the truth images."""
        batches = self.truth_images.batches(512, seed=0, epoch=0, augment=False, drop_last=False)
        return grown.vote([network], batches)[1]

    def flops(self, arch: Arch) -> int:
        return blocks.flops(self.space, arch)

    def equal(self, arch: Arch) -> list[Arch]:
        """All allocations that cost as much as ``arch``, the most even ones first."""
        cost, deepest = self.flops(arch), self.config.reach + self.args.iterations
        found = [
            stacks.arch(self.space, modules)
            for modules in itertools.product(range(1, deepest + 1), repeat=self.config.stages)
            if abs(self.flops(stacks.arch(self.space, modules)) / cost - 1) <= TOLERANCE
        ]
        return sorted(found, key=lambda a: (max(a) - min(a), abs(self.flops(a) - cost), a))

    def against_uniform(self, searches: Sequence[dict]) -> dict:
        """Accuracy alone of what each search found, of the most even allocation, and of random ones."""
        rows = []
        for seed, search in enumerate(searches):
            found = stacks.arch(self.space, search["found"])
            uniform, *others = self.equal(found)
            drawn = np.random.default_rng([seed, 1]).permutation(len(others))[: self.args.random]
            archs = [found, uniform, *(others[i] for i in drawn)]
            accuracies = self.alone(archs, [seed], f"alone, seed {seed}")[:, 0].tolist()
            rows.append(
                {
                    "seed": seed,
                    "modules": [stacks.depths(self.space, arch) for arch in archs],
                    "flops": [self.flops(arch) for arch in archs],
                    "accuracies": accuracies,  # found, uniform, random ones
                }
            )
        difference = [row["accuracies"][0] - row["accuracies"][1] for row in rows]
        return {"rows": rows, "difference": difference, "p": sign_flip(difference)}

    def transfer(self, scratch: Sequence[dict]) -> dict:
        """Searches from a donor with a quarter of the epochs, against those from scratch with the same seeds."""
        deepest = (self.config.reach,) * self.config.stages
        rows = []
        for seed, before in enumerate(scratch):
            folder = self.folder / f"donor-{seed}"

            def compute(folder=folder, seed=seed) -> dict:
                began, arch = time.monotonic(), stacks.arch(self.space, deepest)
                cfg = self.fit(self.args.epochs, seed)
                standalone.train(
                    self.space, arch, self.data, cfg, folder, CPU, kernels="fused", label="donor", quiet=self.args.quiet
                )
                return {"seconds": time.monotonic() - began}

            donor = _common.cell(folder / "result.json", compute)
            after = self.search("pls", seed, load_network(folder))
            seconds = [sum(r["seconds"] for r in s["results"]) / len(s["results"]) for s in (before, after)]
            rows.append(
                {
                    "seed": seed,
                    "modules": [before["found"], after["found"]],
                    "accuracies": [before["accuracy"], after["accuracy"]],  # from scratch, from the donor
                    "seconds_per_network": seconds,
                    "donor_seconds": donor["seconds"],
                }
            )
        return {"rows": rows}


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


def show(result: dict) -> None:
    table = Table(title="trained alone, %: found, as even as can be, random, at equal multiply-adds")
    for column in ("criterion", "found", "uniform", "random", "difference", "p", "|gain|", "seed SD"):
        table.add_column(column, justify="left" if column == "criterion" else "right")
    for name, compared in result["against_uniform"].items():
        rows, decided_by = compared["rows"], result["importance"][name]
        random = [a for row in rows for a in row["accuracies"][2:]]
        table.add_row(
            name,
            _common.mean_sd([row["accuracies"][0] for row in rows], 100),
            _common.mean_sd([row["accuracies"][1] for row in rows], 100),
            _common.mean_sd(random, 100) if random else "",
            _common.mean_sd(compared["difference"], 100),
            f"{compared['p']:.3f}",
            f"{decided_by['median_absolute_gain']:.4f}",
            " ".join(f"{sd:.4f}" for sd in decided_by["seed_sd"] or []),
        )
    _cli.console.print(table)
    rows = result["weight_transfer"]["rows"]
    scratch, donor = (np.array([row["seconds_per_network"][i] for row in rows]).mean() for i in (0, 1))
    _cli.console.print(
        f"weight transfer: {scratch / donor:.2f} times faster per network, found networks "
        f"{_common.mean_sd([row['accuracies'][1] for row in rows], 100)} % against "
        f"{_common.mean_sd([row['accuracies'][0] for row in rows], 100)} % from scratch, as the searches left them",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    _cli.main(run, Args)
