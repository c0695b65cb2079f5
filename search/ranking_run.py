"""How well a run's supernet ranks architectures: a study with its files, which can be killed and continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from search import ranking
from search.alone import TRAINED, OnRun, StandAlone, halves
from search.evaluator import Evaluator, Mode
from search.ranking import Ranking
from search.run import Scoring
from supernet import families, files, metrics
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Executor, Processes, Threads
from supernet.methods import spos
from supernet.progress import Progress, silent
from supernet.quantities import several
from supernet.runs import RunFolder
from supernet.shape import COUNT
from supernet.space import Arch, Space


def choose(run: RunFolder, space: Space, pick: str, n: int, seed: int) -> list[Arch]:
    """Distinct architectures: at most ``n``, at least three.

    Args:
        pick: ``uniform``, random ones of the space; ``front``, evenly spaced ones of the run's front; or a .json file
            that lists them.

    Raises:
        UserError: another ``pick``, a file of something else, or fewer than three architectures.
    """
    if pick == "uniform":
        rng = np.random.default_rng([seed, 3])
        archs = list(dict.fromkeys(space.sample(rng) for _ in range(50 * n)))[:n]
    elif pick == "front":
        found = run.front(space)["front"]
        places = np.unique(np.linspace(0, len(found) - 1, min(n, len(found))).round().astype(int))
        archs = [space.check(found[i]["arch"]) for i in places]
    elif pick.endswith(".json"):
        advice = "write one: [[0, 1, …], …]"
        listed = files.read_json(Path(pick), "list of architectures", advice, expected=[[COUNT]])
        archs = list(dict.fromkeys(space.check(arch) for arch in listed))[:n]
    else:
        raise UserError(f"pick {pick}: expected uniform, front, or a .json file of architectures")
    if len(archs) < 3:
        raise UserError(f"pick {pick} gives {several(len(archs), 'architecture')}; a ranking needs three or more")
    return archs


@dataclass(frozen=True)
class Study:
    """One-shot accuracies on one half of the validation split, those of networks trained alone on the other.

    Args:
        train: trains one network and has the metric; ``train.folder`` gets the files of the study.
        bn: BN statistics of the one-shot accuracies. recalibration: batches and images per batch for it.
        seeds: of the trainings; with two or more the ceiling is stated.
        scorers, trainers: who scores and who trains.
    """

    run: RunFolder
    images: TrainVal
    train: OnRun
    device: torch.device
    bn: Sequence[Mode] = ("recalibrated",)
    recalibration: tuple[int, int] = (8, 128)
    seeds: Sequence[int] = (0,)
    scorers: Executor = Threads()
    trainers: Executor = Processes()
    progress: Progress = silent

    def __call__(self, archs: Sequence[Arch], pick: str) -> dict[str, Ranking]:
        """Measure both and compare: ``rank.json``, a picture for each of ``bn``; rankings by what they rank with.

        Args:
            pick: where the architectures come from, for the record.
        """
        run, space, folder, epochs = self.run, self.run.space(), self.train.folder, self.train.epochs
        supernet = run.supernet(space, self.device, self.train.kernels)
        recalibration = spos.recalibration_images(self.images, *self.recalibration)
        scoring, one_shot = halves(self.images.val)[0], {}
        metric = self.train.metric
        for mode in self.bn:
            batches = Scoring(mode, executor=self.scorers).batches(supernet, scoring)
            one_shot[mode] = Evaluator(supernet, recalibration, batches, self.scorers, mode, metric=metric)(archs)
        log = files.JsonLines(folder / "trained.jsonl", TRAINED)
        train, forget = self.train, self.train.forget
        name = metrics.key("val", metric)
        alone = StandAlone(log, train.budget, train, self.trainers, name, self.progress, forget)
        trained = alone(archs, self.seeds)
        truth, flops = trained.mean(axis=1), [families.flops(space, arch) for arch in archs]

        rows = {f"one-shot, BN {mode}": ranking.rank(scores, truth) for mode, scores in one_shot.items()}
        if len(set(flops)) > 1:
            rows["multiply-adds"] = dataclasses.replace(ranking.rank(flops, truth), gap=0.0)
        if len(self.seeds) > 1:
            ceiling = ranking.rank(trained[:, 0], trained[:, 1:].mean(axis=1))
            rows["ceiling: one training seed against the others"] = ceiling
        for mode, scores in one_shot.items():
            title = f"{space.name}, BN {mode}, {several(epochs, 'epoch')} alone"
            ranking.plot(folder / f"{mode}.png", scores, truth, rows[f"one-shot, BN {mode}"], title, metric)
        files.write_json(
            folder / "rank.json",
            {
                "schema": 1,
                "space": {"name": space.name, "fingerprint": space.fingerprint},
                "made_from": run.origin(),
                "pick": pick,
                "metric": metric,
                "budget": self.train.budget,
                "archs": [list(arch) for arch in archs],
                "flops": flops,
                "one_shot": one_shot,
                "trained_alone": trained.tolist(),
                "rankings": {name: dataclasses.asdict(row) for name, row in rows.items()},
            },
        )
        return rows
