"""PLS–VIP and il-FS of features that memory has no room for: sums over batches, which come several times.

Each is fed all features in order, once for each of its passes, and ends with the scores that ``criteria`` compute
from all features at once. Memory holds features × classes, whatever the number of images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from search.criteria import Features, Labels, Scores, latent_relevance, relevance_sums

Matrix = NDArray[np.float64]


class Streamed(ABC):
    """A criterion in passes: ``add`` every batch, then ``end`` the pass, while it is ``unfinished``."""

    passes = 3
    ended = 0

    @property
    def unfinished(self) -> bool:
        """Whether all batches are to come again."""
        return self.ended < self.passes

    @abstractmethod
    def add(self, x: Features, y: Labels) -> None:
        """Take a batch: features [images, features] and labels [images]."""

    @abstractmethod
    def end(self) -> None:
        """All batches of a pass have come."""

    @abstractmethod
    def scores(self) -> Scores:
        """Of each feature, [features]."""


class PLS(Streamed):
    """``importance.pls_vip``: PLS by rotations, so that a component needs only products with the features themselves.

    The first pass gives Xᵀ Y of standardised X and Y. Component h has the weights w_h, the first left singular vector
    of the deflated Xᵀ Y; its scores are t_h = X r_h with r_h = w_h − Σ_j (p_jᵀ w_h) r_j, and a pass gives tᵀt and Xᵀt.

    Args:
        features: their number.
        classes: theirs.
    """

    def __init__(self, features: int, classes: int, components: int = 2):
        self.passes, self.n = 1 + min(components, features), 0
        self.sums, self.squares, self.by_class = np.zeros(features), np.zeros(features), np.zeros((features, classes))
        self.counts = np.zeros(classes)
        self.mean: Matrix = np.zeros(features)
        self.scale: Matrix = np.ones(features)
        self.covariance: Matrix = np.zeros((features, classes))  # Xᵀ Y, deflated
        self.tt, self.zt = 0.0, np.zeros(features)  # of the component of this pass
        self.weights: list[Matrix] = []
        self.loadings: list[Matrix] = []
        self.rotations: list[Matrix] = []
        self.explained: list[float] = []

    def add(self, x: Features, y: Labels) -> None:
        x = x.astype(np.float64)
        if self.ended:
            z = (x - self.mean) / self.scale
            t = z @ self.rotations[-1]
            self.tt += float(t @ t)
            self.zt += z.T @ t
            return
        onehot = np.eye(len(self.counts))[y]
        self.n += len(x)
        self.counts += onehot.sum(axis=0)
        self.sums += x.sum(axis=0)
        self.squares += (x**2).sum(axis=0)
        self.by_class += x.T @ onehot

    def end(self) -> None:
        if self.ended:
            p, w = self.zt / self.tt, self.weights[-1]
            q = self.covariance.T @ w / self.tt
            self.explained.append(self.tt * float(q @ q))
            self.loadings.append(p)
            self.covariance = self.covariance - np.outer(p, self.tt * q)
        else:
            self.mean = self.sums / self.n
            self.scale = _deviation(self.squares - self.n * self.mean**2, self.squares, self.n)
            share = self.counts / self.n
            spread = _deviation(self.counts * (1 - share), self.counts, self.n)
            self.covariance = (self.by_class - np.outer(self.sums, share)) / np.outer(self.scale, spread)
        self.ended += 1
        if self.unfinished:
            self._next_component()

    def _next_component(self) -> None:
        w = np.linalg.svd(self.covariance, full_matrices=False)[0][:, 0]
        r = w.copy()
        for p, before in zip(self.loadings, self.rotations, strict=True):
            r -= (p @ w) * before
        self.weights.append(w)
        self.rotations.append(r)
        self.tt, self.zt = 0.0, np.zeros(len(w))

    def scores(self) -> Scores:
        w, s = np.array(self.weights).T, np.array(self.explained)
        return np.sqrt(len(w) * w**2 @ s / s.sum())


def _deviation(squares: Matrix, scale: Matrix, n: int) -> Matrix:
    """Standard deviations by sums of squares around the mean; 1 for what is constant but for rounding."""
    return np.sqrt(np.where(squares > 1e-12 * scale, squares, n - 1) / (n - 1))


class ILFS(Streamed):
    """``importance.il_fs``: the classes' means, then the smallest and largest t of a feature, then its tokens."""

    def __init__(self, features: int, classes: int, tokens: int = 4):
        self.tokens = tokens
        self.sums, self.counts = np.zeros((classes, features)), np.zeros(classes)
        self.low, self.high = np.full(features, np.inf), np.full(features, -np.inf)
        self.histogram = np.zeros((tokens, features))

    def add(self, x: Features, y: Labels) -> None:
        x = x.astype(np.float64)
        if self.ended == 0:
            onehot = np.eye(len(self.counts))[y]
            self.counts += onehot.sum(axis=0)
            self.sums += onehot.T @ x
            return
        t = self._far(x, y)
        if self.ended == 1:
            self.low, self.high = np.minimum(self.low, t.min(axis=0)), np.maximum(self.high, t.max(axis=0))
            return
        token = np.clip(((t - self.low) / (self.high - self.low) * self.tokens).astype(int), 0, self.tokens - 1)
        for number in range(self.tokens):
            self.histogram[number] += (token == number).sum(axis=0)

    def _far(self, x: Features, y: Labels) -> Matrix:
        """t = (x − μ_y)² / Σ_c (x − μ_c)², [images, features]; 0 where all means are x."""
        own = (x - self.means[self.place[y]]) ** 2
        total = np.zeros_like(x)
        for mean in self.means:
            total += (x - mean) ** 2
        return own / np.where(total > 0, total, 1.0)

    def end(self) -> None:
        if self.ended == 0:
            there = self.counts > 0
            self.means = self.sums[there] / self.counts[there, None]
            self.place = np.cumsum(there) - 1
        elif self.ended == 1:
            same = self.low == self.high  # as numpy's histogram has it
            self.low, self.high = self.low - 0.5 * same, self.high + 0.5 * same
        self.ended += 1

    def scores(self) -> Scores:
        return relevance_sums(latent_relevance(self.histogram))


CRITERIA: dict[str, Callable[[int, int], Streamed]] = {"pls": PLS, "il-fs": ILFS}
