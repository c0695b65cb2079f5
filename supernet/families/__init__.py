"""Families of spaces. The tuple below is their only registry; all else about a space follows from its family."""

from __future__ import annotations

import functools

from supernet import plugins
from supernet.errors import UserError
from supernet.families import elastic, ir_resnet, layerwise, module_stages, residual, sep_conv
from supernet.families.base import Family, Layout
from supernet.space import Arch, Space
from supernet.spec import Block, LayerSpec

FAMILIES: tuple[Family, ...] = (
    layerwise.FAMILY,
    residual.FAMILY,
    elastic.FAMILY,
    sep_conv.FAMILY,
    ir_resnet.FAMILY,
    *module_stages.FAMILIES,
)


def of(space: Space) -> Family:
    """The family of a space: the one that has the first of its operations that are not the space's own.

    Raises:
        UserError: no family has that operation, or an operation of the space's own has a name of this library.
    """
    own = {block.op for block in _complete(space).operations}
    if taken := sorted(own & _ops()):
        raise UserError(f"space {space.name}: an operation {taken[0]!r} exists already; give your own another op")
    ops = (choice.op for gene in space.genes for choice in gene.choices if choice.op not in own)
    op = next(ops, None)
    if op is None:  # all operations are its own: they run between the usual stem and head
        return layerwise.FAMILY
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
    return of(space).layout(_complete(space))


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


def require_layers(space: Space) -> None:
    """Refuse a space whose genes are not the layers of a supernet."""
    if not isinstance(of(space), layerwise.Layerwise):
        raise UserError(
            f"space {space.name} has genes for its stages, not one for each layer: expected a space such as "
            f"{', '.join(sorted(layerwise.FAMILY.presets))}"
        )


def lower(space: Space, arch: Arch) -> list[LayerSpec]:
    """The layers that run for ``arch``, in order, without Identity, which computes nothing."""
    return [spec for spec in layout(space).pick(arch) if spec.runs]


def input_shape(space: Space, arch: Arch) -> tuple[int, int, int]:
    """Channels, height and width of the images that the stand-alone network takes: of the architecture's resolution."""
    size = layout(space).pick(arch)[0].size
    return space.channels, size, size


def flops(space: Space, arch: Arch) -> int:
    """Multiply-adds for one image."""
    return sum(spec.flops for spec in lower(space, arch))


def activations(space: Space, arch: Arch) -> int:
    """Values in memory at the peak, for one image: the most that any layer needs."""
    return max(spec.activations for spec in lower(space, arch))


def params(space: Space, arch: Arch) -> int:
    """Parameters of the stand-alone network."""
    return sum(spec.params for spec in lower(space, arch))
