"""The layers of a given network at any of its widths, depths and kernels."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import fx, nn

from supernet import plugins
from supernet.errors import UserError
from supernet.families import resolutions
from supernet.families.base import Ascending, Priced, Total
from supernet.families.given.channels import Along
from supernet.families.given.fusing import MOST, convolutions, resolved
from supernet.families.given.genes import Depth, Kernel, Width
from supernet.families.given.layer import Layer
from supernet.families.given.network import Network, opened, require
from supernet.families.given.piece import Kept, steps
from supernet.families.given.spec import GivenSpec
from supernet.families.given.units import Unit
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.spec import LayerSpec, Price


def layout_of(space: Space) -> GivenLayout:
    """The units of ``space``; a UserError if the network has other parts now."""
    return _layout(space, space.make)


@functools.lru_cache(maxsize=16)  # a search asks for it with each architecture
def _layout(space: Space, make: Callable[..., Any] | None) -> GivenLayout:
    """Spaces that differ in their code only are equal."""
    if space.make is None and not space.model.startswith(plugins.REGISTRIES):
        raise UserError(f"space {space.name} is of {space.model}: a file is not allowed to name code", missing="code")
    network = opened(space.model, *space.images, space.make)
    require(space, network)
    return GivenLayout(space, network)


def of_network(space: Space) -> GivenLayout:
    """The units at the size of the images, where a gene for the resolution stands before those of the network, too."""
    return layout_of(resolutions.without(space) if resolutions.varies(space) else space)


@dataclass(frozen=True)
class GivenLayout(Ascending):
    """The layers of the space of a given network."""

    space: Space
    network: Network = field(compare=False)

    def __deepcopy__(self, memo: dict) -> GivenLayout:
        """Nothing of it changes."""
        return self

    @staticmethod
    def again(space: Space, place: int, counts: tuple[int, ...]) -> GivenSpec:
        """A unit in another process."""
        return layout_of(space).spec(place, counts)

    @property
    def stem(self) -> LayerSpec:
        return self.layer(0, self.largest)

    @cached_property
    def deciding(self) -> list[tuple[int, ...]]:
        """For each unit the genes that decide what it is, if it runs."""
        network = self.network
        of_label: dict[int, int] = {}
        for i, gene in enumerate(network.genes):
            if isinstance(gene, Width):
                of_label |= {int(label): i for group in gene.groups for label in group.labels}
        of_name = {gene.name: i for i, gene in enumerate(network.genes) if isinstance(gene, Kernel)}
        found = []
        for unit in network.units:
            own: set[int] = set()
            for along in self._alongs(unit):
                own |= {of_label[label] for label in set(map(int, network.labels[along.atoms])) if label in of_label}
            own |= {of_name[str(node.target)] for node in unit.nodes if str(node.target) in of_name}
            found.append(tuple(sorted(own)))
        return found

    def _alongs(self, unit: Unit) -> Iterator[Along]:
        nodes = dict.fromkeys((*unit.nodes, *(source for node in unit.nodes for source in node.all_input_nodes)))
        for node in nodes:
            of = self.network.channels.of.get(node)
            yield from (one for one in (of if isinstance(of, list) else [of]) if one is not None)

    @cached_property
    def runs_from(self) -> list[tuple[int, int] | None]:
        """For each unit that can be left out its gene, and the depth from which on it runs."""
        blocks = {
            block: (i, gene.fixed + place + 1)
            for i, gene in enumerate(self.network.genes)
            if isinstance(gene, Depth)
            for place, block in enumerate(gene.blocks)
        }
        return [None if unit.block is None else blocks[unit.block] for unit in self.network.units]

    @cached_property
    def together(self) -> dict[int, int]:
        """How many units one of our operators runs from a unit on, where it runs several: all of one block or none."""
        network, whole = self.network, self.kept({})
        modules = dict(network.graph.named_modules())
        own = [resolved(steps(unit, network.names, whole), modules) for unit in network.units]

        def fits(place: int, n: int) -> bool:
            of_block = {unit.block for unit in network.units[place : place + n]}
            return len(of_block) == 1 and convolutions([*itertools.chain(*own[place : place + n])]) == n

        found: dict[int, int] = {}
        place, last = 1, len(own) - 1  # the first and the last one stand for themselves
        while place < last:
            n = next((n for n in range(min(MOST, last - place), 1, -1) if fits(place, n)), 1)
            found |= {place: n} if n > 1 else {}
            place += n
        return found

    def kept(self, counts: Mapping[int, int]) -> Kept:
        """What is left where genes have these counts, and all else is whole."""
        network, kernels = self.network, {}
        mask = np.ones(network.labels.max() + 1, bool)
        for i, count in counts.items():
            gene = network.genes[i]
            if isinstance(gene, Width):
                for group, left in zip(gene.groups, gene.choices[gene.counts.index(count)], strict=True):
                    mask[group.labels[left // group.each :]] = False
            elif isinstance(gene, Kernel) and count != gene.counts[-1]:
                kernels[gene.name] = count
        return Kept(network.channels, network.labels, mask, kernels)

    def layer(self, place: int, arch: Arch) -> GivenSpec:
        """A unit of the network as an architecture has it."""
        return self.spec(place, tuple(self.choice(gene, arch).count for gene in self.deciding[place]))

    def spec(self, place: int, counts: tuple[int, ...]) -> GivenSpec:
        """A unit whose genes have these counts."""
        known = self._specs
        if (place, counts) not in known:
            known[place, counts] = self._spec(place, counts)
        return known[place, counts]

    @cached_property
    def _specs(self) -> dict[tuple[int, tuple[int, ...]], GivenSpec]:
        return {}

    def _spec(self, place: int, counts: tuple[int, ...]) -> GivenSpec:
        unit = self.network.units[place]
        kept = self.kept(dict(zip(self.deciding[place], counts, strict=True)))
        (cin, size), (cout, _) = self.image(unit.begins, kept), self.image(unit.ends, kept)
        convs = [(n, m) for n in unit.nodes if isinstance(m := self.module(n), nn.Conv2d)]
        stride, kernel = convs[0][1].stride[0] if convs else 1, 0
        if convs:
            narrow: Any = kept.narrow(convs[0][1], str(convs[0][0].target))
            kernel = narrow.kernel_size[0]
        return GivenSpec(Layer, cin, cout, size, stride, kernel, layout=self, place=place, counts=counts, kept=kept)

    def image(self, node: fx.Node, kept: Kept) -> tuple[int, Size]:
        """Channels and size of what a node gives: an image, a vector, or vectors at several places."""
        of, shape = self.network.channels.of.get(node), kept.shape(node)
        axis = of.axis - 1 if isinstance(of, Along) else 0 if len(shape) in (1, 3) else len(shape) - 1
        pixels = [size for i, size in enumerate(shape) if i != axis]
        return shape[axis], Size(*pixels) if len(pixels) == 2 else Size(math.prod(pixels), 1)

    def module(self, node: fx.Node) -> nn.Module | None:
        """What a node runs, if that is a module."""
        return self.network.graph.get_submodule(str(node.target)) if node.op == "call_module" else None

    def runs(self, place: int, arch: Arch) -> bool:
        """Whether a unit runs."""
        gene = self.runs_from[place]
        return gene is None or self.choice(gene[0], arch).count >= gene[1]

    def units(self) -> list[LayerSpec]:
        """Every unit as the given network has it."""
        return [self.layer(i, self.whole) for i in range(len(self.network.units))]

    @cached_property
    def whole(self) -> Arch:
        """The given network."""
        return self.space.whole

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """The units that run, in order."""
        return [self.layer(i, arch) for i in range(len(self.network.units)) if self.runs(i, arch)]

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run at the open choices."""
        for place, deciding in enumerate(self.deciding):
            if self.runs(place, self.largest):
                yield from (self.layer(place, arch) for _, arch in self.open(deciding))

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """A table for each unit, of the genes that decide what it is and the depth that decides whether it runs.

        Pruned choices are NaN.
        """
        deciding, tables = [], []
        for place, own in enumerate(self.deciding):
            depth = self.runs_from[place]
            axes = own if depth is None else (*own, depth[0])
            table = np.full([len(self.space.genes[gene].choices) for gene in axes], np.nan)
            known: dict[tuple[int, ...], float] = {}
            for choices, arch in self.open(axes):
                if not self.runs(place, arch):
                    table[choices] = total(())
                    continue
                if (key := choices[: len(own)]) not in known:
                    known[key] = price(self.layer(place, arch))
                table[choices] = known[key]
            deciding.append(axes)
            tables.append(table)
        return Priced(tables, 0.0, deciding)
