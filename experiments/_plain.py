"""Searches and trainings of Efficient Global NAS's plain networks, each kept: what its experiments have in common."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import _common
from search import plain_run
from search.efficient_global import Candidate, Config
from supernet import executor, families, files, machine
from supernet.data import sets
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Processes
from supernet.progress import shown
from supernet.runs import RunFolder
from supernet.training import checkpoint, defaults, standalone
from supernet.training.evaluation import evaluate

CUTOUT = 16


@dataclass(frozen=True)
class Options(_common.OnImages, _common.OnDevice):
    """Options of the experiments on images."""

    run: Path = Path("runs")
    """Folder of the trainings."""
    limit: int = 3000
    """Training images, stratified; 0: all."""
    validation: int = 3000
    """Validation images, stratified; 0: all."""
    depth: tuple[int, int] = (5, 10)
    """Fewest and most layers (the paper: 10 to 100, of the networks that it ranks 5 to 100)."""
    width: tuple[int, int] = (4, 12)
    """Fewest and most channels at full resolution (the paper: 16 to 64, for mobile networks and ranking to 128)."""
    augment: bool = False
    """Crops, flips and cutout, as in the paper: they pay in long trainings only."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""
    quick: bool = False
    """Everything tiny, on digits: does it run at all?"""


@dataclass(frozen=True)
class Subset:
    """Which images a network is to know.

    Args:
        limit, validation: images that train and that validate, stratified; 0: all.
        classes: two or more that there are alone, with new numbers.
    """

    data: str
    root: Path
    limit: int = 0
    validation: int = 0
    classes: tuple[int, ...] = ()


def subset_of(args: Options) -> Subset:
    """The images of an experiment."""
    return Subset(args.data, args.data_root, args.limit, args.validation)


@functools.cache
def images(subset: Subset) -> TrainVal:
    """What is trained on and what validates; cutout comes with the augmentation.

    Raises:
        UserError: the data set is missing, or has not these classes.
    """
    opened = sets.open_train(subset.data, subset.root)
    if wrong := [c for c in subset.classes if not 0 <= c < opened.classes]:
        raise UserError(f"{subset.data} has classes 0 to {opened.classes - 1}, got {wrong[0]}")
    if subset.classes:
        train, val = (of_classes(part, subset.classes) for part in (opened.train, opened.val))
        names = tuple(opened.class_names[c] for c in subset.classes)
        opened = dataclasses.replace(opened, train=train, val=val, classes=len(names), class_names=names)
    if subset.limit:
        opened = dataclasses.replace(opened, train=opened.train.subset(subset.limit, 0))
    if subset.validation:
        opened = dataclasses.replace(opened, val=opened.val.subset(subset.validation, 0))
    return plain_run.with_cutout(opened, CUTOUT)


@functools.cache
def test_images(subset: Subset) -> ImageSet:
    """The test part; opened only for networks that are decided."""
    test = sets.open_test(subset.data, subset.root)
    return of_classes(test, subset.classes) if subset.classes else test


def of_classes(whole: ImageSet, classes: tuple[int, ...]) -> ImageSet:
    """The images of these classes, numbered from 0 in their order."""
    part = copy.copy(whole.take(np.flatnonzero(np.isin(whole.labels, classes))))
    part.labels = np.array([classes.index(label) for label in part.labels.tolist()], np.int64)
    return part


# --- searches


@dataclass(frozen=True)
class Search:
    """One search: its bounds, its seed, and the images that it sees."""

    config: Config
    seed: int
    subset: Subset


def candidate(saved: Mapping[str, Any]) -> Candidate:
    """As JSON has it."""
    return Candidate(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})


def search_one(args: Options, name: str, job: Search) -> dict[str, Any]:
    """Search to the end, or continue; what was found and what it took, as ``arch.json`` has it."""
    run, device = begun(args, name)
    if not run.arch_path.exists():
        training = plain_run.Training(augment=args.augment, seed=job.seed)
        plain = plain_run.PlainRun(run, images(job.subset), training, device)
        plain.search(plain_run.controller(job.config, plain.image))
    return run.found()


def begun(args: Any, name: str) -> tuple[RunFolder, torch.device]:
    """The folder and the device of a worker."""
    defaults.keep_memory()
    device = defaults.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    return RunFolder(args.run / name), device


# --- trainings


@dataclass(frozen=True)
class Job:
    """One network to train for its ``epochs``.

    Args:
        test: it is tested. curve: every epoch is validated, not the last one alone.
        train_all: the validation images are trained on, too.
    """

    candidate: Candidate
    seed: int
    subset: Subset
    test: bool = False
    curve: bool = False
    train_all: bool = False


def train_one(args: Options, name: str, job: Job) -> dict[str, Any]:
    """Train one network as the search does, or read what it has; the last epoch counts, as nothing is selected here.

    ``curve`` has the validation accuracy after each epoch.
    """
    run, device = begun(args, name)
    if run.result_path.exists():
        return files.read_json(run.result_path, "result of a training")
    opened = images(job.subset)
    judging = opened.val
    if job.train_all:
        opened = dataclasses.replace(opened, train=opened.train.together(opened.val))
    space, arch = plain_run.network(job.candidate, (opened.channels, opened.size, opened.classes))
    cfg = plain_run.Training(augment=args.augment, seed=job.seed).fit(job.candidate.epochs)

    def validate(network: Any) -> dict[str, float]:
        return {"val_accuracy": evaluate(network, judging.plain_batches(512))} if job.curve else {}

    how = {"kernels": defaults.kernels(device), "validate": validate}
    network, _ = standalone.train(space, arch, opened, cfg, run.path, device, **how)
    result: dict[str, Any] = {
        "candidate": dataclasses.asdict(job.candidate),
        "params": families.params(space, arch),
        "flops": families.flops(space, arch),
    }
    if job.curve:
        result["curve"] = [line["val_accuracy"] for line in run.metrics.read()]
    elif not job.train_all:
        result["val_accuracy"] = evaluate(network, judging.plain_batches(512))
    if job.test:
        result["test_accuracy"] = evaluate(network, test_images(job.subset).plain_batches(512))
    files.write_json(run.result_path, result)
    checkpoint.delete(run.checkpoint)
    return result


def all_of(args: Any, function: Callable[[Any, str, Any], dict], jobs: Mapping[str, Any], unit: str) -> dict[str, dict]:
    """``search_one`` or ``train_one`` of every job by name, side by side where the device is the CPU."""
    workers = executor.for_device(Processes(args.jobs), defaults.device(args.device))
    todo = {name: (args, name, job) for name, job in jobs.items()}
    return executor.run(workers, function, todo, shown(not args.quiet)(unit, len(todo), unit=unit))


def minutes(folder: Path, images_of_an_epoch: int) -> float:
    """What the epochs of all trainings in a folder took on one thread, by the rates in their logs."""
    lines = (line for path in sorted(folder.rglob("metrics.jsonl")) for line in files.JsonLines(path).read())
    return round(sum(images_of_an_epoch / line["images_per_second"] for line in lines) / 60, 1)
