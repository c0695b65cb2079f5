"""A search with its files, so that it can be killed and continued: state, log, and scores that outlive it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from search import front as fronts
from search.ask_tell import Record, Search
from search.evaluator import LARGEST_BATCH, Evaluator, Mode, images_at_once
from search.scores import Scores
from supernet import families, files, machine
from supernet.data.images import Batches, ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Executor, Threads
from supernet.methods import spos
from supernet.metrics import TOP1, Metric
from supernet.model import Supernet
from supernet.progress import Progress, silent
from supernet.quantities import digits, several
from supernet.runs import RunFolder
from supernet.shape import Number
from supernet.space import Arch

STATE = {"scored_with": dict, "search": dict}
CLOCK = {"seconds": Number(0)}


@dataclass(frozen=True)
class Scoring:
    """How a supernet's architectures are scored."""

    bn: Mode = "recalibrated"
    recalibration: tuple[int, int] = (8, 128)  # batches, images per batch
    val_limit: int | None = None  # validation images, stratified
    seed: int = 0  # of the draw of these
    executor: Executor = Threads()
    memory: int | None = None  # bytes for images and activations; by default half of what is free
    metric: Metric = TOP1  # what an accuracy is
    int8: bool = False  # by fake quantisation

    def evaluator(self, supernet: Supernet, data: TrainVal) -> Evaluator:
        """Fixed recalibration images, one fixed validation split, streamed."""
        val = data.val if self.val_limit is None else data.val.subset(self.val_limit, seed=self.seed)
        return Evaluator(
            supernet,
            spos.recalibration_images(data, *self.recalibration),
            self.batches(supernet, val),
            self.executor,
            mode=self.bn,
            metric=self.metric,
            int8=self.int8,
        )

    def batches(self, supernet: Supernet, images: ImageSet) -> Batches:
        """The images in batches that there is memory for; of one size where the score depends on it."""
        if self.bn == "batch" or self.int8:
            return Batches(images, LARGEST_BATCH)
        device = next(supernet.parameters()).device
        on_gpu = device.type == "cuda"
        memory = self.memory or (torch.cuda.mem_get_info(device)[0] if on_gpu else machine.free_memory()) // 2
        return Batches(images, images_at_once(supernet.space, memory, 1 if on_gpu else self.executor.at_once))

    def identity(self, checkpoint: str, data: dict | None = None) -> dict:
        """All that a score depends on besides the architecture, in plain JSON.

        Args:
            checkpoint: ``RunFolder.identity``. data: ``TrainVal.identity``.
        """
        fields = {name: getattr(self, name) for name in ("bn", "val_limit", "seed", "metric")}
        if self.int8:
            fields["bn"] += ", int8"  # in a field that there always was: older scores are of floats
        images = {} if data is None else {"data": data}
        return {"checkpoint": checkpoint, **fields, "recalibration": list(self.recalibration), **images}


