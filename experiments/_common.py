"""What the experiments share: disjoint sets of images, networks trained alone once, finished cells, the report."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from latency.measure import host
from search.alone import StandAlone
from search.ask_tell import Search
from supernet import executor, files, machine
from supernet.cli import printing, starting
from supernet.data import sets
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.model import Network
from supernet.progress import shown
from supernet.shape import Number
from supernet.space import Arch, Space
from supernet.training import defaults, standalone
from supernet.training.config import FitConfig, Schedule
from supernet.training.evaluation import evaluate

CPU = torch.device("cpu")
HOME = Path("docs/results")  # of what is told there
OLDER = {"device": "cpu"}  # of runs that were begun before it could be chosen


def main(run: Callable[[Any], None], args: Any, finish: Callable[[Any, Any], None] | None = None) -> None:
    """Parse ``args`` and run, or only ``finish`` what is found already; what ends it is told as by the commands.

    Args:
        finish: makes the tables and pictures of the results, for --redraw.
    """

    @functools.wraps(run)
    def begin(given: Any) -> None:
        given = aside(given)
        try:
            if finish is not None and given.redraw:
                finish(given, files.read_json(given.output, "results", "run it without --redraw", expected=dict))
            else:
                run(given)
        except KeyError as error:
            if not getattr(given, "redraw", False):
                raise
            raise UserError(f"{given.output} is of an older form, without {error}: {anew(given.output)}") from error

    starting.main(begin, args, program=program(), zero=("limit",))  # 0 images are all of them


def anew(output: Path) -> str:
    """What makes results again."""
    from experiments import catalogue  # which reads results, too

    made = (item.tiny for _, item in catalogue.select(catalogue.ALL) if item.tiny)
    command = next((str(tiny) for tiny in made if tiny.results == output.resolve()), f"{program()} without --redraw")
    return f"{command} makes it anew, once it is moved away"


def aside(args: Any) -> Any:
    """``args``, of which a quick run takes neither true results' place nor a true run's folder, unless told to."""
    if not getattr(args, "quick", False):
        return args
    usual = {field.name: field.default for field in fields(args)}
    run = getattr(args, "run", Path("runs/experiments"))
    if run == usual.get("run", run):
        run = run / "quick"
    where = {"run": run} if "run" in usual else {}
    if args.output == usual["output"] or args.output.parent == HOME:
        where["output"] = run / f"quick-{args.output.name}"
    return replace(args, **where)


def program() -> str:
    """How the experiment that runs is started."""
    return f"python -m experiments.{Path(sys.argv[0]).stem}"


@dataclass(frozen=True)
class Options:
    """Options of all experiments."""

    redraw: bool = False
    """Only the tables and pictures again, from the results that are there."""
    quick: bool = False
    """A tiny run: shows that it works, tells nothing."""


@dataclass(frozen=True)
class Training(Options):
    """Options of experiments that train on images."""

    data_root: Path = Path("data")
    """Dataset directory."""
    quiet: bool = False
    """No progress."""


@dataclass(frozen=True)
class OnImages(Training):
    """Options of experiments on images of one kind."""

    data: str = "fashion-mnist"
    """Images."""


@dataclass(frozen=True)
class OnDevice(Options):
    """Option of experiments whose trainings may run on a GPU. The minutes that they tell are of the CPU alone."""

    device: str = "cpu"
    """Device of the trainings: cpu, cuda, …"""

    @property
    def marked(self) -> str:
        """The end of a folder's name, so that what another device made is not continued."""
        return "" if self.device == "cpu" else f"-{self.device}"

    @property
    def decoders(self) -> int:
        """Processes that decode images of a folder."""
        return decoders(self.device)


def decoders(device: str) -> int:
    """None on the CPU, whose cores train; else one for each core."""
    return 0 if device == "cpu" else machine.cores()


@dataclass(frozen=True)
class Images:
    """How the training part of a data set is cut; the test part stays closed."""

    name: str = "fashion-mnist"
    root: str = "data"
    train: int = 10_000  # trained on, by supernets and by networks alone
    search: int = 3_000  # one-shot accuracies; nothing is trained on them
    truth: int = 10_000  # what networks trained alone are judged on; disjoint from the others
    held: float = 0.3  # share of the training part that the other two are taken from


