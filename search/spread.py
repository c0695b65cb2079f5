"""Architectures from small to large: what latencies are checked on."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import numpy as np

from search.costs import AdditiveCost, Window
from supernet.families import layout
from supernet.space import Arch, Space


def spread(space: Space, n: int, seed: int, known: Collection[Arch] = ()) -> list[Arch]:
    """Up to ``n`` architectures that are not ``known``, a random one of each of ``n`` equal intervals of multiply-adds.

    A bound may lie anywhere between the smallest network and the largest; uniform draws gather in the middle. Where an
    interval is empty another one gives two; fewer where the space has no more.
    """
    rng = np.random.default_rng(seed)
    cost = AdditiveCost(*layout(space).priced(lambda spec: spec.flops))
    edges = np.linspace(*cost.bounds(space), n + 1)
    found: list[Arch] = []

    def draw(low: float, high: float, wanted: int) -> None:
        window = Window(space, {"flops": cost}, {"flops": (low, high)})
        found.extend(window.sample(rng, wanted, {*known, *found}, tries=100))

    for low, high in itertools.pairwise(edges):
        draw(low, high, 1)
    draw(edges[0], edges[-1], n - len(found))
    return found


def calibration_archs(space: Space, fit: int, check: int, seed: int) -> list[Arch]:
    """``fit`` architectures from the smallest to the largest to calibrate with, then ``check`` others."""
    archs = spread(space, fit + check, seed)
    first = {round(i) for i in np.linspace(0, len(archs) - 1, fit)}
    return [arch for part in (True, False) for i, arch in enumerate(archs) if (i in first) == part]