class SearchRun:
    """A search in a run folder: its state, all that it was told, and scores.

    Scores outlive a search: another bound, algorithm or seed on the same supernet does not score an architecture again.

    Args:
        scored_with: plain values that a score depends on: the weights, the images, the BN mode. Files of
            other values are started again.
    """

    def __init__(self, folder: Path, search: Search, evaluator: Evaluator, scored_with: dict):
        self.folder = RunFolder(folder)
        self.search, self.evaluator = search, evaluator
        self.log = self.folder.population
        self.score = Scores(evaluator, self.folder.scores, scored_with, search.space)
        self.seconds = 0.0  # of all generations, by the clock
        self.note = self._resume()

    def _resume(self) -> str:
        """Continue the search of the same settings and weights, if there is one; else say why not."""
        note, path = "", self.folder.search_path
        old = files.read_json(path, "search state", expected=STATE) if path.exists() else None
        if old is not None and self.score.alike(old.get("scored_with")):
            try:
                self.search.load_state_dict(old["search"])
                if (clock := self.folder.clock_path).exists():
                    self.seconds = files.read_json(clock, "clock", "delete it", expected=CLOCK)["seconds"]
            except (UserError, KeyError) as error:
                reason, known = str(error).split(";")[0], len(self.score.known)
                note = f"a new search, as {reason}; {known} earlier scores are reused"
        self.log.keep(lambda line: line["generation"] < self.search.generation)
        return note

    def run(self, random: Sequence[Arch] = (), progress: Progress = silent) -> None:
        """Search to the end, then score the architectures ``random``."""
        search = self.search
        total = search.config.evaluations + len(random)
        done = len(search.records())
        with progress(search.config.algorithm, total, done=done, unit="evaluations") as bar:
            while not search.done:
                began = time.monotonic()
                archs = search.ask()
                generation = search.generation
                search.tell(archs, self.score(archs, bar))
                records = map(self.record, archs)
                told = ({"arch": r.arch, "accuracy": r.accuracy, "costs": r.costs} for r in records)
                self.log.append(*({**line, "generation": generation} for line in told))
                state = {"scored_with": self.score.scored_with, "search": search.state_dict()}
                self.seconds += time.monotonic() - began
                files.write_json(self.folder.clock_path, {"seconds": self.seconds})
                files.write_json(self.folder.search_path, state)
                bar.advance(0, text=self._state())
            self.score(random, bar)

    def record(self, arch: Arch) -> Record:
        """A scored architecture with its costs."""
        costs = {name: float(cost(arch)) for name, cost in self.search.costs.items()}
        return Record(arch, self.score.known[arch], costs, 0, 0)

    def front(self) -> list[Record]:
        """The Pareto front, each network once: an identity before a pooling makes the same one as after it."""
        networks = {tuple(families.lower(self.search.space, r.arch)): r for r in reversed(self.search.front())}
        return list(reversed(networks.values()))

    def _state(self) -> str:
        """The last generation in the progress bar; its front is the one that is written, each network once."""
        last = self.search.history[-1]
        best, front = f"best {100 * last['best_accuracy']:.2f} %", f"front {len(self.front())}"
        return f"generation {last['generation'] + 1}: {best}, {front}, hypervolume {digits(last['hypervolume'], 4)}"

    def winners(self) -> dict[str, Arch]:
        """The most accurate architecture of the front, ``best``, and ``knee`` where that is another one."""
        front = self.front()
        best, knee = fronts.best(front), fronts.knee(front, self.search.objectives[0])
        return {"best": front[best].arch} | ({"knee": front[knee].arch} if knee != best else {})

    def write(
        self, random: Sequence[Record], tables: Mapping[str, Mapping[str, Any]]
    ) -> tuple[list[Record], int, int, dict]:
        """``front.json`` and ``front.png``: one-shot accuracies and costs, latencies in ms.

        Args:
            random: architectures of the same window, to compare with.
            tables: which table gives a latency, by the name of the cost: table, device and runtime, in plain JSON.

        Returns:
            The front, the positions of its most accurate architecture and of its knee, and what the file has of the
            former.
        """
        search, front, first = self.search, self.front(), self.search.objectives[0]
        best, knee = fronts.best(front), fronts.knee(front, first)
        found: dict[str, Any] = {"algorithm": search.config.algorithm, "objectives": list(search.objectives)}
        found |= {"metric": self.evaluator.metric}
        entries = [entry(record) for record in front]
        entries[best] |= self.evaluator.doubt(front[best].arch)
        names = ("table", "device", "runtime")
        kept = (*names, "predicted_layers")  # the last only of tables that were not measured whole
        devices = [{"cost": cost, **{name: of[name] for name in kept if name in of}} for cost, of in tables.items()]
        found |= {name: devices[0][name] for name in names[1:]} if devices else {}
        self.folder.write_front(
            search.space,
            entries,
            [entry(record) for record in random],
            search.window.bounds,
            best=best,
            knee=knee,
            evaluated=len(search.records()),
            devices=devices,
            **found,
        )
        title = (
            f"{search.space.name}: {search.config.algorithm}, {several(len(search.records()), 'architecture')} scored"
        )
        bound = search.window.bounds.get(first, (0.0, math.inf))
        path = self.folder.front_picture
        fronts.plot(path, search.records(), front, random, bound, title, search.objectives, self.evaluator.metric)
        return front, best, knee, entries[best]


def entry(record: Record) -> dict:
    """A record as files have it: costs by name, latencies with their unit."""
    costs = {f"{name}_ms" if name.startswith("latency") else name: cost for name, cost in record.costs.items()}
    return {"arch": list(record.arch), "one_shot_accuracy": record.accuracy, **costs}
