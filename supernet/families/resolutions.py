"""A gene for the resolution, before the genes of a space of any family: the batch is resized, weights are shared.

Elastic spaces have that gene by themselves, and layers that depend on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.errors import UserError
from supernet.families.base import Family, Layout, Priced, Shared, Total
from supernet.size import Size
from supernet.space import Arch, Choice, Gene, Space
from supernet.spec import BuildOptions, LayerSpec, Price

if TYPE_CHECKING:
    from typing_extensions import Unpack

OP = "resolution"
GENE = 0  # the place of the gene, on which every layer depends


def resized(x: Tensor, size: Size) -> Tensor:
    """Images ``[B, C, H, W]`` of a size, by bicubic interpolation where they have another one."""
    if x.shape[-2:] == size:
        return x
    x = F.interpolate(x.contiguous(memory_format=torch.channels_last), size, mode="bicubic", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


class Resized(nn.Module):
    """A stem that first resizes its images. Made for one forward pass; it holds no weights itself.

    Args:
        shared: the stem of a supernet, for images of any size.
        size: that it gets.
    """

    def __init__(self, shared: nn.Module, size: Size):
        super().__init__()
        self.shared, self.size = shared, size

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(resized(x, self.size))

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # never asked for as part of a module
        """The weights of the stand-alone stem."""
        return self.shared.state_dict()


def varies(space: Space) -> bool:
    """Whether the first gene of a space is its resolution."""
    return space.genes[GENE].choices[0].op == OP


def of(space: Space) -> list[int]:
    """The resolutions of a space that has a gene for them: heights; widths follow the shape of the images."""
    return [choice.count for choice in space.genes[GENE].choices] if varies(space) else []


def without(space: Space) -> Space:
    """The space without the gene; a UserError if there is no other one."""
    if len(space.genes) == 1:
        raise UserError(f"space {space.name} has a gene for the resolution only: expected genes of layers or stages")
    return dataclasses.replace(space, genes=space.genes[1:], allowed=space.allowed[1:])


def with_gene(space: Space, resolutions: Sequence[int]) -> Space:
    """The space with these resolutions to choose from; they take the place of those that it has.

    Args:
        resolutions: in pixels, ascending; the last one is that of the images. None leave the space as it is.

    Raises:
        UserError: other resolutions.
    """
    if list(resolutions) in ([], of(space)):
        return space
    told = ", ".join(map(str, resolutions))
    if list(resolutions) != sorted(set(resolutions)) or resolutions[0] < 1 or resolutions[-1] != space.resolution:
        raise UserError(f"resolutions {told}: expected ascending ones, the last {space.resolution} as the images have")
    rest = without(space) if varies(space) else space
    gene = Gene(OP, tuple(Choice(OP, count=r) for r in resolutions), space.channels, space.channels, 1)
    genes, allowed = (gene, *rest.genes), (tuple(range(len(resolutions))), *rest.allowed)
    return dataclasses.replace(rest, genes=genes, allowed=allowed)


@dataclass(frozen=True)
class ResolutionLayout:
    """The layers of a space at each of its resolutions."""

    space: Space
    layouts: tuple[Layout, ...]  # of the space without the gene, by the choices of the gene

    @property
    def stem(self) -> LayerSpec:
        return self.layouts[self.space.allowed[GENE][-1]].stem

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the layers of ``arch``, head, at its resolution."""
        return self.layouts[arch[GENE]].pick(arch[1:])

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run, at every resolution."""
        for layout in self.layouts:
            yield from layout.every()

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """The tables of the space without the gene, with the resolution as their first axis, and one of what always
        runs.
        """
        found = [layout.priced(price, total) for layout in self.layouts]
        genes = found[0].genes or [(i,) for i in range(len(found[0].table))]
        tables = [np.stack(same) for same in zip(*(own.table for own in found), strict=True)]
        bases = np.array([own.base for own in found])
        return Priced([*tables, bases], 0.0, [*((GENE, *(g + 1 for g in own)) for own in genes), (GENE,)])


@dataclass(frozen=True)
class Resolutions:
    """The spaces of a family with a gene for the resolution."""

    family: Family
    ops = frozenset({OP})

    @property
    def presets(self) -> Mapping[str, Callable[..., Space]]:
        return {}

    def layout(self, space: Space) -> ResolutionLayout:
        """The layers of ``space``; a UserError names the gene that cannot be built."""
        gene, heights = space.genes[GENE], of(space)
        if any(choice != Choice(OP, count=choice.count) for choice in gene.choices) or heights != sorted(
            {*heights} - {0}
        ):
            raise UserError(
                f"space {space.name}: gene {gene.name} is {' '.join(choice.name for choice in gene.choices):.80}, "
                f"expected ascending counts of at least 1 of {OP}"
            )
        rest = without(space)
        at = (rest.at(space.input_size.scaled(height)) for height in heights)
        return ResolutionLayout(space, tuple(map(self.family.layout, at)))

    def share(self, layout: ResolutionLayout, **build: Unpack[BuildOptions]) -> Shared:
        """The weights of the space without the gene serve every resolution.

        Raises:
            UserError: such a space has no supernet, or a layer whose weights depend on the size of the images.
        """
        for arch in _covering(layout.space):
            for same in zip(*(own.pick(arch[1:]) for own in layout.layouts), strict=True):
                if len({spec.params for spec in same}) > 1:
                    raise UserError(
                        f"space {layout.space.name}: the weights of a layer {same[0].op} depend on the size of the "
                        "images, so that resolutions cannot share them: leave out the gene for the resolution"
                    )
        return self.family.share(layout.layouts[layout.space.allowed[GENE][-1]], **build)

    def path(self, layout: ResolutionLayout, shared: Shared, arch: Arch) -> list[nn.Module]:
        """The modules that run for ``arch``, the first of which resizes the images."""
        own = layout.layouts[arch[GENE]]
        stem, *others = self.family.path(own, shared, arch[1:])
        return [Resized(stem, own.stem.size), *others]


def _covering(space: Space) -> Iterator[Arch]:
    """Architectures that together have every open choice."""
    for i in range(max(map(len, space.allowed))):
        yield tuple(open_[min(i, len(open_) - 1)] for open_ in space.allowed)
