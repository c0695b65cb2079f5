"""Names and classes of images in a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.quantities import several

TOLD = 5  # names in a line


def listed(names: Sequence[str], quote: bool = True) -> str:
    """Some names, and how many more there are."""
    first = [repr(name) if quote else name for name in names[:TOLD]]
    return ", ".join(first) + (f" and {len(names) - TOLD:,} more" if len(names) > TOLD else "")


def animated(names: Sequence[str]) -> str:
    """A line on images of which more than one could be meant."""
    found = several(len(names), "image has", "images have")
    return f"{found} several frames, of which the first counts: {listed(names)}"


def without(labels: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """A line on classes that have no images of a kind, if there are some."""
    lacking = [classes[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]
    return [f"no {what} image is of class {listed(lacking)}"] if lacking else []


def changed(before: Sequence[str], after: Sequence[str]) -> str:
    """How the names of classes differ."""
    missing = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    if len(missing) == len(added) == 1:
        return f"{missing[0]!r} is called {added[0]!r} now"
    changes = [
        f"{', '.join(map(repr, names))} {what}" for names, what in ((missing, "missing"), (added, "added")) if names
    ]
    return "; ".join(changes) or "their order"
