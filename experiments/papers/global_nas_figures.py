"""Our figures of Efficient Global NAS, as the results of its experiments have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.papers.item import between, mean
from search.efficient_global import Config
from supernet.quantities import count


def compared(result: dict[str, Any]) -> str:
    """Test accuracies and parameters, found and random."""
    c = result["comparison"]
    found, random = (mean(np.atleast_1d(c[name]), 1e-3, digits=1) for name in ("found_params", "random_params"))
    return f"found {mean(c['found'])} %, random {mean(c['random'])} %; {found}k and {random}k parameters"


def spread(result: dict[str, Any]) -> str:
    """The worst and the best random network."""
    final = [100 * curve[-1] for curve in result["curves"]]
    return f"{min(final):.2f} to {max(final):.2f} % of {len(final)} networks"


def rho(name: str) -> Callable[[dict[str, Any]], str]:
    """ρ of a way to rank, with its interval."""

    def told(result: dict[str, Any]) -> str:
        found = result["rho"][name]
        return "ρ " + ("undefined" if found["rho"] is None else between(found["rho"], found["interval"], sign=""))

    return told


def static(result: dict[str, Any]) -> str:
    """ρ after one epoch and after the last but one; what another training says of the end."""
    of = result["study"]["static"]
    later = sorted(map(int, of))[-2]
    ceiling = result["study"]["ceiling"]
    return f"{rho('1 epoch')(result)} at 1 epoch, {of[str(later)]:.2f} at {later}" + (
        "" if ceiling is None else f"; another full training {ceiling:.2f}"
    )


def dynamic(result: dict[str, Any]) -> str:
    """ρ of dynamic training, its gain over as much static training, and the control."""
    s = result["study"]
    if None in (s["permuted"], s["gain"]):
        return rho("dynamic")(result)
    permuted = between(s["permuted"], s["permuted_interval"], sign="")
    gain = between(s["gain"], s["gain_interval"])
    told = f"{rho('dynamic')(result)}; minus static of as many epochs {gain}; permuted epochs {permuted}"
    other = result.get("independent")
    return told if other is None else f"{told}; by other trainings {other['dynamic']:.2f}"


def starts(result: dict[str, Any]) -> str:
    """Accuracy and parameters of each start."""
    return "; ".join(
        f"{name} {mean([r['accuracy'] for r in rows])} %, {mean([r['params'] for r in rows], 1e-3, digits=1)}k"
        for name, rows in result["starts"].items()
    )


def operations(result: dict[str, Any]) -> str:
    """Accuracies with and without, and the difference of the pairs."""
    both, without = ([r["accuracy"] for r in result["operations"][name]] for name in ("with", "without"))
    gain = mean(np.subtract(both, without), sign="+")
    return f"with {mean(both)} %, without {mean(without)} %; difference {gain}"


def recognised(result: dict[str, Any]) -> str:
    """1:1 accuracies and sizes, found and AdaFace's."""
    told = []
    for arm in ("found", "reference"):
        tests = [[t["accuracy"] for t in row["benchmarks"].values() if "accuracy" in t] for row in result[arm]]
        sizes = mean([row["params"] for row in result[arm]], 1e-3, digits=1)
        told.append(f"{arm} {mean([float(np.mean(t)) for t in tests], 100)} %, {sizes}k parameters")
    return "; ".join(told)


def retrieved(result: dict[str, Any]) -> str:
    """TAR of templates at the least FAR that all can show, and rank 1 in the gallery."""
    told = []
    for arm in ("found", "reference"):
        tests = [row["benchmarks"] for row in result[arm]]
        tars = {far for t in tests for row in t.values() if "accuracy" not in row for far in row.get("tar_at_far", {})}
        parts = []
        for kind, key in (*(("tar_at_far", far) for far in sorted(tars, key=float)[:1]), ("rank", "1")):
            values = [
                row[kind][key]
                for t in tests
                for row in t.values()
                if key in row.get(kind, {}) and "accuracy" not in row
            ]
            parts.append(f"{'TAR at FAR ' + key if kind == 'tar_at_far' else 'rank-1'} {mean(values, 100)} %")
        told.append(f"{arm} {', '.join(parts)}")
    return "; ".join(told)


def described(result: dict[str, Any]) -> str:
    """The networks found."""
    found = [s["found"] for s in result["searches"]]
    depths, widths = ("/".join(str(f[name]) for f in found) for name in ("depth", "width"))
    return f"{depths} layers, {widths} channels"


def trained(result: dict[str, Any]) -> str:
    """Networks and epochs of the searches."""
    networks, epochs = ("/".join(str(s[name]) for s in result["searches"]) for name in ("trained", "epochs"))
    return f"{networks} networks, {epochs} epochs, {result['minutes']['search']} minutes for all"


def counted(result: dict[str, Any]) -> str:
    """Eq. 1 with the paper's figures, and the networks of the bounds that are searched here."""
    settings = result["settings"]
    here = Config(depth=tuple(settings["depth"]), width=tuple(settings["width"]))
    theirs = Config(depth=(5, 100), width=(16, 128)).networks(25)
    return f"{count(theirs)} by eq. 1; {count(here.networks())} of all depths in the bounds here"
