"""The first steps of a job, in a copy of its run folder, to measure what all of it will take."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from supernet import lock
from supernet.data import excerpt
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.progress import Progress, Track, silent
from supernet.runs import RunFolder
from supernet.training import distributed
from supernet.training.loop import Drive, Training, Validate
from supernet.training.plan import Part, Work

WARMUP, STEPS = 5, 20  # steps of a training that are not measured, then those that are
LINKED = (".pt", ".npy")  # large files, which are always replaced and never written to


class Shadow(RunFolder):
    """A copy of a run folder, to be spoiled. Of the validation images it opens an excerpt.

    Args:
        aside: a folder for what the run would not have.
    """

    def __init__(self, path: Path, aside: Path, **options: Any):
        super().__init__(path, **options)
        self.aside = aside

    def within(self, name: str) -> Shadow:
        """A run folder in this one."""
        return Shadow(self.path / name, self.aside / name, **self.options)

    def decoded(self, images: TrainVal, progress: Progress = silent) -> TrainVal:
        """The images with an excerpt of those for validation."""
        with distributed.leader_first():
            return dataclasses.replace(images, val=excerpt.of(images.val, self.path, self.aside / "validation"))

    @property
    def bytes(self) -> int:
        """Of all files."""
        return folder_size(self.path)


@contextlib.contextmanager
def shadow(run: RunFolder, restart: bool = False) -> Iterator[Shadow]:
    """A copy of a run, of an empty folder if there is none or it would be deleted; removed at the end.

    Raises:
        UserError: as what runs inside; it names the run, not the copy.
    """
    leader = distributed.rank() == 0
    with tempfile.TemporaryDirectory(prefix="supernet-plan-") if leader else contextlib.nullcontext("") as own:
        place = Path(distributed.gathered(own)[0])
        path = place / "run"
        if leader:
            if run.path.is_dir() and not restart:
                shutil.copytree(run.path, path, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(lock.NAME))
            else:
                path.mkdir()
        distributed.wait()
        try:
            yield Shadow(path, place / "aside", **run.options)
        except UserError as error:
            raise type(error)(str(error).replace(str(path), str(run.path)), error.missing) from error
        distributed.wait()  # the others read what is removed now


def _link_or_copy(source: str, to: str) -> None:
    if source.endswith(LINKED):
        Path(to).symlink_to(Path(source).resolve())
    else:
        shutil.copy2(source, to)


def folder_size(path: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def largest_checkpoint(path: Path) -> int:
    """Bytes of the largest file of weights in a folder; 0 where there is none."""
    return max((file.stat().st_size for file in path.rglob("*.pt")), default=0)


class Rehearsal:
    """Measures the parts of a job: ``training`` is for a ``fit``, ``add`` for anything else.

    Args:
        device: where the work is done.
        clock: seconds.
    """

    def __init__(self, images: TrainVal, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self.device, self.clock = device, clock
        self.images, self.parts, self.file_bytes = images, list[Part](), 0
        if isinstance(images.val, excerpt.Excerpt) and images.val.decoding is not None:
            self.file_bytes = images.val.file_bytes
            self.add("decoding", images.val.whole, "images", images.val.decoding)

    def add(self, name: str, count: int, unit: str, each: float) -> None:
        """A part; one of none is left out."""
        if count:
            self.parts.append(Part(name, count, unit, each))

    def seconds(self, work: Callable[[], object], passes_at_once: int = 1) -> float:
        """What some work takes, and would take on the images that the excerpts leave out.

        Args:
            passes_at_once: over the images.
        """
        left_out = self.images.val.left_out if isinstance(self.images.val, excerpt.Excerpt) else []
        before, began = len(left_out), self._now()
        work()
        return self._now() - began + sum(left_out[before:]) / passes_at_once

    def training(self, name: str = "training") -> Drive:
        """Takes some steps, saves and validates, and leaves the training as if it had come to its end."""
        return functools.partial(self._train, name)

    def _train(self, name: str, training: Training, validate: Validate, bar: Track) -> None:
        left, epochs = training.end - training.step, int(training.log.pending is not None)
        if left:
            warm = min(WARMUP, left - 1)
            count = min(STEPS, left - warm)
            steps = itertools.chain.from_iterable(iter(lambda: training.single_steps(), None))
            _exhaust(itertools.islice(steps, warm))
            self.add(name, left, "steps", self.seconds(lambda: _exhaust(itertools.islice(steps, count))) / count)
            ends = training.end // training.per_epoch
            epochs += ends - (training.end - left) // training.per_epoch
            loss = torch.stack([loss for loss, _ in training.losses]).mean().item()
            training.step = training.end
            training.log.trained({"epoch": ends, "loss": loss}, {})
            training.save()  # twice, as the one before is kept
            self.add("saving", epochs, "checkpoints", self.seconds(training.save))
        seconds = self.seconds(lambda: training.validate(validate))
        if validate is not dict:
            self.add("validation", epochs, "times", seconds)

    def work(self) -> Work:
        """All parts, and the memory that this process took until now."""
        cuda = self.device.type == "cuda"
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Work(tuple(self.parts), resident, torch.cuda.max_memory_allocated(self.device) if cuda else 0)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


def _exhaust(steps: Iterator[None]) -> None:
    collections.deque(steps, maxlen=0)
