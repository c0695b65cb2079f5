"""What the experiments on network spaces share: searches by NSS, networks of a space near a cost, trained alone."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import _common
from search.costs import AdditiveCost
from search.evolution import SPOSConfig, SPOSEvolution
from search.run import Scoring
from supernet import families, machine, spaces
from supernet.data import sets
from supernet.errors import UserError
from supernet.executor import Threads
from supernet.methods import network_spaces, nss, spos
from supernet.model import Network, Supernet
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.training import checkpoint, defaults
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig, fit

DRAWS = 1_000_000  # of a space that is too large to be listed
MEETS = 0.1  # a network or a space meets a target within this share of it, as in the paper's table 1
ALIKE = 0.03  # networks that are compared at equal multiply-adds are this near
# How the weights are trained: the whole method, without enabling all channels and blocks in the warm-up, without one.
WARM, PLAIN, COLD = "warm", "plain", "cold"


@dataclass(frozen=True)
class Settings(_common.OnImages, _common.OnDevice):
    run: Path = Path("runs/experiment-nss")
    """Folder of the searches and of the finished cells."""
    space: str = "residual-small"
    """Expanded space: residual-small, residual-medium, residual (the paper's)."""
    ranges: tuple[int, int] = (2, 4)
    """Depths and widths in one range (the paper: 4 of 16, 32 of 512)."""
    targets: tuple[float, ...] = (0.8e6, 1.6e6, 3.2e6)
    """Multiply-adds (the paper: 12, from 200e6 to 32e9)."""
    resolution: str | None = None
    """Of images of a folder: 32, or 96x160."""
    limit: int = 3000
    """Training images, stratified."""
    search_epochs: int = 16
    """Of NSS, the warm-up among them, and of the supernets that networks are then searched with (the paper: 50)."""
    theta_lr: float | None = None
    """Adam's rate for the probabilities; by default 3e-4 at the paper's length, in shorter searches as much more."""
    epochs: int = 4
    """Of every stand-alone training."""
    augment: bool = False
    """Crop and flip, in searches and in stand-alone trainings."""
    compared: int = 16
    """Networks of each group in the comparisons at equal multiply-adds."""
    seeds: int = 3
    """Searches 0, 1, …: seeds of weights, spaces and split into halves."""
    population: int = 12
    """Networks of a generation, where networks are searched in a space by SPOS's evolution."""
    iterations: int = 5
    """Generations of it."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the cells depend on."""
        return _common.identity(self, "seeds", "population", "iterations", "quiet")


class Study:
    """The cells of one experiment, each computed once."""

    def __init__(self, args: Settings):
        self.args, self.device = args, defaults.device(args.device)
        self.kernels = defaults.kernels(self.device)
        how = {"limit": args.limit, "resolution": args.resolution, "workers": args.decoders}
        images = sets.open_train(args.data, args.data_root, **how)
        self.space = spaces.get(args.space, images.channels, images.size, images.classes)
        chosen_on = images.val.subset(len(images.val) // 2, seed=0)
        told_on = images.val.without(chosen_on)
        self.images, self.chosen_on, self.told_on = images, chosen_on, told_on
        self.ranges = network_spaces.split(self.space, args.ranges)
        self.cost = network_spaces.SpaceCost.of(self.space, self.ranges, multiply_adds)
        network_spaces.require_attainable(self.cost, args.targets, MEETS, self.space)
        RunFolder(args.run).begin(args.identity, defaults=_common.OLDER)
        self.spent: dict[str, float] = {}  # by cell

    def cell(self, name: str, compute: Callable[[], dict]) -> dict:
        """What ``compute`` gave the first time, with the minutes that it took then."""
        clock = time.process_time if self.device.type == "cpu" else time.monotonic
        found = _common.timed_cell(self.args.run / f"{name}.json", compute, clock)
        self.spent[name] = found["minutes"]
        return found

    def minutes(self) -> float:
        """Of all cells that this experiment has, whichever run made them: of one core, or of the GPU."""
        return round(sum(self.spent.values()), 1)

    def fit_config(self, seed: int) -> FitConfig:
        """Of NSS's weights: DARTS's."""
        fixed = {"schedule": "cosine", "weight_decay": 3e-4, "label_smoothing": 0.0, "clip": 5.0}
        return FitConfig(self.args.search_epochs, lr=0.025, augment=self.args.augment, seed=seed, **fixed)

    def config(self, seed: int, targets: Sequence[float], how: str = WARM) -> nss.Config:
        more = {"warmup": 0.0 if how == COLD else 0.3, "enable_all": how == WARM, "theta_lr": self.args.theta_lr}
        return nss.Config(self.fit_config(seed), tuple(targets), self.args.ranges, kernels=self.kernels, **more)

    @property
    def middle(self) -> float:
        """The target at which searches with and without warm-up are compared."""
        return self.args.targets[len(self.args.targets) // 2]

    def search(self, seed: int, how: str) -> dict:
        """One search: for each target the elite space's open choices, its cost and that of the most probable space."""
        targets = self.args.targets if how == WARM else (self.middle,)
        folder, cfg = RunFolder(self.args.run / f"{how}-{seed}"), self.config(seed, targets, how)

        def compute() -> dict:
            nss.run(self.space, self.images, cfg, folder.path, self.device)
            elites = []
            for target in targets:
                result, allowed = folder.elite(target).probabilities(), folder.elite(target).space().allowed
                elites.append({"allowed": allowed, **{k: result[k] for k in ("cost", "argmax_cost", "cost_weight")}})
            return {"elites": elites}

        return self.cell(f"{how}-{seed}", compute)

    def weights(self, seed: int, how: str, probes: Sequence[Arch]) -> dict[str, list[float]]:
        """Accuracies of networks with a search's weights: after the warm-up, and at the end at the middle target."""
        folder = RunFolder(self.args.run / f"{how}-{seed}")
        moments = {"at the end": folder.elite(self.middle)}
        if how != COLD:
            moments = {"after the warm-up": folder, **moments}
        found = self.cell(
            f"weights-{how}-{seed}", lambda: {moment: self.one_shot(own, probes) for moment, own in moments.items()}
        )
        return {moment: found[moment] for moment in moments}

    def one_shot(self, folder: RunFolder, probes: Sequence[Arch]) -> list[float]:
        """Accuracies with a search's weights, BN taken anew."""
        model = Supernet(self.space, affine=True, kernels=self.kernels)
        model.load_state_dict(checkpoint.weights(checkpoint.load(folder.checkpoint)))
        return list(map(float, self.evaluator(model.to(self.device))(probes)))

    def evaluator(self, model: Supernet) -> Callable[[Sequence[Arch]], list[float]]:
        """One-shot accuracies on the half that chooses."""
        scoring = Scoring(recalibration=(4, 128), executor=Threads(1), memory=machine.free_memory() // 8)
        return scoring.evaluator(model, dataclasses.replace(self.images, val=self.chosen_on))

    def best_of(self, space: Space, name: str, target: float, seed: int) -> dict:
        """A network searched in a space: a supernet by uniform paths, then SPOS's evolution near the target."""
        args, folder = self.args, self.args.run / "networks-searched" / f"{name}-{seed}"
        fixed = {"lr": defaults.learning_rate(64), "augment": args.augment, "seed": seed}
        cfg = spos.Config(FitConfig(args.search_epochs, **fixed), kernels=self.kernels, probes=0)

        def train() -> dict:
            spos.run(space, self.images, cfg, folder, self.device)
            return {"networks": space.size}

        def search() -> dict:
            scored = self.evaluator(spos.run(space, self.images, cfg, folder, self.device))
            flops = AdditiveCost(*families.layout(space).priced(multiply_adds))
            window = {"flops": ((1 - MEETS) * target, (1 + MEETS) * target)}
            budget = SPOSConfig(args.population, args.iterations, seed=seed)
            evolution = SPOSEvolution(space, {"flops": flops}, window, ["flops"], budget)
            while not evolution.done:
                archs = evolution.ask()
                evolution.tell(archs, scored(archs))
            best = max(evolution.records(), key=lambda record: record.accuracy)
            return {"arch": best.arch, "flops": best.costs["flops"], "evaluated": evolution.history[-1]["evaluated"]}

        where = folder.relative_to(args.run)
        trained = self.cell(str(where), train)
        found = self.cell(f"{where}-{target:.9g}-{args.population}x{args.iterations}", search)
        error = 1 - self.accuracies(tuple(found["arch"]))[1]
        told = {"flops": found["flops"], "deviation": abs(found["flops"] / target - 1), "error": error}
        return {**told, "evaluated": found["evaluated"], "minutes": trained["minutes"] + found["minutes"]}

    def by_cost_alone(self, seed: int, elites: Sequence[dict]) -> list[bool]:
        """Whether Θ finds the same spaces without any image: the same draws, Adam and λ, the cost term alone."""
        cfg, space, ranges = self.config(seed, self.args.targets), self.space, self.ranges
        per_epoch, warmup = len(self.images.train) // 2 // cfg.fit.batch_size, nss.warmup_epochs(cfg)
        total, first, same = cfg.fit.epochs * per_epoch, warmup * per_epoch, []
        for target, found in zip(cfg.targets, elites, strict=True):
            violation = torch.from_numpy(self.cost.violation(target, cfg.tolerance))
            theta = [torch.zeros(len(options), requires_grad=True) for options in ranges]
            adam, weight = nss.theta_adam(theta, cfg, total - first), cfg.cost_weight
            for step in range(first, total):
                tau = np.interp(step, (0, total - 1), cfg.temperature).item()
                sample = network_spaces.draw(space, ranges, theta, tau, (seed, step, nss.THETA))
                adam.zero_grad()
                (weight * network_spaces.expected(violation, sample.weights)).backward()
                adam.step()
                argmax = tuple(int(logits.argmax()) for logits in theta)
                weight += cfg.dual / (total - first) * violation[argmax].item()
            chosen = network_spaces.elite(ranges, theta, self.cost, target, cfg.tolerance)
            same.append([list(open_) for open_ in self.within(chosen).allowed] == found["allowed"])
        return same

    def within(self, chosen: Sequence[int]) -> Space:
        """The network space of one range for each gene."""
        return self.space.restrict([options[i] for options, i in zip(self.ranges, chosen, strict=True)])

    def share(self, space: Space, target: float) -> float:
        """Of a space's networks those that meet the target; uniform draws where they are too many to list."""
        return float((np.abs(costs(space) / target - 1) <= MEETS).mean())

    def random(self, target: float, tolerance: float, n: int, seed: int) -> list[Arch]:
        """Networks of the expanded space near the target, drawn uniformly."""
        rng, archs, space = np.random.default_rng([seed, int(target)]), [], self.space
        while len(archs) < n:
            arch = space.sample_where(rng, lambda a: abs(families.flops(space, a) / target - 1) <= tolerance, DRAWS)
            if arch is None:
                raise UserError(f"{DRAWS:,} draws of {space.name} met no network of {target:g} ± {tolerance:.0%}")
            archs.append(arch)
        return archs

    def of_random_spaces(self, target: float, n: int, seed: int) -> list[Arch]:
        """Networks near the target, each of another random network space whose mean cost meets the target."""
        rng, archs = np.random.default_rng([seed, int(target), 1]), []
        for chosen in rng.permutation(np.argwhere(np.abs(self.cost.all() / target - 1) <= MEETS)):
            if len(archs) < n and (found := near(self.within(chosen), target, ALIKE)):
                archs.append(found[int(rng.integers(len(found)))])
        return archs

    def accuracies(self, arch: Arch) -> tuple[float, float]:
        """Of the network trained alone: on the half that chooses and on the one that tells."""
        name = "_".join(map(str, arch))

        def compute() -> dict:
            torch.manual_seed(0)
            network = Network(self.space, arch, kernels=self.kernels).to(self.device)
            folder = self.args.run / "now" / name
            settings = FitConfig(self.args.epochs, lr=defaults.learning_rate(64), augment=self.args.augment)
            fit(network, self.images.train, lambda step: None, settings, folder, meta={})
            checkpoint.delete(folder / "checkpoint.pt")
            found = [evaluate(network, half.plain_batches(512)) for half in (self.chosen_on, self.told_on)]
            return {"accuracies": found, "flops": families.flops(self.space, arch)}

        return tuple(self.cell(f"networks/{name}", compute)["accuracies"])


def multiply_adds(spec) -> int:
    return spec.flops


@functools.lru_cache(8)
def costs(space: Space) -> np.ndarray:
    """Multiply-adds of every network of a space, an axis per gene; of one too large of ``DRAWS`` random networks."""
    if space.size <= network_spaces.MAX_SPACES:
        alone = network_spaces.split(space, (1, 1))
        return network_spaces.SpaceCost.of(space, alone, multiply_adds).all()
    rng = np.random.default_rng(0)
    drawn = [rng.choice(open_, DRAWS) for open_ in space.allowed]
    tables, base, genes = families.layout(space).priced(multiply_adds)
    return base + sum(table[tuple(drawn[g] for g in own)] for table, own in zip(tables, genes, strict=True))


def near(space: Space, target: float, tolerance: float) -> list[Arch]:
    """The networks of a network space that are near the target."""
    places = np.argwhere(np.abs(costs(space) / target - 1) <= tolerance)
    return [tuple(open_[i] for open_, i in zip(space.allowed, place, strict=True)) for place in places.tolist()]
