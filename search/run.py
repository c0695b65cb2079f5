"""A search with its files, so that it can be killed and continued: state, log, and scores that outlive it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from search.ask_tell import Record, Search
from search.evaluator import LARGEST_BATCH, Evaluator, Mode, images_at_once
from supernet import families, files, machine
from supernet.data.images import Batches, ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods import spos
from supernet.model import Supernet
from supernet.progress import Progress, Track, silent
from supernet.runs import RunFolder
from supernet.space import Arch


@dataclass(frozen=True)
class Scoring:
    """How a supernet's architectures are scored."""

    bn: Mode = "recalibrated"
    recalibration: tuple[int, int] = (8, 128)  # batches, images per batch
    val_limit: int | None = None  # validation images, stratified
    seed: int = 0  # of the draw of these
    workers: int = 1
    memory: int | None = None  # bytes for images and activations; by default half of what is free

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"expected at least 1 worker to score with, got {self.workers}")

    def evaluator(self, supernet: Supernet, data: TrainVal) -> Evaluator:
        """Fixed recalibration images, one fixed validation split, streamed."""
        val = data.val if self.val_limit is None else data.val.subset(self.val_limit, seed=self.seed)
        return Evaluator(
            supernet,
            spos.recalibration_images(data, *self.recalibration),
            self.batches(supernet, val),
            self.workers,
            mode=self.bn,
        )

    def batches(self, supernet: Supernet, images: ImageSet) -> Batches:
        """The images in batches that there is memory for; of one size where the score depends on it."""
        if self.bn == "batch":
            return Batches(images, LARGEST_BATCH)
        device = next(supernet.parameters()).device
        on_gpu = device.type == "cuda"
        memory = self.memory or (torch.cuda.mem_get_info(device)[0] if on_gpu else machine.free_memory()) // 2
        return Batches(images, images_at_once(supernet.space, memory, 1 if on_gpu else self.workers))

    def identity(self, checkpoint: str, data: dict | None = None) -> dict:
        """All that a score depends on besides the architecture, in plain JSON.

        Args:
            checkpoint: ``RunFolder.identity``. data: ``TrainVal.identity``.
        """
        fields = {name: value for name, value in asdict(self).items() if name not in ("workers", "memory")}
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
        self.search, self.evaluator, self.scored_with = search, evaluator, scored_with
        self.log, self.cache = self.folder.population, self.folder.scores
        lines = self.cache.read()
        if lines and self._alike(lines[0]):
            evaluator.scores.update({tuple(line["arch"]): line["accuracy"] for line in lines[1:]})
        else:
            self.cache.keep(lambda line: False)
            self.cache.append(scored_with)
        self.note = self._resume()

    def _alike(self, scored_with: object) -> bool:
        """Whether scores were made as ours are. Version 0.1 did not record the images."""
        if not isinstance(scored_with, dict):
            return False
        return scored_with == {name: value for name, value in self.scored_with.items() if name in scored_with}

    def _resume(self) -> str:
        """Continue the search of the same settings and weights, if there is one; else say why not."""
        note, path = "", self.folder.search_path
        old = files.read_json(path, "search state") if path.exists() else None
        if isinstance(old, dict) and self._alike(old.get("scored_with")):
            try:
                self.search.load_state_dict(old["search"])
            except (UserError, KeyError) as error:
                note = f"a new search ({error}); {len(self.evaluator.scores)} earlier scores are reused"
        self.log.keep(lambda line: line["generation"] < self.search.generation)
        return note

    def run(self, random: Sequence[Arch] = (), progress: Progress = silent) -> None:
        """Search to the end, then score the architectures ``random``."""
        search = self.search
        total = search.config.population * search.config.iterations + len(random)
        done = len(search.records())
        with progress(search.config.algorithm, total, done=done, unit="evaluations") as bar:
            while not search.done:
                archs = search.ask()
                generation = search.generation
                search.tell(archs, self.score(archs, bar))
                for arch in archs:
                    record = self.record(arch)
                    told = {"arch": record.arch, "accuracy": record.accuracy, "costs": record.costs}
                    self.log.append({**told, "generation": generation})
                files.write_json(
                    self.folder.search_path, {"scored_with": self.scored_with, "search": search.state_dict()}
                )
                bar.advance(0, text=_state(search.history[-1]))
            self.score(random, bar)

    def score(self, archs: Sequence[Arch], bar: Track) -> list[float]:
        """Accuracies; new ones go to the cache."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.evaluator.scores]
        bar.advance(len(archs) - len(new), work=0)
        accuracies = self.evaluator(archs, bar)
        for arch in new:
            self.cache.append({"arch": list(arch), "accuracy": self.evaluator.scores[arch]})
        return accuracies

    def record(self, arch: Arch) -> Record:
        """A scored architecture with its costs."""
        costs = {name: float(cost(arch)) for name, cost in self.search.costs.items()}
        return Record(arch, self.evaluator.scores[arch], costs, 0, 0)

    def front(self) -> list[Record]:
        """The Pareto front, each network once: an identity before a pooling makes the same one as after it."""
        networks = {tuple(families.lower(self.search.space, r.arch)): r for r in reversed(self.search.front())}
        return list(reversed(networks.values()))

    def write_front(self, front: Sequence[Record], random: Sequence[Record], best: int, knee: int, **more: Any) -> None:
        """``front.json``: one-shot accuracies and costs, latencies in ms.

        Args:
            front: of ``front()``. random: architectures of the same window, to compare with.
            best, knee: positions in the front.
            more: further plain values, e.g. the device.
        """
        search = self.search
        found = {"algorithm": search.config.algorithm, "objectives": list(search.objectives), **more}
        self.folder.write_front(
            search.space,
            [entry(record) for record in front],
            [entry(record) for record in random],
            search.window.bounds,
            best=best,
            knee=knee,
            evaluated=len(search.records()),
            **found,
        )


def entry(record: Record) -> dict:
    """A record as files have it: costs by name, latencies with their unit."""
    costs = {f"{name}_ms" if name.startswith("latency") else name: cost for name, cost in record.costs.items()}
    return {"arch": list(record.arch), "one_shot_accuracy": record.accuracy, **costs}


def _state(last: dict) -> str:
    """A generation in the progress bar."""
    best, front = f"best {100 * last['best_accuracy']:.2f} %", f"front {last['front']}"
    return f"generation {last['generation'] + 1}: {best}, {front}, hypervolume {last['hypervolume']:.4g}"