def images_of(args: Any, tiny: tuple[int, int, int] = (320, 200, 300)) -> Images:
    """The images of an experiment, as many as ``tiny`` in a quick run."""
    return Images(args.data, str(args.data_root), *(tiny if args.quick else (args.train,)))


USUAL = (("held", 0.3), ("augment", False), ("schedule", "cosine"))  # which accuracies of before do not name


@functools.cache
def open_images(images: Images, workers: int = 0) -> tuple[TrainVal, ImageSet]:
    """Training and search images, and those for the truth; ``workers`` decode those of a folder."""
    how = {"val_fraction": images.held, "limit": images.train, "workers": workers}
    opened = sets.open_train(images.name, Path(images.root), seed=0, **how)
    search = opened.val.subset(min(images.search, len(opened.val) // 2), seed=0)
    rest = opened.val.without(search)
    parts = (opened.train, search, opened.classes, opened.channels, opened.resolution, opened.class_names)
    return TrainVal(*parts), rest.subset(images.truth, seed=0)


@dataclass(frozen=True)
class Budget:
    """How a network is trained alone."""

    images: Images
    epochs: int
    batch_size: int = 64
    lr: float = 0.08
    augment: bool = False
    schedule: Schedule = "cosine"

    def fit(self, seed: int) -> FitConfig:
        """How a network is trained."""
        rate = {"schedule": self.schedule, "augment": self.augment}
        return FitConfig(self.epochs, self.batch_size, self.lr, seed=seed, **rate)

    def identity(self) -> dict[str, Any]:
        """What shapes an accuracy, in plain JSON; where the images lie does not."""
        return asdict(self, dict_factory=lambda all_: {k: v for k, v in all_ if k != "root" and (k, v) not in USUAL})


class Truth(StandAlone):
    """Accuracies on the truth images, in ``truth.jsonl``; a folder shared by several experiments shares them."""

    def __init__(self, folder: Path, space: Space, budget: Budget, jobs: int, quiet: bool, device: str = "cpu"):
        on = {} if device == "cpu" else {"device": device}
        identity = {"space": space.fingerprint, **budget.identity(), **on}
        train = functools.partial(train_alone, folder, space, budget, device)
        trainers = executor.for_device(executor.Processes(jobs), torch.device(device))
        super().__init__(files.JsonLines(folder / "truth.jsonl"), identity, train, trainers, progress=shown(not quiet))


def train_alone(folder: Path, space: Space, budget: Budget, device: str, arch: Arch, seed: int) -> float:
    """Train one network on one thread; its accuracy on the truth images."""
    defaults.keep_memory()
    torch.set_num_threads(1)
    images, judging = open_images(budget.images, decoders(device))
    key = hashlib.sha256(repr((space.fingerprint, budget, arch, seed)).encode()).hexdigest()[:16]
    network = trained(space, arch, images, budget.fit(seed), folder / key, defaults.device(device))
    accuracy = evaluate(network, judging.plain_batches(512))
    shutil.rmtree(folder / key)
    return accuracy


def trained(*of: Any, **options: Any) -> Network:
    """The network that ``standalone.train`` gives of these, the device last, with no epoch validated."""
    return standalone.train(*of, kernels=defaults.kernels(of[-1]), validate=lambda network: {}, **options)[0]


def most_accurate(search: Search, evaluator: Callable[[Sequence[Arch]], list[float]]) -> Arch:
    """What a search finds when it goes to its end."""
    scores: dict[Arch, float] = {}
    while not search.done:
        archs = search.ask()
        scores |= dict(zip(archs, evaluator(archs), strict=True))
        search.tell(archs, [scores[arch] for arch in archs])
    return max(scores, key=lambda arch: scores[arch])


def cell(path: Path, compute: Callable[[], Any]) -> Any:
    """What ``path`` holds, else what ``compute`` gives, kept there."""
    if not path.exists():
        files.write_json(path, compute())
    return files.read_json(path, "cell of the experiment", "run it again")


def timed_cell(path: Path, compute: Callable[[], dict], clock: Callable[[], float] = time.process_time) -> dict:
    """A cell with the minutes that it took by ``clock``; told when it is new."""

    def timed() -> dict:
        start = clock()
        found = compute()
        printing.tell(f"{path}: {found}", "dim")
        return {**found, "minutes": (clock() - start) / 60}

    return cell(path, timed)


def alone(function: Callable[..., Any], *args: Any, seconds: float | None = None) -> Any:
    """What ``function`` gives in a process of its own, whose memory is free afterwards.

    Raises:
        Whatever the function raises; multiprocessing.TimeoutError after ``seconds``.
    """
    with multiprocessing.get_context("fork").Pool(1) as pool:  # ended where the block is left
        return pool.apply_async(function, args).get(seconds)


PLACES = ("--run", "--data-root")  # of one machine, and no part of the results


def command() -> str:
    """The command line, for the results, but for folders."""
    words = sys.argv[1:]
    pairs = zip(["", *words], words, strict=False)
    kept = [word for before, word in pairs if not {before, word.partition("=")[0]} & set(PLACES)]
    return f"{program()} {shlex.join(kept)}".strip()


class Clock:
    """CPU minutes of an experiment, all its processes and all its runs in ``folder`` together."""

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.minutes.json"
        self.before = files.read_json(self.path, "clock", "delete it") if self.path.exists() else 0.0

    def minutes(self) -> float:
        """So far; kept for the next run."""
        total = self.before + sum(os.times()[:4]) / 60  # of this process and of those that it has waited for
        files.write_json(self.path, total)
        return round(total, 1)


class Kept:
    """A results file while it grows: what it has with the same settings is not made again, on any machine.

    Args:
        found: what it is to have besides rows.
        free: the settings that may have been others.
    """

    def __init__(self, path: Path, found: dict[str, Any], clock: Clock, free: Sequence[str] = ("seeds",)):
        self.path, self.found, self.clock = path, found, clock
        form = {"settings": dict, "machine": {"cpu_minutes": Number(0)}}
        before = files.read_json(path, "results", "run it again", expected=form) if path.exists() else {}
        same, there = (
            {k: v for k, v in files.plain(d["settings"]).items() if k not in free} for d in (found, before or found)
        )
        if before and same == there:
            self.found |= {name: rows for name, rows in before.items() if name not in found}
            clock.before = max(clock.before, before["machine"]["cpu_minutes"])  # those of another machine
        elif before:
            raise UserError(f"{path} has results of other settings: {there}, now {same}; move it away, or --output")

    def row(self, name: str, key: str) -> list:
        """What row ``key`` of table ``name`` has, by seed."""
        return self.found.get(name, {}).get(key, [])

    def add(self, name: str, key: str, seed: int, make: Callable[[], Any]) -> None:
        """Row ``key`` of table ``name`` gets what ``make`` gives for this seed, unless it has it."""
        if len(self.row(name, key)) > seed:
            return
        made = make()
        printing.tell(f"{name}, {key}, seed {seed}: {made}", "dim")
        self.found.setdefault(name, {}).setdefault(key, []).append(made)
        self.found["machine"]["cpu_minutes"] = self.clock.minutes()
        files.write_json(self.path, self.found)


def identity(args: Any, *free: str) -> dict[str, Any]:
    """The settings that a run folder is begun with: all but places and those of ``free``, which may change."""
    places = ("run", "output", "data_root", "redraw")
    return {name: value for name, value in asdict(args).items() if name not in (*places, *free)}


def results(name: str, args: Any, clock: Clock, **found: Any) -> dict:
    """The results with all that they depend on."""
    quiet = ("output", "quiet", "redraw", "run", "data_root", "beside")
    settings = {k: v for k, v in asdict(args).items() if v and k not in quiet and not isinstance(v, Path)}
    machine = {**host(), "torch": torch.__version__, "cpu_minutes": clock.minutes()}
    return {"schema": 1, "experiment": name, "command": command(), "settings": settings, "machine": machine, **found}
