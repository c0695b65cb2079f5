"""Elastic spaces: every width, expansion, kernel, depth and input resolution shares one set of weights.

Once-for-all (Cai et al.), BigNAS (Yu et al.), AttentiveNAS (Wang et al.). The genes of a space, in order: the
``resolution``; for each stage an optional ``width``, then any ``kernel`` and ``expand`` genes (one for the stage, or
one for each block), then its depth, whose ``op`` is the kind of the stage (``elastic_blocks.KINDS``) and whose
``count`` the number of blocks; at last the head, whose ``op`` is its kind and ``count`` its channels. The first stage
is the stem.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn

from supernet.errors import UserError
from supernet.families import resolutions
from supernet.families.base import Ascending, Priced, Shared, Total
from supernet.families.elastic_blocks import HEADS, KINDS, STEM, Kind
from supernet.families.elastic_presets import PRESETS
from supernet.families.elastic_sharing import Elastic
from supernet.modules import ACTIVATIONS
from supernet.size import Size
from supernet.space import Arch, Gene, Space
from supernet.spec import BuildOptions, LayerSpec, Price, make_divisible

if TYPE_CHECKING:
    from typing_extensions import Unpack

SIZES = (resolutions.OP, "width", "kernel", "expand", "expand_percent")


class Stage(NamedTuple):
    """Where the genes of a stage stand; ``width`` is None where it does not vary."""

    kind: Kind
    width: int | None
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    depth: int

    def kernel(self, block: int) -> tuple[int, ...]:
        """The gene of a block's kernel size, if there is one."""
        return self.kernels if len(self.kernels) < 2 else self.kernels[block : block + 1]

    def expansion(self, block: int) -> tuple[int, ...]:
        """The gene of a block's expansion, if there is one."""
        return self.expansions if len(self.expansions) < 2 else self.expansions[block : block + 1]


