"""Families of spaces. The tuple below is their only registry; all else about a space follows from its family."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from supernet import plugins
from supernet.errors import UserError
from supernet.families import (
    cells,
    elastic,
    given,
    ir_resnet,
    layerwise,
    module_stages,
    residual,
    resolutions,
    sep_conv,
)
from supernet.families.base import Family, Layout
from supernet.space import Arch, Space
from supernet.spec import Block, LayerSpec

FAMILIES: tuple[Family, ...] = (
    layerwise.FAMILY,
    residual.FAMILY,
    elastic.FAMILY,
    sep_conv.FAMILY,
    ir_resnet.FAMILY,
    cells.FAMILY,
    *module_stages.FAMILIES,
)


def of(space: Space) -> Family:
    """The family of a space: the one that has the first of its operations that are not the space's own.

    Where that is the resolution, the next one decides; families but the elastic one are wrapped then.

    Raises:
        UserError: no family has that operation, or an operation of the space's own has a name of this library.
    """
    if space.model and not resolutions.varies(space):
        return given.FAMILY
    own = {block.op for block in _complete(space).operations}
    if taken := sorted(own & _ops()):
        raise UserError(f"space {space.name}: an operation {taken[0]!r} exists already; give your own another op")
    ops = (choice.op for gene in space.genes for choice in gene.choices if choice.op not in own)
    op = next(ops, None)
    if op is None:  # all operations are its own: they run between the usual stem and head
        return layerwise.FAMILY
    if op == resolutions.OP:
        rest = resolutions.without(space)
        if rest.model:
            return resolutions.Resolutions(given.FAMILY)
        sized = rest.genes[0].choices[0].op in {*elastic.FAMILY.ops, "width"}
        return elastic.FAMILY if sized else resolutions.Resolutions(of(rest))
    for family in FAMILIES:
        if op in family.ops:
            return family
    raise UserError(
        f"space {space.name} has the operation {op!r}, known here are "
        f"{', '.join(sorted(frozenset().union(*(family.ops for family in FAMILIES))))}; {layerwise.NO_CODE}"
    )


def knows(space: Space) -> bool:
    """Whether all operations of a space have their blocks here."""
    try:
        layout(space)
    except UserError:
        return False
    return True


def layout(space: Space) -> Layout:
    """The layers of ``space``; a UserError names the gene that cannot be built."""
    space = _complete(space)
    return _layout(space, (*space.operations, space.make))


@functools.lru_cache(maxsize=16)  # a search asks for it with each architecture
def _layout(space: Space, code: tuple[Any, ...]) -> Layout:
    """Spaces that differ in their code only are equal."""
    return of(space).layout(space)


def _complete(space: Space) -> Space:
    """``space`` with the operations of installed packages that it names without having their code."""
    known = _ops() | {block.op for block in space.operations}
    missing = {choice.op for gene in space.genes for choice in gene.choices} - known
    if not missing:
        return space
    return space.with_operations(*(_installed()[op] for op in sorted(missing & set(_installed()))))


@functools.cache
def _ops() -> frozenset[str]:
    """Every operation of this library, stems and heads included: one of the same name would share its latency keys."""
    classes, ops = [Block], {op for family in FAMILIES for op in family.ops}
    while classes:
        block = classes.pop()
        classes += block.__subclasses__()
        if block.__module__.startswith("supernet.") and hasattr(block, "op"):
            ops.add(block.op)
    return frozenset(ops)


@functools.cache
def _installed() -> dict[str, type[Block]]:
    """The operations of installed packages by ``op``."""
    return {block.op: block for plugin in plugins.installed(plugins.SPACES) for block in plugin.operations}


def require_layers(space: Space, resolution: bool = False, edges: bool = False) -> None:
    """Refuse a space whose genes are not the layers of a supernet.

    Args:
        resolution: the first gene may be that. edges: genes may be those of cells.
    """
    family = of(space)
    if isinstance(family, resolutions.Resolutions):
        if not resolution:
            raise UserError(f"space {space.name} has a gene for the resolution: expected one for each layer only")
        family = family.family
    if not (isinstance(family, layerwise.Layerwise) or (edges and isinstance(family, cells.Cells))):
        raise UserError(
            f"space {space.name} has genes for its stages, not one for each layer: expected a space such as "
            f"{', '.join(sorted(layerwise.FAMILY.presets))}"
        )


def with_resolutions(space: Space, sizes: Sequence[int]) -> Space:
    """The space with a gene for these resolutions, ``resolutions.with_gene``, each large enough for its strides."""
    sized = resolutions.with_gene(space, sizes)
    if sized != space:
        require_strides(sized, smallest=True)
    return sized


def require_strides(space: Space, smallest: bool = False) -> None:
    """Refuse a space with a resolution of which less than two pixels reach a stride.

    Sizes that a stride does not divide are rounded up; of a single pixel there is nothing to leave out.

    Args:
        smallest: of its resolutions; else the largest one: elastic presets have very small ones for small images.
    """
    arch = tuple(open_[0] for open_ in space.allowed)
    if resolutions.varies(space):
        arch = (space.allowed[0][0 if smallest else -1], *arch[1:])
    strided = [spec for spec in lower(space, arch) if spec.stride > 1 and not spec.beside]
    if all(min(spec.size) > 1 for spec in strided):
        return
    least = 1
    for spec in reversed(strided):  # the last one gets at least 2 pixels, the one before as many as make these
        least = max(2, (least - 1) * spec.stride + 1)
    raise UserError(
        f"space {space.name} is not for images of {strided[0].size} pixels: its last layer of stride "
        f"{strided[-1].stride} gets a single one; expected a resolution of at least {least}"
    )


def lower(space: Space, arch: Arch) -> list[LayerSpec]:
    """The layers that run for ``arch``, in order, without Identity, which computes nothing."""
    return [spec for spec in layout(space).pick(arch) if spec.runs]


def input_shape(space: Space, arch: Arch) -> tuple[int, int, int]:
    """Channels, height and width of the images that the stand-alone network takes: of the architecture's resolution."""
    return layout(space).pick(arch)[0].input_shape


def flops(space: Space, arch: Arch) -> int:
    """Multiply-adds for one image."""
    return sum(spec.flops for spec in lower(space, arch))


def activations(space: Space, arch: Arch) -> int:
    """Values in memory at the peak, for one image: the most that any layer needs."""
    return max(spec.activations for spec in lower(space, arch))


def params(space: Space, arch: Arch) -> int:
    """Parameters of the stand-alone network."""
    return sum(spec.params for spec in lower(space, arch))
