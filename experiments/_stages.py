"""Searches of Stage-Wise NAS and networks of stages alone, each training kept: what its experiments share."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import _common
from experiments._stage_costs import facts
from search import stage_wise_run, stage_wise_settings
from search.stage_wise import Config, Modules, StageWise
from supernet import families, files
from supernet.data import sets
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.families import module_stages
from supernet.model import load_network
from supernet.progress import shown
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.training import checkpoint, defaults, standalone
from supernet.training.evaluation import answers

UNSET = tyro.conf.arg(help_behavior_hint="")
TOLERANCE = 0.03  # multiply-adds count as equal within it


@dataclass(frozen=True)
class Networks(_common.Training, _common.OnDevice):
    """Options of the experiments on networks of stages."""

    run: Path = Path("runs/experiments")
    """Folder of searches and trainings; the experiments share them."""
    preset: Literal["small", "paper"] = "small"
    """What the sizes and the training default to, as of tools/stage_wise.py."""
    seeds: int = 3
    """Searches and trainings of each kind: 0, 1, …"""
    width: Annotated[int | None, UNSET] = None
    """Channels of the first stage, not of cells; defaults to the preset's."""
    epochs: Annotated[int | None, UNSET] = None
    """Epochs of every network; with a donor a quarter. Defaults to the preset's."""
    further_epochs: Annotated[int | None, UNSET] = None
    """Further epochs of candidates, and of what is compared with them; defaults to the preset's."""
    batch_size: Annotated[int | None, UNSET] = None
    """Images per step; defaults to the preset's."""
    train: int = 2000
    """Training images, stratified; 0: all."""
    test: bool = False
    """Judge on the test images, and train on nine tenths of all others; else judge on images held out of training."""
    resolution: Annotated[int | None, UNSET] = None
    """Pixels of the images, of folders and of images of your own."""

    def given(self, arm: Arm) -> stage_wise_settings.Settings:
        """The sizes and the training of an arm. Cells begin, grow and widen as the preset has it."""
        names = ["iterations", "epochs", "further_epochs", "batch_size"]
        names += ["initial", "step", "width"] if arm.module != "nasnet" else []
        named = {name: getattr(self, name, None) for name in names}
        named |= {name: value for name in ("initial", "iterations") if (value := getattr(arm, name)) is not None}
        paper = self.preset == "paper"
        found = stage_wise_settings.preset(paper, arm.module, "a donor" if arm.donor else None, **named)
        if arm.donor and (not paper or self.epochs is not None):
            found = dataclasses.replace(found, epochs=max(1, found.epochs // 4))
        return found


@dataclass(frozen=True)
class OnStages(Networks, _common.OnImages):
    """Options of the experiments that search."""

    initial: Annotated[int | None, UNSET] = None
    """Modules in each stage at first, not of cells; defaults to the preset's."""
    step: Annotated[int | None, UNSET] = None
    """Modules that a stage can grow by, not of cells; defaults to the preset's."""
    iterations: Annotated[int | None, UNSET] = None
    """Iterations of Algorithm 1; defaults to the preset's."""


@dataclass(frozen=True)
class Arm:
    """A kind of search.

    Args:
        donor: begin with the weights of a trained deeper network.
        initial, iterations: in place of the experiment's.
        pairs: as ``search.stage_wise.Config`` has them.
    """

    module: str = "residual"
    criterion: str = "pls"
    donor: bool = False
    initial: int | None = None
    iterations: int | None = None
    pairs: int = 1


@functools.cache
def open_images(
    name: str, root: Path, train: int, test: bool, resolution: int | None, workers: int
) -> tuple[TrainVal, Callable[[], ImageSet]]:
    """Training and validation images, and what opens those that networks are judged on."""
    given = {"seed": 0, "resolution": resolution, "limit": train or None, "workers": workers}
    if test:
        opened = sets.open_train(name, root, val_fraction=0.1, **given)
        split = {"resolution": resolution, "split": opened.split, "workers": workers}
        return opened, functools.cache(lambda: sets.open_test(name, root, **split))
    opened = sets.open_train(name, root, val_fraction=0.3, **given)
    val = opened.val.subset(min(1000, len(opened.val) // 2), seed=0)
    rest = opened.val.without(val)
    return dataclasses.replace(opened, val=val), functools.cache(lambda: rest.subset(10_000, seed=0))


class Stages:
    """Searches and networks of one experiment, on one kind of images.

    Args:
        args: ``OnStages`` where there are searches.
        donor: modules in each stage of the donor; by default three times the initial ones, of four stages ResNet-152's.
    """

    def __init__(self, args: Any, data: str, donor: Modules = ()):
        self.args, self.data, self.donor_depth, self.device = args, data, donor, defaults.device(args.device)
        where = data, args.data_root, args.train, args.test, args.resolution, args.decoders
        self.images, self.judging = open_images(*where)
        self.paper, self.on_cpu = args.preset == "paper", self.device.type == "cpu"
        self.stages = stage_wise_settings.stages_for(self.images)

    def folder(self, kind: str, **settings: Any) -> Path:
        """Of what these settings make, whatever else the experiment has."""
        args = self.args
        settings |= {"train": args.train, "test": args.test, "preset": args.preset, "resolution": args.resolution}
        digest = hashlib.sha256(json.dumps(files.plain(settings), sort_keys=True).encode()).hexdigest()[:12]
        return args.run / f"stages-{Path(self.data).name}{args.marked}" / f"{kind}-{digest}"

    def plan(self, arm: Arm) -> tuple[stage_wise_settings.Settings, Config, Space]:
        """The settings of a search, and the space of all that it can ask for."""
        given = self.args.given(arm)
        stages = self.stages
        deepest = None if not arm.donor else self.donor_modules(arm)
        config = Config(stages, given.initial, given.step, given.iterations, deepest=deepest, pairs=arm.pairs)
        return given, config, stage_wise_settings.space_for(self.images, arm.module, config, given.width, self.paper)

    def donor_modules(self, arm: Arm) -> Modules:
        """ResNet-110's depth by the initial one for three stages, as the paper has them; ResNet-152's for four."""
        usual = (3, 8, 36, 3) if self.stages == 4 else (3 * self.args.given(arm).initial,) * self.stages
        return self.donor_depth or usual

    def search(self, arm: Arm, seed: int) -> dict[str, Any]:
        """One search: its candidates as it leaves them, and how many networks it trained."""
        given, config, space = self.plan(arm)
        fit = stage_wise_settings.fit_config(self.paper, given, seed)
        settings = {**dataclasses.asdict(arm), **vars(given), "fit": vars(fit)}
        run = RunFolder(self.folder(f"{arm.module}-{arm.criterion}-{seed}", **settings))

        def compute() -> dict[str, Any]:
            donor = load_network(self.donor(arm, seed)) if arm.donor else None
            training = stage_wise_run.Training(
                fit, given.further_epochs * given.passes, arm.criterion, kernels=defaults.kernels(self.device)
            )
            bar = shown(not self.args.quiet)
            job = stage_wise_run.StageRun(run, space, self.images, training, self.device, donor, clock, bar)
            results = list(job.search(StageWise(config)))
            trained = stage_wise_run.judged(results)
            return {
                "networks": len(results),
                "seconds": sum(r["cpu_seconds" if self.on_cpu else "wall_seconds"] for r in results),
                "candidates": [
                    {
                        "iteration": result["iteration"],
                        **self.judged(run.stage_network(result["name"]).path),
                        **spent(result, self.on_cpu),
                    }
                    for result in trained
                ],
                "importance": [[r["role"], r["iteration"], r["seed"], r["importance"]] for r in results],
            }

        return _common.cell(run.path / "judged.json", compute)

    def donor(self, arm: Arm, seed: int) -> Path:
        """The folder of the trained network that gives an arm its weights."""
        return Path(self.alone(arm.module, self.donor_modules(arm), seed)["path"])

    def alone(self, module: str, modules: Sequence[int], seed: int) -> dict[str, Any]:
        """A network trained as long as a candidate."""
        given = self.args.given(Arm(module))
        config = Config(len(modules), max(modules), given.step, 1)
        space = stage_wise_settings.space_for(self.images, module, config, given.width, self.paper)
        fit = stage_wise_settings.fit_config(self.paper, given, seed)
        fit = dataclasses.replace(fit, epochs=fit.epochs + given.further_epochs * given.passes)
        name = f"{module}-{'-'.join(map(str, modules))}-{seed}"
        path = self.folder(name, modules=list(modules), module=module, width=given.width, fit=vars(fit))

        def compute() -> dict[str, Any]:
            arch, how = module_stages.arch(space, modules), {"kernels": defaults.kernels(self.device), "label": name}
            whole, bar = not checkpoint.exists(path / "checkpoint.pt"), shown(not self.args.quiet)
            with clock() as took:
                standalone.train(space, arch, self.images, fit, path, self.device, progress=bar, **how)
            return {**self.judged(path), **spent({**took, "whole": whole}, self.on_cpu)}

        return _common.cell(path / "judged.json", compute)

    def evened(self, module: str, modules: Modules) -> Modules:
        """The most even depths that cost as many multiply-adds as ``modules``."""
        given = self.args.given(Arm(module))
        config = Config(len(modules), max(modules), given.step, 1)
        space = stage_wise_settings.space_for(self.images, module, config, given.width, self.paper)
        return module_stages.depths(space, equal(space, module_stages.arch(space, modules), max(modules))[0])

    def judged(self, path: Path) -> dict[str, Any]:
        """Sizes and costs of a trained network, and what it answers to the images that nothing else sees."""
        network = load_network(path)
        found = answers(network.to(self.device), self.judging().plain_batches(256))
        shares = {name.removeprefix("test_"): share for name, share in found.shares("test").items()}
        return {"path": str(path), **facts(network), **shares}

    def together(self, paths: Sequence[Path]) -> dict[str, Any]:
        """The vote of several trained networks, as ``stage_wise_run.vote`` counts it."""
        networks = [load_network(path).to(self.device) for path in paths]
        _, voted = stage_wise_run.vote(networks, self.judging().plain_batches(256))
        params = sum(facts(network)["params"] for network in networks)
        return {"networks": len(networks), "params": params, "accuracy": voted.share()}


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """What runs inside, in seconds of this process and on the clock: adds up over parts of a training."""
    took: dict[str, float] = {}
    cpu, wall = time.process_time(), time.monotonic()
    yield took
    took |= {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.monotonic() - wall}


def spent(result: Mapping[str, Any], on_cpu: bool) -> dict[str, float]:
    """Seconds that a training took; nothing of one that was stopped in between, which does not know all of them."""
    return {"seconds": result["cpu_seconds" if on_cpu else "wall_seconds"]} if result["whole"] else {}


def at_iteration(search: Mapping[str, Any], iteration: int) -> dict[str, Any]:
    """The candidate that a search has after so many iterations: the last one where no stage grew any more."""
    return [row for row in search["candidates"] if row["iteration"] <= iteration][-1]


def equal(space: Space, arch: Arch, deepest: int) -> list[Arch]:
    """All networks of up to ``deepest`` modules in a stage that cost as much as ``arch``, the most even ones first."""
    cost, fewest = families.flops(space, arch), space.genes[0].choices[0].count
    off = {
        other: abs(families.flops(space, other) - cost)
        for modules in itertools.product(range(fewest, deepest + 1), repeat=len(space.genes))
        for other in [module_stages.arch(space, modules)]
    }
    return sorted((a for a in off if off[a] <= TOLERANCE * cost), key=lambda a: (max(a) - min(a), off[a], a))


def evenly(count: int, stages: int) -> Modules:
    """As many modules in every stage."""
    return tuple(itertools.repeat(count, stages))
