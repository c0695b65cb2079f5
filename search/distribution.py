"""The operation distribution of PAD-NAS (§3.2): estimated from architectures, used to prune, and plotted. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supernet.errors import UserError
from supernet.space import Arch, Space

Distribution = list[list[float]]  # p[j][i]: probability of choice i at gene j; 0 where it is closed


def estimate(space: Space, archs: Sequence[Arch]) -> Distribution:
    """p[j][i]: the share of ``archs`` that have choice i at gene j.

    Raises:
        UserError: no architectures.

    >>> from supernet.space import Choice, Gene
    >>> genes = tuple(Gene(name, (Choice("ib", 3, 1), Choice("ib", 3, 6)), 8, 8, 1) for name in ("first", "second"))
    >>> space = Space("tiny", 3, 8, 10, 8, 1, 16, "relu6", genes, ((0, 1), (0, 1)))
    >>> estimate(space, [(0, 0), (0, 1), (0, 1), (0, 1)])
    [[1.0, 0.0], [0.25, 0.75]]
    """
    if not archs:
        raise UserError("no architectures to estimate the operation distribution from")
    columns = zip(space.genes, zip(*archs, strict=True), strict=True)
    return [(np.bincount(column, minlength=len(gene.choices)) / len(archs)).tolist() for gene, column in columns]


def prune(
    space: Space, p: Distribution, threshold: float, redrawn: Sequence[Distribution] = (), sure: float = 0.0
) -> Space:
    """``space`` without the operations whose probability is at most ``threshold`` (line 7 of Algorithm 1).

    A layer always keeps its most frequent operation.

    Args:
        redrawn: distributions that might have been found as well. What is not rare in a share of at least ``sure`` of
            them stays, too.
    """
    keep = []
    for j, (open_, row) in enumerate(zip(space.allowed, p, strict=True)):
        most = max(open_, key=lambda i: row[i])  # the first of equals
        rare = {i for i in open_ if row[i] <= threshold and i != most}
        if redrawn:
            rare = {i for i in rare if np.mean([other[j][i] <= threshold for other in redrawn]) >= sure}
        keep.append([i for i in open_ if i not in rare])
    return space.restrict(keep)


def sparsity(space: Space, p: Distribution, threshold: float) -> float:
    """The share of open operations that ``prune`` would remove."""
    return 1 - sum(map(len, prune(space, p, threshold).allowed)) / sum(map(len, space.allowed))


def by_name(space: Space, p: Distribution, pruned: Space) -> list[dict[str, Any]]:
    """Of each layer its ``name``, ``p`` of each open operation, and the operations that pruning ``kept``."""
    genes = zip(space.genes, space.allowed, p, pruned.allowed, strict=True)
    return [
        {
            "name": gene.name,
            "p": {gene.choices[i].name: row[i] for i in open_},
            "kept": [gene.choices[i].name for i in kept],
        }
        for gene, open_, row, kept in genes
    ]


def heat_map(path: Path, layers: Sequence[Mapping[str, Any]], title: str) -> None:
    """Plot layer × operation: the probability in %, a cross if it is pruned, grey if there is none.

    Args:
        layers: as ``by_name`` gives them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The operations of the layers that have most come first, so that the others' are among them or follow.
    names = list(dict.fromkeys(name for layer in sorted(layers, key=lambda of: -len(of["p"])) for name in layer["p"]))
    image = np.full((len(names), len(layers)), np.nan)
    figure = Figure(figsize=(2.5 + 0.35 * len(layers), 1.8 + 0.28 * len(names)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("0.8")
    for j, layer in enumerate(layers):
        for name, probability in layer["p"].items():
            row = names.index(name)
            image[row, j] = probability
            if name in layer["kept"]:
                color = "white" if probability > 0.5 else "black"
                axes.text(j, row, f"{100 * probability:.0f}", ha="center", va="center", fontsize=6, color=color)
            else:
                axes.plot(j, row, marker="x", color="tab:red", markersize=5)
    axes.imshow(np.ma.masked_invalid(image), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(layers)), [layer["name"].removeprefix("layer") for layer in layers], fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("layer (%; × pruned, grey closed before)", fontsize=7)
    axes.set_title(title, fontsize=8)
    figure.savefig(path)
