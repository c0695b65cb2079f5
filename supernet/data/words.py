"""Names and classes of images in a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TOLD = 5  # names in a line


def listed(names: Sequence[str], quote: bool = True) -> str:
    """Some names, and how many more there are."""
    first = [repr(name) if quote else name for name in names[:TOLD]]
    return ", ".join(first) + (f" and {len(names) - TOLD:,} more" if len(names) > TOLD else "")


def without(labels: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """A line on classes that have no images of a kind, if there are some."""
    lacking = [classes[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]
    return [f"no {what} image is of class {listed(lacking)}"] if lacking else []
