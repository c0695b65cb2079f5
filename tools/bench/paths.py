"""A path of a drawn bin of multiply-adds: by counting, as ours are, against drawing until one is in the bin."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from search.priced import additive
from supernet import spaces
from supernet.space import Arch, Space
from supernet.tables import Table
from supernet.training import binned, paths

Draw = Callable[[int], Arch | None]


def run(name: str, resolution: int, bins: tuple[float, float, float], draws: int, most: int) -> dict[str, Any]:
    """Milliseconds of a draw by form, medians and means of this thread's CPU time; ``draws`` of each, in turn.

    Args:
        bins: of multiply-adds: from, to and width.
        most: uniform paths that rejection draws for a bin before it gives up.
    """
    space = spaces.get(name, 3, resolution, 1000)
    began = time.thread_time()
    forms: dict[str, Draw] = {"by counting": binned.flops_binned_path(space, 0, bins)}
    prepared = time.thread_time() - began
    forms |= {"by rejection": rejection(space, 0, bins, most), "uniform, no bin": paths.uniform_path(space, 0)}
    took: dict[str, list[float]] = {form: [] for form in forms}
    missed = dict.fromkeys(forms, 0)
    for n in range(-10, draws):  # ten to warm up
        for form, draw in forms.items():
            began = time.thread_time()
            found = draw(n + 10)
            if n >= 0:
                took[form].append(1e3 * (time.thread_time() - began))
                missed[form] += found is None
    return {
        "space": space.name,
        "bins": list(bins),
        "draws": draws,
        "most": most,
        "prepared_ms": 1e3 * prepared,
        "ms": {form: {"median": statistics.median(of), "mean": statistics.fmean(of)} for form, of in took.items()},
        "missed": {form: count / draws for form, count in missed.items()},
    }


def rejection(space: Space, seed: int, bins: tuple[float, float, float], most: int) -> Draw:
    """As SPOS's code: a bin, then uniform paths until one is in it; None after ``most`` of them."""
    low, high, width = bins
    count, cost = round((high - low) / width), additive(space, lambda spec: spec.flops)

    def draw(n: int) -> Arch | None:
        rng = np.random.default_rng([seed, n])
        start = low + width * int(rng.integers(count))
        for _ in range(most):
            arch = space.sample(rng)
            if start <= cost(arch) < start + width:
                return arch
        return None

    return draw


def table(figures: dict[str, Any]) -> Table:
    """One row per form."""
    rows = [
        (form, f"{ms['median']:.3f}", f"{ms['mean']:.3f}", f"{100 * figures['missed'][form]:.1f} %")
        for form, ms in figures["ms"].items()
    ]
    low, high, width = (f"{end / 1e6:g}" for end in figures["bins"])
    title = f"a path of {figures['space']}, {low}M to {high}M in steps of {width}M"
    told = f"{title}; counting takes {figures['prepared_ms']:.0f} ms once, rejection gives up after {figures['most']:,}"
    return Table(("", "ms, median", "mean", "none found"), rows, told)
