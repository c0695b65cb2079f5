"""The costs of a space's networks, from what each of their layers costs: latency, multiply-adds, parameters, memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import numpy as np

from search.costs import AdditiveCost, MaxCost, TableCost
from supernet import families
from supernet.families.base import peak
from supernet.space import Space
from supernet.spec import Price


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


def median(space: Space, cost: TableCost, n: int = 1000) -> float:
    """The median cost of ``n`` random architectures, the same at every call."""
    rng = np.random.default_rng(0)
    return statistics.median(cost(space.sample(rng)) for _ in range(n))