@dataclass(frozen=True)
class ElasticLayout(Ascending):
    """The layers of an elastic space. Their sizes follow from the resolution, the first gene."""

    space: Space
    stages: tuple[Stage, ...]

    @property
    def head(self) -> int:
        """The gene of the head."""
        return len(self.space.genes) - 1

    @property
    def stem(self) -> LayerSpec:
        return self.layer(0, 0, self.largest)

    def width(self, stage: int, arch: Arch) -> int:
        """Output channels of a stage; of stage -1 those of the images."""
        if stage < 0:
            return self.space.channels
        own = self.stages[stage]
        return self.space.genes[own.depth].out_channels if own.width is None else self.choice(own.width, arch).count

    def size(self, stage: int, arch: Arch) -> Size:
        """Of a stage's input."""
        size = self.space.input_size.scaled(self.choice(resolutions.GENE, arch).count)
        for before in self.stages[:stage]:
            size = size.strided(self.space.genes[before.depth].stride)
        return size

    def layer(self, stage: int, block: int, arch: Arch) -> LayerSpec:
        """A block of a stage; it depends on no other genes than those of ``deciding``."""
        own, depth = self.stages[stage], self.choice(self.stages[stage].depth, arch)
        cout = self.width(stage, arch)
        cin = cout if block else self.width(stage - 1, arch)
        size, stride = self.size(stage, arch), self.space.genes[own.depth].stride
        kernel, expand, narrowest = depth.kernel, float(depth.expand), depth.expand
        for gene in own.kernel(block):
            kernel = self.choice(gene, arch).count
        for gene in own.expansion(block):
            percent = self.choice(gene, arch).op == "expand_percent"
            expand, narrowest = self.choice(gene, arch).count / (100 if percent else 1), 0
        return LayerSpec(
            own.kind.further if block and own.kind.further else own.kind.first,
            cin,
            cout,
            size.strided(stride) if block else size,
            1 if block else stride,
            kernel,
            1 if narrowest == 1 else 0,  # where the expansion is always 1 there is no convolution for it
            act=own.kind.act or self.space.act,
            squeeze_excite=own.kind.squeeze_excite,
            middle=make_divisible(round((cout if own.kind.of_outputs else cin) * expand)) if expand else 0,
        )

    def deciding(self, stage: int, block: int) -> tuple[int, ...]:
        """The genes that decide what a block is, if it runs."""
        own = self.stages[stage]
        widths = [self.stages[i].width for i in ((stage,) if block or not stage else (stage - 1, stage))]
        varying = [gene for gene in widths if gene is not None]
        return (resolutions.GENE, *varying, *own.kernel(block), *own.expansion(block))

    def last(self, arch: Arch) -> LayerSpec:
        """The head, which depends on the genes of ``deciding_last``."""
        space, choice = self.space, self.choice(self.head, arch)
        cin = self.width(len(self.stages) - 1, arch)
        pools = choice.op == "pool_head"
        return LayerSpec(
            HEADS[choice.op],
            cin,
            space.classes if pools else choice.count,
            self.size(len(self.stages), arch),
            act="none" if pools else space.act,
            classes=space.classes,
            bias=space.classifier_bias,
            dropout=0.0 if pools else space.dropout,
            middle=cin * choice.expand,
        )

    @property
    def deciding_last(self) -> tuple[int, ...]:
        """The genes that decide what the head is."""
        width = self.stages[-1].width
        return (resolutions.GENE, *(() if width is None else (width,)), self.head)

    def depth(self, stage: int, arch: Arch) -> int:
        """Blocks of a stage that run."""
        return self.choice(self.stages[stage].depth, arch).count

    def runs(self, stage: int, block: int, arch: Arch) -> bool:
        """Whether a block runs."""
        return block < self.depth(stage, arch)

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the blocks that run, head, at the architecture's resolution."""
        stages = range(len(self.stages))
        blocks = [self.layer(i, block, arch) for i in stages for block in range(self.depth(i, arch))]
        return [*blocks, self.last(arch)]

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Every block that can run, by the numbers of its stage and in it."""
        return ((i, block) for i in range(len(self.stages)) for block in range(self.depth(i, self.largest)))

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run at the open choices; with the pruned ones there could be ten times as many."""
        for stage, block in self.blocks():
            yield from dict.fromkeys(
                self.layer(stage, block, arch) for _, arch in self.open(self.deciding(stage, block))
            )
        yield from (self.last(arch) for _, arch in self.open(self.deciding_last))

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """A table for each block, of the genes that decide what it is and the depth that decides whether it runs.

        Pruned choices are NaN.
        """
        genes, tables = [], []
        known: dict[LayerSpec, float] = {}

        def add(deciding: tuple[int, ...], runs: Callable[[Arch], bool], layer: Callable[[Arch], LayerSpec]) -> None:
            table = np.full([len(self.space.genes[gene].choices) for gene in deciding], np.nan)
            for choices, arch in self.open(deciding):
                if runs(arch):
                    spec = layer(arch)
                    if spec not in known:
                        known[spec] = price(spec)
                table[choices] = known[spec] if runs(arch) else total(())
            genes.append(deciding)
            tables.append(table)

        for stage, block in self.blocks():
            genes_of_it = (*self.deciding(stage, block), self.stages[stage].depth)
            add(genes_of_it, partial(self.runs, stage, block), partial(self.layer, stage, block))
        add(self.deciding_last, lambda arch: True, self.last)
        return Priced(tables, 0.0, genes)


