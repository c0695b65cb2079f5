"""Which channels of a network must be cut together.

Every output of a convolution or a linear layer is an *atom*. The graph is walked once, and every tensor gets the atoms
along one of its axes: what moves data (views, concatenations, slices) is run on the numbers of the atoms themselves.
Operations that need two channels at the same place, such as an addition or a grouped convolution, tie their atoms.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

FIXED = 0  # the atom of all that cannot be cut
OUTPUT = "they are the network's output"


class Along(NamedTuple):
    """The atoms of a tensor along the axes on which they differ: one, or several where a view has split it, as into
    the heads of attention and the channels of each.
    """

    axes: tuple[int, ...]  # ascending
    atoms: np.ndarray  # its shape is that of these axes

    @property
    def axis(self) -> int:
        """The first axis."""
        return self.axes[0]

    def first(self, axis: int) -> Along:
        """The first atoms along one axis."""
        places = tuple(slice(None) if own == axis else 0 for own in self.axes)
        return Along((axis,), self.atoms[places])

    def without(self, *axes: int) -> set[int]:
        """The other axes."""
        return {*self.axes} - {*axes}


@dataclass
class Channels:
    """The channels of a traced network.

    Attributes:
        of: what each node gives has these atoms: an ``Along`` of one axis, None where nothing of it can be cut, or a
            list of them.
        weights: the atoms of parameters and buffers by name, for each axis that has some.
        made: the atoms that a convolution or linear layer makes, by its name.
        changed: atoms of tensors that a node changes, not only moves: some of a layer may be, where its others are not.
        heads: the modules that multiply matrices by heads, and an atom of each head.
        whole: why something stays whole: a reason and the atoms that it concerns.
    """

    of: dict[fx.Node, Any] = field(default_factory=dict)
    weights: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    changed: list[np.ndarray] = field(default_factory=list)
    heads: list[tuple[str, np.ndarray]] = field(default_factory=list)
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
        self.whole.append((reason, atoms.ravel()))

    def only(self, of: Along, axes: Collection[int], reason: str = "") -> Along | None:
        """``of`` where it can be cut along these axes alone: what differs along its others is cut together.

        Without any such axis it cannot be cut, for this reason.
        """
        kept = [i for i, axis in enumerate(of.axes) if axis in axes]
        if len(kept) == len(of.axes):
            return of
        if not kept:
            self.keep(of.atoms, reason)
            return None
        atoms = np.moveaxis(of.atoms, kept, range(len(kept)))
        atoms = atoms.reshape(*atoms.shape[: len(kept)], -1)
        self.tie(atoms, atoms[..., :1])
        return Along(tuple(of.axes[i] for i in kept), atoms[..., 0])

    def longest(self, of: Along) -> Along:
        """``of`` where it can be cut along its longest axis alone, but for that of the images."""
        found = self.only(of, [max(zip(of.axes, of.atoms.shape, strict=True), key=lambda one: (one[0] > 0, one[1]))[0]])
        assert found is not None
        return found

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


def along_of(numbers: Tensor) -> Along | None:
    """The axes along which the numbers of atoms differ."""
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.int32:
        return None
    varying, shape = [], numbers.shape
    for axis, size in enumerate(shape):
        if (
            size > 1
            and numbers.stride(axis)
            and not torch.equal(numbers, numbers.narrow(axis, 0, 1).expand_as(numbers))
        ):
            varying.append(axis)
        else:
            numbers = numbers.narrow(axis, 0, 1)
    if not varying:
        atom = int(numbers.flatten()[0])
        axis = next((axis for axis, size in enumerate(shape) if axis and size > 1), len(shape) - 1)
        return None if atom == FIXED else Along((axis,), np.full(shape[axis], atom))
    return Along(tuple(varying), numbers.reshape([shape[axis] for axis in varying]).numpy().astype(np.int64))


def numbers_of(value: Any, of: Along | None) -> Any:
    """A tensor of the shape of ``value`` that holds the number of an atom for each element."""
    if not isinstance(value, Tensor):
        return value
    if of is None:
        return torch.zeros(1, dtype=torch.int32).expand(value.shape)
    shape = [size if axis in of.axes else 1 for axis, size in enumerate(value.shape)]
    return torch.from_numpy(of.atoms.astype(np.int32)).view(shape).expand(value.shape)
