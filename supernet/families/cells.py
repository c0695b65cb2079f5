"""Cells whose nodes sum over edges: the graphs of DARTS and SNAS, a gene for each edge.

Liu et al., "DARTS", §2.1; Hu et al., "DSNAS", eq. 1. A cell reads the outputs of the two cells before it: its nodes 0
and 1. Each further node j is Σ_{i<j} O_ij(x_i), with one operation O_ij on each edge, and the output of the cell is
all of these nodes, concatenated. Cells are normal or reductions, which halve the image and double the channels; those
of a kind have their genes in common, and weights of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from supernet.errors import UserError
from supernet.families.base import Priced, Shared, Total
from supernet.families.cells_blocks import (
    AvgPoolBN,
    Concat,
    Dilated,
    Edge,
    First,
    GraphHead,
    Halved,
    MaxPoolBN,
    Output,
    Second,
    Separable2,
    Squeezed,
)
from supernet.modules import Identity, Stem, Zero
from supernet.quantities import several
from supernet.size import Size
from supernet.space import Arch, Choice, Gene, Space
from supernet.spec import Block, BuildOptions, LayerSpec, Price

if TYPE_CHECKING:
    from typing_extensions import Unpack

KINDS = {"n": "normal", "r": "reduction"}


OPS: dict[str, tuple[type[Block], type[Block]]] = {  # at stride 1 and at stride 2
    "skip": (Identity, Halved),
    "none": (Zero, Zero),
    "pool_max": (MaxPoolBN, MaxPoolBN),
    "pool_avg": (AvgPoolBN, AvgPoolBN),
    "sep2": (Separable2, Separable2),
    "dil": (Dilated, Dilated),
}
CHOICES = (
    Choice("skip"),
    Choice("none"),
    Choice("pool_max", 3),
    Choice("pool_avg", 3),
    *(Choice(op, k) for op in ("sep2", "dil") for k in (3, 5)),
)


@dataclass(frozen=True)
class PartSpec(LayerSpec):
    """A layer in a cell. Where it stands is not in its key: operations that are alike have one latency."""

    wrap: type[nn.Module] = Edge
    place: tuple[int, ...] = ()
    held: int = 0  # values of the state besides what it reads

    @property
    def beside(self) -> bool:
        return self.place != (0, 2)  # the first edge of a cell

    @property
    def activations(self) -> int:
        return super().activations + self.held

    def build(self, affine: bool = True, eps: float = 1e-5, kernels: str = "fused") -> nn.Module:
        return self.wrap(super().build(affine, eps, kernels), *self.place)

    def measured(self, kernels: str) -> nn.Module:
        return super().build(kernels=kernels)


class CellSpecs(NamedTuple):
    """The layers of one cell; ``edges[e][j]`` is choice j of its edge e, whose gene is ``genes[e]``."""

    inputs: tuple[PartSpec, PartSpec]
    genes: Sequence[int]
    edges: Sequence[Sequence[PartSpec]]
    output: PartSpec


def edges_of(nodes: int) -> list[tuple[int, int]]:
    """Source and target of every edge of a cell with so many nodes of its own, by target.

    >>> edges_of(2)
    [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    """
    return [(i, j) for j in range(2, 2 + nodes) for i in range(j)]


@dataclass(frozen=True)
class Graph:
    """The layers of a space of cells."""

    space: Space

    @cached_property
    def kinds(self) -> str:
        """Those that there are, in the order of their genes."""
        return "".join(kind for kind in KINDS if kind in self.space.cells)

    @cached_property
    def nodes(self) -> int:
        """Of a cell, inputs apart."""
        space = self.space
        if not space.cells or set(space.cells) - set(KINDS):
            raise UserError(f"space {space.name} has the cells {space.cells!r}: expected a row of n and r, as nnrnn")
        count = next((n for n in range(1, 17) if len(self.kinds) * len(edges_of(n)) == len(space.genes)), 0)
        if not count:
            raise UserError(
                f"space {space.name} has {several(len(space.genes), 'gene')} for {several(len(self.kinds), 'kind')} of "
                "cells: expected 2, 5, 9, 14, … for each, one for each edge"
            )
        return count

    @cached_property
    def stem(self) -> LayerSpec:
        space = self.space
        return LayerSpec(Stem, space.channels, space.stem_channels, space.input_size, space.stem_stride, act="none")

    @cached_property
    def cells(self) -> list[CellSpecs]:
        edges, found = edges_of(self.nodes), []
        before = last = (self.stem.out_channels, self.stem.out_size)
        channels = self.space.genes[0].in_channels
        for kind in self.space.cells:
            channels *= 1 + (kind == "r")
            first = self.kinds.index(kind) * len(edges)
            found.append(self._cell(kind, range(first, first + len(edges)), before, last, channels))
            before, last = last, (found[-1].output.out_channels, found[-1].output.size)
        return found

    def _cell(
        self, kind: str, genes: Sequence[int], before: tuple[int, Size], last: tuple[int, Size], channels: int
    ) -> CellSpecs:
        """One cell, which reads outputs of these channels and sizes."""
        act, size = self.space.act, last[1]
        out = size.strided(2) if kind == "r" else size
        raw, node, new = last[0] * size.pixels, channels * size.pixels, channels * out.pixels
        halves = before[1] != size
        squeeze = Halved if halves else Squeezed
        inputs = (
            PartSpec(squeeze, before[0], channels, before[1], 1 + halves, act=act, wrap=First, held=raw),
            PartSpec(Squeezed, last[0], channels, size, act=act, wrap=Second, held=node),
        )
        if refused := squeeze.refuses(inputs[0]):
            raise UserError(f"space {self.space.name}: a cell's input: {refused}")
        edges = []
        for gene, (source, target) in zip(genes, edges_of(self.nodes), strict=True):
            begun = source > 0  # node ``target``, by an edge from node 0
            held = raw + 2 * node + (target - 2 + begun) * new - (node if source < 2 else new)
            at = size if source < 2 else out
            edges.append(
                [self._edge(gene, c, channels, at, source, target, held) for c in self.space.genes[gene].choices]
            )
        nodes = self.nodes * channels
        output = PartSpec(
            Concat, channels, nodes, out, act="none", wrap=Output, held=raw + 2 * node + nodes * out.pixels
        )
        return CellSpecs(inputs, genes, edges, output)

    def _edge(
        self, number: int, choice: Choice, channels: int, size: Size, source: int, target: int, held: int
    ) -> PartSpec:
        """One choice of a gene, or a UserError that names the gene."""
        space, gene = self.space, self.space.genes[number]
        kind = self.kinds[number // len(edges_of(self.nodes))]
        expected = 2 if kind == "r" and source < 2 else 1
        if gene.stride != expected or gene.in_channels != gene.out_channels:
            raise UserError(
                f"space {space.name}: gene {gene.name}, of node {source} to {target} in a {KINDS[kind]}, has "
                f"stride {gene.stride}, {gene.in_channels} to {gene.out_channels} channels: expected {expected}, and "
                "as many as it gets"
            )
        if choice.op not in OPS:
            raise UserError(
                f"space {space.name}: gene {gene.name} has the operation {choice.op!r}, expected {', '.join(OPS)}"
            )
        block = OPS[choice.op][gene.stride - 1]
        spec = PartSpec(
            block,
            channels,
            channels,
            size,
            gene.stride,
            choice.kernel,
            act=space.act,
            wrap=Edge,
            place=(source, target),
            held=held,
        )
        if refused := block.refuses(spec):
            raise UserError(f"space {space.name}: gene {gene.name} cannot be {choice.name}: {refused}")
        return spec

    @cached_property
    def head(self) -> LayerSpec:
        space, last = self.space, self.cells[-1].output
        bias = space.classifier_bias
        return LayerSpec(
            GraphHead, last.out_channels, space.classes, last.size, act="none", classes=space.classes, bias=bias
        )

    @cached_property
    def decides(self) -> list[int | None]:
        """The gene that decides about each module of a path; None: it always runs."""
        cells = ([None, None, *cell.genes, None] for cell in self.cells)
        return [None, *(gene for cell in cells for gene in cell), None]

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem; inputs, edges and output of each cell; head."""
        layers: list[LayerSpec] = [self.stem]
        for cell in self.cells:
            edges = (edge[arch[gene]] for gene, edge in zip(cell.genes, cell.edges, strict=True))
            layers += [*cell.inputs, *edges, cell.output]
        return [*layers, self.head]

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run, pruned choices included."""
        yield self.stem
        for cell in self.cells:
            yield from cell.inputs
            for edge in cell.edges:
                yield from edge
            yield cell.output
        yield self.head

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """A table for each gene, over all cells of its kind; what is no edge is the base."""
        table: list[list[list[float]]] = [[[] for _ in gene.choices] for gene in self.space.genes]
        always: list[LayerSpec] = [self.stem, self.head]
        for cell in self.cells:
            always += [*cell.inputs, cell.output]
            for gene, edge in zip(cell.genes, cell.edges, strict=True):
                for prices, spec in zip(table[gene], edge, strict=True):
                    prices.append(price(spec))
        return Priced([[total(prices) for prices in row] for row in table], total(map(price, always)), None)


class Cells:
    """The family of spaces with cells."""

    ops = frozenset(OPS)

    @property
    def presets(self) -> Mapping[str, Callable[..., Space]]:
        return {"cells": cells, "cells-small": cells_small}

    def layout(self, space: Space) -> Graph:
        """The layers of ``space``."""
        graph = Graph(space)
        len(graph.cells)  # what cannot be built is refused here
        return graph

    def share(self, layout: Graph, **build: Unpack[BuildOptions]) -> Shared:
        """Weights of its own for every open choice of every edge in every cell."""
        allowed, stem = layout.space.allowed, layout.stem.build(**build)
        layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "inputs": nn.ModuleList(spec.build(**build) for spec in cell.inputs),
                    "edges": nn.ModuleList(
                        nn.ModuleDict({str(i): edge[i].build(**build) for i in allowed[gene]})
                        for gene, edge in zip(cell.genes, cell.edges, strict=True)
                    ),
                    "output": cell.output.build(**build),
                }
            )
            for cell in layout.cells
        )
        return Shared(stem, layers, layout.head.build(**build))

    def path(self, layout: Graph, shared: Shared, arch: Arch) -> list[nn.Module]:
        """Stem; inputs, chosen edges and output of each cell; head."""
        if len(arch) != len(layout.space.genes):
            raise ValueError(several(len(arch), "gene"))
        path = [shared.stem]
        for specs, own in zip(layout.cells, shared.layers, strict=True):
            parts: Any = own
            edges = (
                choices.get_submodule(str(arch[gene]))
                for gene, choices in zip(specs.genes, parts["edges"], strict=True)
            )
            path += [*parts["inputs"], *edges, parts["output"]]
        return [*path, shared.head]


FAMILY = Cells()


def space(name: str, row: str, nodes: int, width: int, channels: int, resolution: int, classes: int) -> Space:
    """All networks of a row of cells.

    Args:
        row: the kinds of the cells in order, n or r.
        nodes: of a cell, its two inputs apart.
        width: channels of the nodes of the first cell; the stem has three times as many.
    """
    genes = [
        Gene(f"{KINDS[kind]}_{i}_{j}", CHOICES, width, width, 2 if kind == "r" and i < 2 else 1)
        for kind in KINDS
        if kind in row
        for i, j in edges_of(nodes)
    ]
    return Space(
        name=name,
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_channels=3 * width,
        stem_stride=1,
        head_channels=nodes * width * 2 ** row.count("r"),
        act="relu",
        genes=tuple(genes),
        allowed=(tuple(range(len(CHOICES))),) * len(genes),
        cells=row,
    )


def cells(channels: int = 3, resolution: int = 32, classes: int = 10) -> Space:
    """DARTS's and SNAS's for CIFAR-10 while they search: 8 cells of 4 nodes, 16 channels; 8^28 networks."""
    return space("cells", "nnrnnrnn", 4, 16, channels, resolution, classes)


def cells_small(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """The same for two cores: 5 cells of 2 nodes, 8 channels; 8^10 networks. Our preset."""
    return space("cells-small", "nrnrn", 2, 8, channels, resolution, classes)
