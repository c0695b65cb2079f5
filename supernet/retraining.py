"""Trains found architectures alone, in parallel, each in a folder of the run; the test set is opened once for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from supernet import executor as executors
from supernet import files, machine, metrics, mistakes, teachers
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Executor, Processes
from supernet.methods import spos
from supernet.metrics import TOP1, Metric
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.run_files import INT8
from supernet.runs import RunFolder
from supernet.space import Arch
from supernet.training import defaults, distributed, standalone
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import shared_answers
from supernet.training.fake_int8 import faking
from supernet.training.loop import Drive, require_steps
from supernet.training.measured import Kernels, Wish
from supernet.training.recipes import Wishes
from supernet.training.standalone import AloneConfig

CONFIGURED = "config"  # the name of a network that the front did not choose
Networks = Callable[[str], Mapping[str, Network]]  # by name, built with these kernels


@dataclass(frozen=True)
class Settings(Wishes):
    """What shapes a trained network: another value is another training."""

    epochs: int = 12  # 0 with ``inherit`` tests the supernet's weights as they are
    batch_size: int = 64
    lr: float | None = None  # peak; None: ``defaults.learning_rate``
    clip: float = 0.0
    inherit: bool = False  # start from the supernet's weights instead of from scratch
    augment: bool | None = None
    limit: int | None = None
    seed: int = 0
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sync_bn: bool = False
    teacher: str = "none"  # what it learns from besides the labels, as ``teachers.opened`` names it
    teacher_weights: str | None = None
    qat: bool = False  # fine-tune what was trained so before, by fake quantisation

    def __post_init__(self) -> None:
        if self.epochs == 0 and not self.inherit:
            raise UserError("0 epochs train nothing: expected inherited weights with them, or at least one epoch")
        if self.qat and (self.inherit or not self.epochs or self.precision != "fp32"):
            raise UserError(
                "qat fine-tunes a trained network in fp32, for some epochs: it inherits no supernet's weights"
            )
        if self.teacher_weights is not None and self.teacher == "none":
            raise UserError(f"weights {self.teacher_weights} of no teacher: expected its name with them")
        _ = self.fit  # refuses what it cannot be

    @property
    def fit(self) -> AloneConfig:
        """How the network is trained."""
        recipe = self.settled(self.epochs)
        augment = True if self.augment is None and recipe["auto_augment"] != "none" else self.augment
        return AloneConfig(
            self.epochs,
            self.batch_size,
            defaults.learning_rate(self.batch_size, self.lr, learnt=self.qat, optimizer=recipe["optimizer"]),
            clip=self.clip,
            seed=self.seed,
            augment=defaults.augments(augment, self.epochs),
            accumulate=self.accumulate,
            precision=self.precision,
            qat=self.qat,
            sync_bn=self.sync_bn,
            **recipe,
        )

    @property
    def recorded(self) -> dict[str, Any]:
        """What files say of them: the recipe as it was taken, in full."""
        return {**asdict(self), **self.settled(self.epochs)}


@dataclass(frozen=True)
class Job:
    """One network to train, in a process of its own."""

    run: RunFolder
    name: str
    arch: Arch
    settings: Settings
    device: str
    kernels: Kernels
    data_root: Path | None
    threads: int  # of the CPU
    workers: int  # processes that decode images


def picked(front: Mapping[str, Any], pick: str, controls: int) -> dict[str, dict]:
    """Entries of a front by the names of their folders: those that ``pick`` names, and random ones of the same window.

    Args:
        pick: ``best``, ``knee``, ``all``, or a number in the front.
        controls: how many random ones.
    """
    entries = front["front"]
    random = {f"random-{i}": entry for i, entry in enumerate(front["random"][:controls])}
    if pick in ("best", "knee"):
        return {pick: entries[front[pick]], **random}
    if pick == "all":
        return {**{f"front-{i}": entry for i, entry in enumerate(entries)}, **random}
    if pick.isdecimal() and int(pick[:9]) < len(entries):
        return {f"front-{pick}": entries[int(pick)], **random}
    raise UserError(f"pick {pick}: expected best, knee, all or a number from 0 to {len(entries) - 1}")


def found(
    run: RunFolder,
    pick: str,
    controls: int,
    settings: Settings,
    *,
    arch: Arch | None = None,
    metric: Metric | None = None,
    predict: Callable[[Arch], float] | None = None,
    measure: Callable[[Networks], Mapping[str, float]] = lambda networks: {},
    **options: Any,
) -> dict[str, dict]:
    """Train what ``pick`` names of the run's front and random controls, test and measure them, write the results.

    Args:
        pick, controls: as ``picked`` has them.
        arch: trained instead of them, as ``CONFIGURED``; then there need be no front.
        metric: what they are compared by; None: what the search maximised.
        predict: latency of an architecture, ms. measure: latencies of networks, ms, by name; those that it can.
        options: of ``train``.

    Returns:
        ``result.json`` of each, by the name of its folder.
    """
    space = run.space()
    front = run.front(space) if arch is None else {}
    entries = picked(front, pick, controls) if arch is None else {CONFIGURED: {"arch": list(arch)}}
    metric = metric or front.get("metric", TOP1)
    metrics.require(metric, space.classes)
    if settings.qat:
        entries = {name + INT8: entry for name, entry in entries.items()}
    archs = {name: space.check(entry["arch"]) for name, entry in entries.items()}
    if predict is not None:
        entries = {name: {"latency_ms": predict(archs[name]), **entry} for name, entry in entries.items()}
    leader = distributed.rank() == 0
    with run.lock() if leader else run.unlocked():
        trained = train(run, archs, settings, **options)
        if not leader:
            return trained
        measured = measure(lambda kernels: {name: run.network(name).trained(space, kernels) for name in archs})
        rows = {name: {"metric": metric, **entries[name], **trained[name]} for name in archs}
        for name, ms in measured.items():
            rows[name]["measured_latency_ms"] = ms
        write(run, rows, settings)
    return rows


def train(
    run: RunFolder,
    archs: Mapping[str, Arch],
    settings: Settings,
    *,
    device: str | None = None,
    kernels: Wish = "auto",
    executor: Executor = Processes(),
    workers: int = 0,
    data_root: Path | None = None,
    progress: Progress = silent,
    aside: Callable[[Path, Path], None] = lambda folder, name: None,
    one: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Train and test architectures in ``run/NAME``, or continue there; under torchrun all processes train each one.

    Args:
        archs: by the names of their folders.
        kernels: as ``RunFolder.kernels`` has them.
        executor: who trains; on one GPU, and under torchrun, this process trains one network after another.
        workers: processes that decode images, of all of them together.
        aside: called where a folder held another training, which was renamed.
        one: what is done with each ``Job``; by default ``train_one``.

    Returns:
        What ``one`` gave, by name.
    """
    one, where = one or train_one, defaults.device(device)
    executor = executors.for_device(executor, where) if distributed.world() == 1 else Processes()
    at_once = min(executor.at_once, len(archs))
    each = max(1, machine.cores() // at_once), -(-workers // at_once)
    if settings.qat:
        kernels = plain_kernels(kernels)
        for name, arch in archs.items():
            trained_before(run, name, arch)  # refused before a folder is set aside, as below
    how = str(where), run.kernels(where, kernels, settings.sync_bn), data_root, *each
    jobs = {name: Job(run, name, arch, settings, *how) for name, arch in archs.items()}
    if settings.epochs:  # before a folder is set aside for a training that cannot be
        images = run.images(data_root, settings.limit)
        require_steps(images.train, settings.fit)
        wanted = dataclasses.replace(settings.fit, drop_path=settings.drop_path or 0.0)  # a recipe drops where it can
        for arch in archs.values():
            standalone.require(run.space(), arch, wanted)
        _teacher(run, settings, where, how[1], images)
    if distributed.rank() == 0:
        for job in jobs.values():
            prepare(job, aside)
    distributed.wait()
    if at_once == 1 and isinstance(executor, Processes):
        return {name: one(job, progress) for name, job in jobs.items()}
    logs = [run.network(name).metrics for name in jobs]
    return executors.run(
        executor,
        one,
        {name: (job,) for name, job in jobs.items()},
        progress("retrain", settings.epochs * len(jobs), unit="epochs"),
        lambda: sum(len(log.read()) for log in logs),
    )


def plain_kernels(wish: Wish) -> Wish:
    """Those that fake quantisation is of."""
    if wish == "fused":
        raise UserError("qat computes by plain PyTorch: leave fused kernels away")
    return "eager"


def trained_before(run: RunFolder, name: str, arch: Arch) -> Network:
    """The network that ``name`` is to be fine-tuned from; a UserError where it was not trained, or for another search.

    Args:
        name: with ``INT8`` at its end.
    """
    before = run.network(name.removesuffix(INT8))
    network = before.trained(run.space())
    if network.arch != arch:
        raise UserError(f"{before.path} was trained for an earlier search, now there is another network", "network")
    return network


def prepare(job: Job, aside: Callable[[Path, Path], None]) -> None:
    """An empty folder, or one that holds the same training; one of other settings or weights is set aside."""
    folder, weights = job.run.network(job.name), _weights(job)
    wanted = {**job.settings.recorded, "arch": list(job.arch), **weights}
    try:  # the schedule was the only one, and the weights were not recorded
        folder.begin(wanted, defaults={**Settings().recorded, "schedule": "cosine", **weights})
    except UserError:
        aside(folder.path, folder.set_aside())
        folder.begin(wanted)


def _weights(job: Job) -> dict[str, str]:
    """Which weights a training begins with and which teach it, where it has such: ``RunFolder.identity`` of each."""
    settings, run, sources = job.settings, job.run, {}
    if settings.qat:
        sources["begins_with"] = run.network(job.name.removesuffix(INT8))
    elif settings.inherit:
        sources["begins_with"] = run
    if settings.teacher == teachers.SUPERNET:
        sources["taught_by"] = run
    elif settings.teacher not in ("none", teachers.GIVEN) and Path(settings.teacher).is_dir():
        sources["taught_by"] = RunFolder(settings.teacher)
    return {name: source.identity for name, source in sources.items() if source.checkpoint.exists()}


def train_one(job: Job, progress: Progress = silent) -> dict:
    """Train and test one network: what ``Answers.result`` has of both parts; its classes go to files."""
    images = job.run.images(job.data_root, job.settings.limit, job.workers)
    network, last = train_alone(job, images, progress)
    test = job.run.test_images(job.data_root, job.workers)
    with faking(job.settings.qat):  # as floats it is another network than the one that was trained
        tested = shared_answers(network, test, batch=job.settings.fit.validation_batch)
        if distributed.rank() == 0:
            own = job.run.network(job.name)
            tested.write(own.classes_path, own.confusion_picture, images.class_names)
            mistakes.write(own.mistakes_path, network, test, images.class_names)
    return {name: last[name] for name in last if name.startswith("val_")} | tested.result("test")


def train_alone(
    job: Job, images: TrainVal, progress: Progress = silent, drive: Drive | None = None
) -> tuple[Network, dict]:
    """Train one network: it, and the last line of its log."""
    defaults.keep_memory()
    run, device = job.run, torch.device(job.device)
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    space = run.space()
    supernet = run.supernet(space, device, job.kernels)

    def begin(network: Network) -> None:
        if job.settings.qat:
            network.load_state_dict(trained_before(run, job.name, job.arch).state_dict())
        elif job.settings.inherit and space.model:  # few steps would leave BN the statistics of the whole network
            recalibrate_bn(network, spos.recalibration_images(images, 8, 128))

    return standalone.train(
        space,
        job.arch,
        images,
        job.settings.fit,
        run.network(job.name).path,
        device,
        kernels=job.kernels,
        supernet=supernet if job.settings.inherit else None,
        start=begin,
        eps=supernet.options["eps"],
        label=job.name,
        progress=progress,
        teacher=_teacher(run, job.settings, device, job.kernels, images),
        drive=drive,
    )


def _teacher(
    run: RunFolder, settings: Settings, device: torch.device, kernels: Kernels, images: TrainVal
) -> torch.nn.Module | None:
    """A UserError if there is no such teacher for the images of the run. Arguments as in ``teachers.opened``."""
    if settings.teacher == "none" or not settings.epochs:
        return None
    file = None if settings.teacher_weights is None else Path(settings.teacher_weights)
    return teachers.opened(run, settings.teacher, file, device, kernels, images)


def write(run: RunFolder, rows: Mapping[str, dict], settings: Settings) -> None:
    """``result.json`` of each network: the settings, the supernet that its search was scored on, what was found."""
    made_from = {"checkpoint": run.identity}
    for name, row in rows.items():
        result = {"settings": settings.recorded, "made_from": made_from, **row}
        files.write_json(run.network(name).result_path, result)


def controls(rows: Mapping[str, dict]) -> Sequence[str]:
    """The names of the random architectures."""
    return [name for name in rows if name.startswith("random-")]
