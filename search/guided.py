"""Search guided by a predictor: a model of what was scored proposes what is scored next. No torch.

Cai et al. (once-for-all, 2020, §4) and Lu et al. (NSGANetV2, 2020, §3.2). Only scored architectures are in the archive
and on the front.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from search import nsga2
from search.ces import CES, CESConfig
from search.costs import ENUMERABLE, TableCost, measure
from supernet.space import Arch, Space

FITTED = 1500  # architectures that the model is fitted on at most, the latest ones: its time grows with their cube


class Predictor:
    """A Gaussian process from an architecture's choices, one-hot, and its costs to its accuracy, with its deviation.

    Args:
        costs: of the architectures, ``[n, costs]``.
    """

    def __init__(self, space: Space, archs: Sequence[Arch], accuracies: Sequence[float], costs: np.ndarray):
        self.space = space
        self.middle, self.scale = costs.mean(0), costs.std(0) + 1e-12
        y = np.asarray(accuracies, float)
        self.mean, self.deviation = y.mean(), y.std() + 1e-12
        kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.1)
        self.model = GaussianProcessRegressor(kernel, alpha=1e-6, random_state=0)
        with warnings.catch_warnings():  # a parameter at its bound is fine
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self._features(archs, costs), (y - self.mean) / self.deviation)

    def __call__(self, archs: Sequence[Arch], costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicted accuracies and their deviations ``[n]``; ``costs`` is ``[n, costs]``."""
        mean, deviation = self.model.predict(self._features(archs, costs), return_std=True)
        return self.mean + self.deviation * mean, self.deviation * deviation

    def _features(self, archs: Sequence[Arch], costs: np.ndarray) -> np.ndarray:
        chosen = np.array(archs)
        columns = [chosen[:, gene] == choice for gene, open_ in enumerate(self.space.allowed) for choice in open_]
        return np.column_stack([*columns, (costs - self.middle) / self.scale]).astype(float)


@dataclass(frozen=True)
class GuidedConfig(CESConfig):
    """Settings of the search. After the first one, a generation scores a quarter as many architectures as CES does."""

    share: int = 4  # a generation after the first has population / share architectures
    rounds: int = 10  # generations of CES on the predicted accuracies
    optimism: float = 2.0  # deviations that are added to a predicted accuracy

    algorithm: ClassVar[str] = "guided CES"

    def size(self, generation: int) -> int:
        return max(1, self.population // self.share) if generation else self.population


class GuidedSearch(CES):
    """CES that scores only what a predictor takes for promising or is unsure of.

    The first generation is spread over the costs of the window. In each other one the model is fitted on everything
    scored. Of a window that can be listed all members are predicted, else those that some generations of CES on
    predictions come by. Taken is, one after the other, what would add most to the front's hypervolume if its accuracy
    were the predicted one plus its deviation; what is taken counts with its predicted accuracy from then on. Arguments
    and errors are those of ``Search``.
    """

    settings = GuidedConfig
    config: GuidedConfig

    def _first(self) -> list[Arch]:
        """From the cheap end of a large window to the dear one: a front does not grow beyond what it knows."""
        name = self.objectives[0]
        cost = self.costs[name]
        if self.space.size <= ENUMERABLE or not isinstance(cost, TableCost):
            return super()._first()
        return self.window.spread(self._rng, self.config.population, name, cost)

    def _breed(self, batch: dict[Arch, None]) -> None:
        records = list(self._archive.values())[-FITTED:]
        archs = [record.arch for record in records]
        costs = np.array([list(record.costs.values()) for record in records])
        model = Predictor(self.space, archs, [record.accuracy for record in records], costs)
        candidates = self._listed_candidates() or self._bred_candidates(model)
        if not candidates:
            return
        own = self._costs(candidates)
        mean, deviation = model(candidates, own)
        objectives = own[:, [list(self.costs).index(name) for name in self.objectives]]
        hopeful = np.column_stack([-(mean + self.config.optimism * deviation), objectives])
        expected = np.column_stack([-mean, objectives])
        values = self._values(self._archive)
        front, reference = _front(values), values.max(0)
        for _ in range(min(self.config.size(self.generation), len(candidates))):
            gains = added_volume(front, hopeful, reference)
            chosen = int(gains.argmax())
            if gains[chosen] <= 0:  # nothing is expected to be better: the one that is least known
                chosen = int(deviation.argmax())
            batch[candidates[chosen]] = None
            front = np.vstack([front, expected[chosen]])
            hopeful[chosen], deviation[chosen] = reference, -1

    def _costs(self, archs: Sequence[Arch]) -> np.ndarray:
        return np.array([[measure(name, cost, arch) for name, cost in self.costs.items()] for arch in archs])

    def _listed_candidates(self) -> list[Arch]:
        """Every member of the window that is not scored, if the space can be listed."""
        if self.space.size > ENUMERABLE:
            return []
        return self.window.sample(np.random.default_rng(0), ENUMERABLE, self._archive.keys(), 1)

    def _bred_candidates(self, model: Predictor) -> list[Arch]:
        """New members of the window that some generations of CES on the predicted accuracies come by."""
        budget = CESConfig(self.config.population, self.config.rounds, int(self._rng.integers(2**31)))
        inner = CES(self.space, self.costs, self.window.bounds, self.objectives, budget)
        inner._batch = list(dict.fromkeys([*self._population, *inner.ask()]))
        while not inner.done:
            archs = inner.ask()
            inner.tell(archs, model(archs, self._costs(archs))[0].tolist())
        return [record.arch for record in inner.records() if record.arch not in self._archive]


def added_volume(front: np.ndarray, points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """By how much each of ``points`` ``[n, m]`` would enlarge the hypervolume of ``front`` ``[k, m]``, ``[n]``.

    All objectives are minimised. Two take one sweep for all points.
    """
    if front.shape[1] > 2:
        volume = nsga2.hypervolume(front, reference)
        return np.array([nsga2.hypervolume(_front([*front, p]), reference) - volume for p in points])
    front = _front(front)
    front = front[np.argsort(front[:, 0])]
    edges = np.minimum([-np.inf, *front[:, 0], reference[0]], reference[0])
    heights = np.minimum([reference[1], *front[:, 1]], reference[1])  # what is dominated from each edge on
    widths = np.maximum(edges[1:] - np.maximum(edges[:-1], points[:, :1]), 0)
    return (widths * np.maximum(heights - points[:, 1:], 0)).sum(1)


def _front(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    values = np.array(values)
    return values[nsga2.fast_non_dominated_sort(values) == 1]
