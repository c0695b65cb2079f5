"""A sequential test of paired differences: whether a gain exceeds a margin, or noise could have made it. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr


def exceeds(gains: Sequence[float], margin: float, level: float, most: int) -> bool | None:
    """Whether the mean gain lies above ``margin`` (True) or below it (False); None: not told apart yet.

    One-sided t-tests after every pair from the second one on. Each is at ``level`` divided by their number, so that all
    of them together find a gain that is none, or miss one that is there, in a share of at most ``level`` each
    (Bonferroni). Gains that are all the same are told apart at once.

    Args:
        gains: one for each pair so far.
        most: pairs at the end, at least 2.

    >>> exceeds([0.9, 1.1], 0.0, 0.1, 2)
    True
    >>> exceeds([0.9, -0.8], 0.0, 0.1, 2) is None
    True
    """
    n = len(gains)
    if n < 2:
        return None
    away, error = float(np.mean(gains)) - margin, float(np.std(gains, ddof=1)) / math.sqrt(n)
    if error == 0:
        return away > 0
    p = stdtr(n - 1, -abs(away) / error)  # of a mean at least as far on this side, were the margin the truth
    return away > 0 if p <= level / (most - 1) else None
