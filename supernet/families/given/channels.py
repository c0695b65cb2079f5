"""Which channels of a network must be cut together.

Every output of a convolution or a linear layer is an *atom*. The graph is walked once, and every tensor gets the atoms
along one of its axes: what moves data (views, concatenations, slices) is run on the numbers of the atoms themselves.
Operations that need two channels at the same place, such as an addition or a grouped convolution, tie their atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import fx

FIXED = 0  # the atom of all that cannot be cut


class Along(NamedTuple):
    """The atoms of a tensor along the one axis on which they differ."""

    axis: int
    atoms: np.ndarray  # as many as the axis is long


@dataclass
class Channels:
    """The channels of a traced network.

    Attributes:
        of: what each node gives has these atoms: an ``Along``, None where nothing of it can be cut, or a list of them.
        weights: the atoms of parameters and buffers by name, for each axis that has some.
        made: the atoms that a convolution or linear layer makes, by its name.
        whole: why something stays whole: a reason and the atoms that it concerns.
    """

    of: dict[fx.Node, Any] = field(default_factory=dict)
    weights: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    whole: list[tuple[str, np.ndarray]] = field(default_factory=list)
    count: int = 1
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def fresh(self, count: int) -> np.ndarray:
        """New atoms."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """What must be cut together, pair by pair."""
        one, other = np.broadcast_arrays(one, other)
        self.ties.append((one.ravel(), other.ravel()))

    def keep(self, atoms: np.ndarray, reason: str) -> None:
        """What cannot be cut."""
        self.tie(atoms, np.array(FIXED))
        self.whole.append((reason, atoms))

    def labels(self, fixed: bool = True) -> np.ndarray:
        """For each atom the number of its class: what is cut together has the same one.

        Args:
            fixed: what cannot be cut is one class, that of ``FIXED``; else those that it would be otherwise.
        """
        one, other = (
            (np.concatenate(side) for side in zip(*self.ties, strict=True)) if self.ties else [np.array([], int)] * 2
        )
        if not fixed:
            free = (one != FIXED) & (other != FIXED)
            one, other = one[free], other[free]
        ones = np.ones(len(one), bool)
        return connected_components(coo_matrix((ones, (one, other)), (self.count, self.count)), directed=False)[1]
