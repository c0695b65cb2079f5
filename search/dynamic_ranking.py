"""Whether training larger networks longer ranks networks better than training all alike (§3.2). No torch.

Static: every network is trained for the same epochs. Dynamic: the more parameters, the more epochs. Part of what
dynamic training gains is built in, as larger networks are better and train longer: the control hands the same budgets
out in random order, and parameters alone are judged too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.ranking import paired_difference, spearman
from supernet.errors import UserError


@dataclass(frozen=True)
class Study:
    """Spearman's ρ of each way to rank n networks with their final accuracies; None where a side is constant."""

    n: int
    static: dict[int, float | None]  # by the epochs that every network is trained for
    dynamic: float | None
    dynamic_epochs: float  # mean per network
    gain: float | None  # of dynamic over static training of about the same epochs in all
    gain_interval: tuple[float, float] | None  # 95 %, a bootstrap over the networks
    permuted: float | None  # mean over permutations of the dynamic budgets
    permuted_interval: tuple[float, float] | None  # 95 % of the permutations
    params: float | None
    ceiling: float | None  # a second full training against the first


def schedule(params: Sequence[float], budgets: int) -> np.ndarray:
    """The number of its budget, 0 to ``budgets - 1``, for every network: ascending in parameters, equally often."""
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
        params: of n networks.
        budgets: epochs, ascending.
        accuracies: [n, budgets], each of a training of its own with a learning rate that ends at 0.
        final: [n], of a full training with another seed than those of ``accuracies``.
        again: [n], of another full training, for the seed-to-seed ceiling.

    Raises:
        UserError: fewer than three networks, or shapes that do not fit.
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
    static = grid[:, int(np.argmin(np.abs(np.asarray(budgets) - mean)))]
    gain, gain_interval = paired_difference(static, dynamic, truth, draws=draws, statistic=spearman)
    return Study(
        n=n,
        static={budget: _rho(grid[:, i], truth) for i, budget in enumerate(budgets)},
        dynamic=_rho(dynamic, truth),
        dynamic_epochs=mean,
        gain=gain,
        gain_interval=gain_interval,
        permuted=float(control.mean()) if len(control) else None,
        permuted_interval=tuple(map(float, np.quantile(control, [0.025, 0.975]))) if len(control) else None,
        params=_rho(np.asarray(params, float), truth),
        ceiling=None if again is None else _rho(np.asarray(again, float), truth),
    )


def _rho(a: np.ndarray, b: np.ndarray) -> float | None:
    rho = spearman(a, b)
    return None if np.isnan(rho) else rho
