"""What a family of spaces is: how its layers follow from an architecture, and how a supernet shares their weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import nn

from supernet.space import Arch, Choice, Space
from supernet.spec import BuildOptions, LayerSpec, Price

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Priced(NamedTuple):
    """What the decisions of a space cost, in the form that ``search.costs.TableCost`` takes."""

    table: Sequence[Any]  # one per gene, [choice]; or one per group of genes, with an axis for each
    base: float  # what always runs, whatever is chosen
    genes: Sequence[tuple[int, ...]] | None  # those of each table; None: table i belongs to gene i


Total = Callable[[Iterable[float]], float]  # combines the prices of several layers: ``math.fsum``, or ``peak``


def peak(prices: Iterable[float]) -> float:
    """The largest price, 0 if there are none: for what layers need one after the other, such as memory."""
    return max(prices, default=0)


class Ascending:
    """A layout of a space whose choices ascend in size, so that the last open one of each gene is its largest."""

    space: Space

    @cached_property
    def largest(self) -> Arch:
        """Every gene at its largest open choice."""
        return tuple(open_[-1] for open_ in self.space.allowed)

    def choice(self, gene: int, arch: Arch) -> Choice:
        """What an architecture has for a gene."""
        return self.space.genes[gene].choices[arch[gene]]

    def open(self, genes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Arch]]:
        """Every combination of the open choices of some genes, and an architecture that has it."""
        for choices in itertools.product(*(self.space.allowed[gene] for gene in genes)):
            arch = list(self.largest)
            for gene, choice in zip(genes, choices, strict=True):
                arch[gene] = choice
            yield choices, tuple(arch)


class Layout(Protocol):
    """The layers of a space with their image sizes, which do not depend on the choices."""

    @property
    def stem(self) -> LayerSpec: ...

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the layers of ``arch`` in order (Identity included), head."""
        ...

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run, pruned choices included."""
        ...

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """What each decision costs: the ``total`` of the prices of the layers that it decides on."""
        ...


class Shared(NamedTuple):
    """The modules of a supernet; the names of its parameters begin with these."""

    stem: nn.Module
    layers: nn.ModuleList
    head: nn.Module

    def all(self) -> list[nn.Module]:
        """In the order of the network."""
        return [self.stem, *self.layers, self.head]


class Family(Protocol):
    """A family of spaces: one file in ``supernet/families`` and one entry of ``FAMILIES``."""

    @property
    def ops(self) -> frozenset[str]:
        """The operations by which its spaces are recognised."""
        ...

    @property
    def presets(self) -> Mapping[str, Callable[..., Space]]:
        """Its spaces by name: functions of ``channels``, ``resolution`` and ``classes`` of the images."""
        ...

    def layout(self, space: Space) -> Layout:
        """The layers of ``space``; a UserError names the gene that cannot be built."""
        ...

    def share(self, layout: Any, **build: Unpack[BuildOptions]) -> Shared:
        """The modules that the architectures share; a UserError if such a space has no supernet.

        Args:
            layout: what ``layout`` of this family gave for the space.
        """
        ...

    def path(self, layout: Any, shared: Shared, arch: Arch) -> list[nn.Module]:
        """The modules that run for ``arch``, in order: one for each layer of ``layout.pick(arch)``.

        All that is in them runs: a BN layer that did not would have no statistics for ``arch``.
        """
        ...
