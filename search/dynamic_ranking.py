"""Whether training larger networks longer ranks networks better than training all equally long (§3.2). No torch.

Static: every network is trained for the same epochs. Dynamic: the more parameters, the more epochs. Part of what
dynamic training gains is built in, as larger networks are better and train longer. So there are two controls: the same
budgets in random order, and ranking by parameters alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.ranking import Interval, paired_difference, spearman
from supernet.errors import UserError


@dataclass(frozen=True)
class Study:
    """Spearman's ρ between each way to rank n networks and their final accuracies; None if one is constant."""

    n: int
    static: dict[int, float | None]  # by the epochs of every network
    dynamic: float | None
    dynamic_epochs: float  # mean per network
    gain: float | None  # of dynamic over static training of as many epochs in total, or of the next more
    gain_interval: Interval | None  # 95 %, a bootstrap over the networks
    permuted: float | None  # mean over permutations of the dynamic budgets
    permuted_interval: Interval | None  # 95 % of the permutations
    params: float | None
    ceiling: float | None  # a second full training, compared with the first


def schedule(params: Sequence[float], budgets: int) -> np.ndarray:
    """The index of each network's budget, 0 to ``budgets - 1``: ascending in parameters, each equally often."""
    ranks = np.argsort(np.argsort(params, kind="stable"), kind="stable")
    return ranks * budgets // len(ranks)


def study(
    params: Sequence[float],
    budgets: Sequence[int],
    accuracies: Sequence[Sequence[float]],
    final: Sequence[float],
    again: Sequence[float] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Study:
    """Judge the rankings.

    Args:
        params: parameters of n networks.
        budgets: epochs, ascending.
        accuracies: [n, budgets], each from a separate training whose learning rate ends at 0.
        final: [n], from a full training with another seed than those of ``accuracies``.
        again: [n], from another full training, for the seed-to-seed ceiling.
        draws: permutations of the control, and resamples of the bootstrap.

    Raises:
        UserError: fewer than three networks, or shapes that do not match.
    """
    grid, truth = np.asarray(accuracies, float), np.asarray(final, float)
    n = len(params)
    if n < 3 or grid.shape != (n, len(budgets)) or truth.shape != (n,):
        raise UserError(
            f"expected three networks or more, as many final accuracies and a row of {len(budgets)} accuracies for "
            f"each, got {n} networks, {truth.shape} and {grid.shape}"
        )
    chosen, rows = schedule(params, len(budgets)), np.arange(n)
    rng = np.random.default_rng(seed)
    control = np.array([spearman(grid[rows, rng.permutation(chosen)], truth) for _ in range(draws)])
    control = control[np.isfinite(control)]
    dynamic, mean = grid[rows, chosen], float(np.mean(np.asarray(budgets)[chosen]))
    static = grid[:, int(np.searchsorted(budgets, mean - 1e-9))]  # never fewer: ρ may rise fast with the epochs
    gain, gain_interval = paired_difference(static, dynamic, truth, draws=draws, statistic=spearman)
    return Study(
        n=n,
        static={budget: _rho(grid[:, i], truth) for i, budget in enumerate(budgets)},
        dynamic=_rho(dynamic, truth),
        dynamic_epochs=mean,
        gain=gain,
        gain_interval=gain_interval,
        permuted=float(control.mean()) if len(control) else None,
        permuted_interval=_interval(control),
        params=_rho(np.asarray(params, float), truth),
        ceiling=None if again is None else _rho(np.asarray(again, float), truth),
    )


def _interval(values: np.ndarray) -> Interval | None:
    if not len(values):
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _rho(a: np.ndarray, b: np.ndarray) -> float | None:
    rho = spearman(a, b)
    return None if np.isnan(rho) else rho
