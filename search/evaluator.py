"""Scores architectures with a supernet's weights: recalibrate BN, then validation accuracy (SPOS §3.4)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import local

import torch
from torch import Tensor

from supernet.model import Supernet
from supernet.progress import Bar
from supernet.space import Arch
from supernet.train import evaluate, recalibrate_bn


class Evaluator:
    """One-shot accuracy on a fixed validation split, each architecture once.

    On the CPU the architectures of a call are shared between ``workers`` threads of one core each, which beats
    one network on all cores at the sizes of a search; each thread has a copy of the supernet, whose BN
    statistics it overwrites. Scores do not depend on the number of workers.

    Args:
        recalibration: batches of training images, not augmented; the same for every architecture.
        validation: batches of images and labels; iterated once per architecture.
    """

    def __init__(
        self,
        supernet: Supernet,
        recalibration: Sequence[Tensor],
        validation: Sequence[tuple[Tensor, Tensor]],
        workers: int = 1,
    ):
        self.supernet, self.recalibration, self.validation = supernet, recalibration, validation
        self.workers = workers if next(supernet.parameters()).device.type == "cpu" else 1
        self.scores: dict[Arch, float] = {}
        self._thread = local()

    def __call__(self, archs: Sequence[Arch], bar: Bar | None = None) -> list[float]:
        """Accuracies in [0, 1], in the order of ``archs``."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.scores]
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(self.workers, initializer=self._start) as pool:
            for arch, score in zip(new, pool.map(self._score, new), strict=True):
                self.scores[arch] = score
                if bar is not None:
                    bar.advance(text=f"best {100 * max(self.scores.values()):.2f} %")
        torch.set_num_threads(threads)
        return [self.scores[arch] for arch in archs]

    def _start(self) -> None:
        self._thread.supernet = copy.deepcopy(self.supernet) if self.workers > 1 else self.supernet
        if self.workers > 1:
            torch.set_num_threads(1)

    def _score(self, arch: Arch) -> float:
        model = self._thread.supernet
        recalibrate_bn(model, self.recalibration, arch)
        return evaluate(model, self.validation, arch)
