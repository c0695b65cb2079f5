"""How far the parts that a search finds are ahead of each other way, seed by seed, at equal costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _report

Made = Mapping[str, Sequence[Mapping[str, Any]]]  # by "arm, share" and by seed
OURS, BY_LATENCY = "ours", "ours, by latency"


def table(made: Made) -> dict[str, dict[str, str]]:
    """Points of accuracy with 95 % intervals, a row for each other way and share.

    At equal latency stands what ``at_latency`` gives against each other network at its own latency.
    """
    rows = {}
    for key, others in made.items():
        arm, _, share = key.rpartition(", ")
        if arm in ("", OURS, BY_LATENCY):
            continue
        theirs, ours = ([100 * one["accuracy"] for one in of] for of in (others, made[f"{OURS}, {share}"]))
        row = {"at equal multiply-adds, points": _report.paired(ours, theirs)}
        if any(arm.startswith(BY_LATENCY) for arm in made):
            curve = [100 * at_latency(made, seed, one["latency"]) for seed, one in enumerate(others)]
            row["at equal latency, points"] = _report.paired(curve, theirs)
        rows[key] = row
    return rows


def at_latency(made: Made, seed: int, latency: float) -> float:
    """Accuracy of ours at a share of the given network's latency, on the straight lines between what was measured.

    The lines join the networks found by latency and those found by multiply-adds, in the order of their latencies, and
    the given network; none of them is chosen by its accuracy. Beyond the ends the nearest counts.
    """
    found = [of[seed] for key, of in made.items() if key.rpartition(", ")[0] in (OURS, BY_LATENCY)]
    points = sorted([(one["latency"], one["accuracy"]) for one in found] + [(1.0, made["given"][seed]["accuracy"])])
    return float(np.interp(latency, *zip(*points, strict=True)))
