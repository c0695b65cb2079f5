"""The costs of a space's networks, from what each of their layers costs: latency, multiply-adds, parameters, memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from search.costs import AdditiveCost, MaxCost, TableCost
from supernet import families, footprint
from supernet.errors import UserError
from supernet.families.base import peak
from supernet.quantities import digits
from supernet.space import Arch, Space
from supernet.spec import Price

N = TypeVar("N")  # what a search calls a network


def additive(space: Space, price: Price) -> AdditiveCost:
    """A cost that adds up over the layers of a network, in the unit of ``price``."""
    return AdditiveCost(*families.layout(space).priced(price))


def costs(space: Space, latencies: Mapping[str, Price]) -> dict[str, TableCost]:
    """Every cost by name: the latencies, then multiply-adds, parameters and the values alive at the peak.

    Args:
        latencies: by name, what a layer takes in ms, such as ``LatencyTable.price``.

    Raises:
        UserError: a latency table lacks one of the layers.
    """
    return {
        **{name: additive(space, price) for name, price in latencies.items()},
        "flops": additive(space, lambda spec: spec.flops),
        "params": additive(space, lambda spec: spec.params),
        "activations": MaxCost(*families.layout(space).priced(lambda spec: spec.activations if spec.runs else 0, peak)),
    }


def memory(space: Space, precision: footprint.Precision) -> dict[str, TableCost]:
    """Bytes of a network's file, ``flash``, and of its working memory, ``ram``, by ``supernet.footprint``."""
    ram = footprint.ram_of((space.channels, *space.input_size), precision)
    return {
        "flash": additive(space, lambda spec: footprint.flash(spec, precision)),
        "ram": MaxCost(*families.layout(space).priced(ram, peak)),
    }


def bounded(
    network: Callable[[N], tuple[Space, Arch]],
    flops_max: float,
    params_max: float,
    latency_max: float,
    latency: Callable[[Space, Arch], float] | None,
) -> tuple[dict[str, Callable[[N], float]], dict[str, float]]:
    """What the networks of a search cost, and the most that it may be, both by name.

    Args:
        latency: gives ms; without it there is no bound on that.
    """

    def of(cost: Callable[[Space, Arch], float]) -> Callable[[N], float]:
        return lambda candidate: cost(*network(candidate))

    costs, bounds = {"multiply-adds": of(families.flops), "parameters": of(families.params)}, [flops_max, params_max]
    if latency is not None:
        costs["latency in ms"] = of(latency)
        bounds.append(latency_max)
    return costs, dict(zip(costs, bounds, strict=True))


def median(space: Space, cost: TableCost, n: int = 1000) -> float:
    """The median cost of ``n`` random architectures, the same at every call."""
    rng = np.random.default_rng(0)
    return statistics.median(cost(space.sample(rng)) for _ in range(n))


def default_bound(low: float, high: float) -> float:
    """The latency bound where none is given: 40 % of the way from the fastest to the slowest architecture."""
    return low + 0.4 * (high - low)


def window(space: Space, latency: TableCost, low: float, high: float | None) -> tuple[float, float, str]:
    """The window of a latency in ms, and in words how far its upper end binds.

    Args:
        high: the upper end; None: ``default_bound``.

    Raises:
        UserError: no architecture is as fast as ``high``, or none lies between.
    """
    fastest, slowest = latency.bounds(space)
    if high is None:
        high = default_bound(fastest, slowest)
        reason = "no bound is given: 40 % of the way from the fastest to the slowest"
    elif high < fastest:
        raise UserError(
            f"a latency of {digits(high, 6)} ms is below the fastest architecture of {space.name}, "
            f"{digits(fastest, 4)} ms (the slowest takes {digits(slowest, 4)} ms): raise it, or build a table for a "
            "faster device or a smaller space"
        )
    else:
        share = f"{(high - fastest) / (slowest - fastest):.0%} of the range" if slowest > fastest else "all are alike"
        reason = "does not bind" if high >= slowest else share
    if low > min(high, slowest):
        attains = f"{space.name} attains {digits(fastest, 4)} to {digits(slowest, 4)} ms"
        raise UserError(f"no latency lies between {digits(low, 6)} and {digits(high, 6)} ms: {attains}")
    return low, high, reason
