"""A search with its files, so that it can be killed and continued: state, log, and scores that outlive it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from search.ask_tell import Record, Search
from search.evaluator import Evaluator, Mode
from supernet import files
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods import spos
from supernet.model import Supernet
from supernet.progress import Progress, Track, silent
from supernet.space import Arch


@dataclass(frozen=True)
class Scoring:
    """How a supernet's architectures are scored."""

    bn: Mode = "recalibrated"
    recalibration: tuple[int, int] = (8, 128)  # batches, images per batch
    val_limit: int | None = None  # validation images, stratified
    seed: int = 0  # of the draw of these
    workers: int = 1

    def evaluator(self, supernet: Supernet, data: TrainVal) -> Evaluator:
        """Fixed recalibration images, one fixed validation split in memory."""
        val = data.val if self.val_limit is None else data.val.subset(self.val_limit, seed=self.seed)
        return Evaluator(
            supernet,
            spos.recalibration_images(data, *self.recalibration),
            list(val.batches(512, seed=0, epoch=0, augment=False, drop_last=False)),
            self.workers,
            mode=self.bn,
        )

    def identity(self, checkpoint: Path) -> dict:
        """All that a score depends on besides the architecture, in plain JSON."""
        weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
        fields = {name: value for name, value in asdict(self).items() if name != "workers"}
        return {"checkpoint": weights, **fields, "recalibration": list(self.recalibration)}


class SearchRun:
    """``search`` in ``folder``: ``search.json`` (state), ``population.jsonl`` (all that was told), ``scores.jsonl``.

    Scores outlive a search: another bound, algorithm or seed on the same supernet does not score an
    architecture again.

    Args:
        scored_with: plain values that a score depends on: the weights, the images, the BN mode. Files of
            other values are started again.
    """

    def __init__(self, folder: Path, search: Search, evaluator: Evaluator, scored_with: dict):
        self.search, self.evaluator, self.scored_with = search, evaluator, scored_with
        self.state = folder / "search.json"
        self.log = files.JsonLines(folder / "population.jsonl")
        self.cache = files.JsonLines(folder / "scores.jsonl")
        lines = self.cache.read()
        if lines and lines[0] == scored_with:
            evaluator.scores.update({tuple(line["arch"]): line["accuracy"] for line in lines[1:]})
        self.cache.keep(lambda line: line == scored_with or (evaluator.scores and "arch" in line))
        if not self.cache.read():
            self.cache.append(scored_with)
        self.note = self._resume()

    def _resume(self) -> str:
        """Continue the search of the same settings and weights, if there is one; else say why not."""
        note = ""
        old = files.read_json(self.state, "search state", "run it again") if self.state.exists() else None
        if isinstance(old, dict) and old.get("scored_with") == self.scored_with:
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
                files.write_json(self.state, {"scored_with": self.scored_with, "search": search.state_dict()})
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


def _state(last: dict) -> str:
    """A generation in the progress bar."""
    best, front = f"best {100 * last['best_accuracy']:.2f} %", f"front {last['front']}"
    return f"generation {last['generation'] + 1}: {best}, {front}, hypervolume {last['hypervolume']:.4g}"


def write_front(path: Path, search: Search, random: Sequence[Record], best: int, knee: int, more: dict) -> None:
    """The front as JSON: architectures with their names, one-shot accuracies and costs (latencies in ms).

    Args:
        random: architectures of the same window, to compare with.
        best, knee: positions in the front.
        more: further plain values, e.g. the device.
    """
    space = search.space

    def entry(record: Record) -> dict:
        costs = {f"{name}_ms" if name.startswith("latency") else name: cost for name, cost in record.costs.items()}
        named = {"arch": list(record.arch), "layers": space.describe(record.arch)}
        return {**named, "one_shot_accuracy": record.accuracy, **costs}

    finite = {name: [x if math.isfinite(x) else None for x in ends] for name, ends in search.window.bounds.items()}
    files.write_json(
        path,
        {
            "schema": 1,
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "algorithm": search.config.algorithm,
            "objectives": list(search.objectives),
            "bounds": finite,
            **more,
            "evaluated": len(search.records()),
            "best": best,
            "knee": knee,
            "front": [entry(record) for record in search.front()],
            "random": [entry(record) for record in random],
        },
    )