@dataclass(frozen=True)
class ElasticStages:
    """The family of elastic spaces."""

    ops: frozenset[str] = frozenset({*SIZES, *KINDS, *HEADS}) - {"width"}  # by their first gene, the resolution
    presets: Mapping[str, Callable[..., Space]] = field(default_factory=lambda: PRESETS)

    def layout(self, space: Space) -> ElasticLayout:
        """The stages of ``space``; a UserError names the gene that is out of place or cannot be built."""
        if space.act not in ACTIVATIONS:
            raise UserError(f"space {space.name}: act {space.act!r}, expected one of {', '.join(ACTIVATIONS)}")
        layout = ElasticLayout(space, tuple(_stages(space)))
        for stage, block in layout.blocks():
            for _, arch in layout.open(layout.deciding(stage, block)[1:]):
                spec = layout.layer(stage, block, arch)
                if reason := spec.block.refuses(spec):
                    gene = space.genes[layout.stages[stage].depth]
                    raise UserError(f"space {space.name}: block {block} of gene {gene.name} cannot be built: {reason}")
        return layout

    def share(self, layout: ElasticLayout, **build: Unpack[BuildOptions]) -> Shared:
        """Every block at its largest open size, each with the matrices of its smaller kernels."""
        stages: list[list[nn.Module]] = [[] for _ in layout.stages]
        for stage, block in layout.blocks():
            stages[stage].append(Elastic(*self._widest(layout, stage, block), build))
        head = Elastic(layout.last(layout.largest), (), build)
        (stem, *rest), *others = stages
        return Shared(stem, nn.ModuleList(map(nn.ModuleList, [rest, *others])), head)

    def _widest(self, layout: ElasticLayout, stage: int, block: int) -> tuple[LayerSpec, tuple[int, ...]]:
        """What a supernet builds of a block, and the kernel sizes that have a matrix, from large to small."""
        spec, own = layout.layer(stage, block, layout.largest), layout.stages[stage]
        specs = [layout.layer(stage, block, arch) for _, arch in layout.open(layout.deciding(stage, block)[1:])]
        if not block and own.kind.shared and any(s.in_channels != s.out_channels for s in specs):
            spec = dataclasses.replace(spec, block=own.kind.shared)
        sizes = [c.count for gene in own.kernel(block) for c in layout.space.genes[gene].choices]
        return spec, tuple(k for k in reversed(sizes) if k <= spec.kernel) if own.kind.matrices else ()

    def path(self, layout: ElasticLayout, shared: Shared, arch: Arch) -> list[nn.Module]:
        """The slices of the shared layers that run for ``arch``."""
        first, *rest = (list(stage.children()) for stage in shared.layers)
        stages = [[shared.stem, *first], *rest]
        layers: list[Any] = [block for i, stage in enumerate(stages) for block in stage[: layout.depth(i, arch)]]
        specs = layout.pick(arch)
        stem, *others = (layer.slice(own) for layer, own in zip([*layers, shared.head], specs, strict=True))
        return [resolutions.Resized(stem, specs[0].size), *others]


def _stages(space: Space) -> Iterator[Stage]:
    """The stages that the genes of a space describe; a UserError says what is out of place."""
    width: list[int] = []
    kernels: list[int] = []
    expansions: list[int] = []
    kinds = 0
    for place, gene in enumerate(space.genes):
        op = _op(space, gene)
        if (op == resolutions.OP) != (place == resolutions.GENE) or (op in HEADS) != (place == len(space.genes) - 1):
            expected = "the first gene to be the resolution and the last one the head"
            raise UserError(f"space {space.name}: gene {gene.name} has choices of {op}, expected {expected}")
        if op in KINDS:
            if (op == STEM) != (kinds == 0) or len(width) > 1:
                raise UserError(f"space {space.name}: gene {gene.name}: expected {STEM} first, a width for each stage")
            depth = gene.choices[-1].count
            if depth > 1 and KINDS[op].further is None:
                raise UserError(f"space {space.name}: gene {gene.name} has {depth} blocks, a {op} is one")
            if not {len(kernels), len(expansions)} <= {0, 1, depth}:
                raise UserError(
                    f"space {space.name}: gene {gene.name} has {len(kernels)} kernel and {len(expansions)} expand "
                    f"genes before it, expected none, one, or one for each of its {depth} blocks"
                )
            yield Stage(KINDS[op], width[0] if width else None, tuple(kernels), tuple(expansions), place)
            width, kernels, expansions, kinds = [], [], [], kinds + 1
        elif place not in (resolutions.GENE, len(space.genes) - 1):
            {"width": width, "kernel": kernels}.get(op, expansions).append(place)
    if not kinds or width or kernels or expansions:
        raise UserError(f"space {space.name}: expected a gene of its depth, such as {STEM}, at the end of each stage")


def _op(space: Space, gene: Gene) -> str:
    """What the choices of a gene are; a UserError if they are not of one kind, in ascending order."""
    first, ops = gene.choices[0], (*SIZES, *KINDS, *HEADS)
    alike = {(choice.op, choice.kernel, choice.expand) for choice in gene.choices}
    counts = [choice.count for choice in gene.choices]
    least = 0 if first.op == "pool_head" else 1
    if len(alike) > 1 or first.op not in ops or counts != sorted(set(counts)) or counts[0] < least:
        raise UserError(
            f"space {space.name}: gene {gene.name} is {' '.join(choice.name for choice in gene.choices):.80}, expected "
            f"ascending counts of at least 1 of one of {', '.join(ops)}"
        )
    return first.op


FAMILY = ElasticStages()
