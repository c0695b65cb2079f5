"""What architectures reach when each is trained alone: the truth that one-shot accuracies are compared with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supernet import executor as executors
from supernet import metrics
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.executor import Executor, Processes
from supernet.files import JsonLines
from supernet.metrics import METRICS, TOP1, Metric
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.runs import RunFolder
from supernet.shape import COUNT, SHARE
from supernet.space import Arch
from supernet.training import defaults, standalone
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig
from supernet.training.measured import Kernels

TRAINED = {"budget": dict, "arch": [COUNT], "seed": COUNT, "accuracy?": SHARE}  # a line of a log
TRAINED |= {f"{metrics.key('val', metric)}?": SHARE for metric in METRICS}
Train = Callable[[Arch, int], float]  # architecture, seed -> accuracy; picklable, as other processes may run it


@dataclass(frozen=True)
class StandAlone:
    """Accuracies of networks trained alone, each architecture, budget and seed once: the lines of a log.

    Args:
        budget: all that shapes an accuracy besides architecture and seed, in plain JSON.
        name: of the accuracy in the log.
        forget: called once an accuracy is in the log, with what was trained: removes its files.
        executor: who trains.
    """

    log: JsonLines
    budget: Mapping[str, Any]
    train: Train
    executor: Executor = Processes()
    name: str = "accuracy"
    progress: Progress = silent
    forget: Callable[[Arch, int], None] = lambda arch, seed: None

    def known(self) -> dict[tuple[Arch, int], float]:
        """Those of this budget, by architecture and seed."""
        budget = json.loads(json.dumps(self.budget))
        lines = [line for line in self.log.read() if line["budget"] == budget and self.name in line]
        return {(tuple(line["arch"]), line["seed"]): line[self.name] for line in lines}

    def __call__(self, archs: Sequence[Arch], seeds: Sequence[int], label: str = "trained alone") -> np.ndarray:
        """Accuracies [architectures, seeds]; all of one seed are trained before those of the next."""
        known = self.pairs([(arch, seed) for seed in seeds for arch in archs], label)
        return np.array([[known[arch, seed] for seed in seeds] for arch in archs])

    def pairs(self, wanted: Sequence[tuple[Arch, int]], label: str = "trained alone") -> dict[tuple[Arch, int], float]:
        """Accuracies by architecture and seed: these, and all others that are known."""
        known, wanted = self.known(), list(dict.fromkeys(wanted))
        left = {f"{arch} {seed}": (arch, seed) for arch, seed in wanted if (arch, seed) not in known}
        done = len(wanted) - len(left)

        def keep(name: str, accuracy: float) -> None:
            arch, seed = left[name]
            self.log.append({"budget": dict(self.budget), "arch": list(arch), "seed": seed, self.name: accuracy})
            known[arch, seed] = accuracy
            self.forget(arch, seed)

        for pair in known.keys() & set(wanted):  # a kill may have left the last one's
            self.forget(*pair)
        if left:
            bar = self.progress(label, len(wanted), done=done, unit="networks")
            executors.run(self.executor, self.train, left, bar, finished=keep)
        return known


@dataclass(frozen=True)
class OnRun:
    """Trains an architecture of a run's space alone; judges it on the second half of the validation split.

    Args:
        epochs, batch_size, lr, limit: as ``FitConfig`` and ``RunFolder.images`` have them.
        metric: what an accuracy is.
    """

    run: RunFolder
    folder: Path  # for what is under way
    epochs: int
    batch_size: int
    lr: float | None
    limit: int | None
    device: str
    kernels: Kernels
    data_root: Path | None = None
    workers: int = 0  # processes that decode images, of each training
    metric: Metric = TOP1

    @property
    def budget(self) -> dict[str, Any]:
        """What shapes an accuracy besides the architecture and the seed."""
        return {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "limit")}

    def __call__(self, arch: Arch, seed: int) -> float:
        defaults.keep_memory()
        device = torch.device(self.device)
        if device.type == "cpu":
            torch.set_num_threads(1)
        space, images = self.run.space(), self.run.images(self.data_root, self.limit, self.workers)
        cfg = FitConfig(
            self.epochs,
            self.batch_size,
            defaults.learning_rate(self.batch_size, self.lr),
            schedule="cosine",
            seed=seed,
            augment=defaults.augments(None, self.epochs),
        )
        network, _ = standalone.train(
            space, arch, images, cfg, self.under_way(arch, seed), device, kernels=self.kernels
        )
        return judge(network, images, self.metric)

    def under_way(self, arch: Arch, seed: int) -> Path:
        """Where a network is trained."""
        key = hashlib.sha256(json.dumps([list(arch), seed, self.budget]).encode()).hexdigest()[:16]
        return self.folder / key

    def forget(self, arch: Arch, seed: int) -> None:
        """Remove the files of a training."""
        shutil.rmtree(self.under_way(arch, seed), ignore_errors=True)


def halves(val: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Two disjoint halves of the validation split: for one-shot accuracies, and for networks trained alone."""
    first = val.subset(len(val) // 2, seed=0)
    return first, val.without(first)


def judge(network: Network, images: TrainVal, metric: Metric = TOP1) -> float:
    """Accuracy on the half of the validation split that no one-shot accuracy is measured on."""
    _, judging = halves(images.val)
    return evaluate(network, judging.plain_batches(512), metric=metric)
