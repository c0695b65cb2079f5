"""Architectures from small to large: what latencies are checked on."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from search.costs import AdditiveCost, Window
from supernet.families import layout
from supernet.space import Arch, Space


def spread(space: Space, n: int, seed: int, known: Collection[Arch] = ()) -> list[Arch]:
    """Up to ``n`` architectures that are not ``known``, a random one of each of ``n`` equal intervals of multiply-adds.

    A bound may lie anywhere between the smallest network and the largest. Fewer where the space has no more.
    """
    cost = AdditiveCost(*layout(space).priced(lambda spec: spec.flops))
    return Window(space, {}, {}).spread(np.random.default_rng(seed), n, "flops", cost, known)


def calibration_archs(space: Space, fit: int, check: int, seed: int) -> list[Arch]:
    """``fit`` architectures from the smallest to the largest to calibrate with, then ``check`` others."""
    archs = spread(space, fit + check, seed)
    first = {round(i) for i in np.linspace(0, len(archs) - 1, fit)}
    return [arch for part in (True, False) for i, arch in enumerate(archs) if (i in first) == part]
