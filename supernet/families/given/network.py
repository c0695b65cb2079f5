"""A given network: its graph, its channels, and what can be chosen in it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from supernet.errors import UserError
from supernet.families.given import genes, source, trace, units
from supernet.families.given.channels import Channels
from supernet.families.given.coupling import find
from supernet.families.given.genes import Depth, Heads, Kernel, Width
from supernet.families.given.layer import SLASH
from supernet.families.given.modules import ours
from supernet.families.given.units import Unit
from supernet.quantities import several
from supernet.size import Size
from supernet.space import Choice, Gene, Space


@dataclass(frozen=True, eq=False)
class Network:
    """A given network, traced for images of one shape.

    Attributes:
        reference, make: as ``source.make`` takes them. images: channels, size, classes.
        graph: its modules hold no data. values: those that its parameters and buffers began with.
        genes: what can be chosen, in the order of the network.
    """

    reference: str
    images: tuple[int, Size, int]
    graph: fx.GraphModule
    values: Mapping[str, Tensor]
    channels: Channels
    labels: np.ndarray
    genes: tuple[Width | Depth | Kernel, ...]
    make: Callable[..., Any] | None = None

    @cached_property
    def cut(self) -> tuple[list[Unit], dict[fx.Node, str]]:
        blocks = [block for gene in self.genes if isinstance(gene, Depth) for block in gene.blocks]
        return units.cut(self.graph, blocks)

    def new(self) -> nn.Module:
        """The network with new random weights."""
        return ours(source.make(self.reference, *self.images, self.make))

    @cached_property
    def whole(self) -> dict[str, str]:
        """Why the channels of a layer all stay, for each layer of which no gene leaves out some."""
        return genes.whole(self.channels, self.labels, [gene for gene in self.genes if isinstance(gene, Width)])

    @cached_property
    def digest(self) -> str:
        """That of what it computes, whatever its weights are."""
        return trace.digest(self.graph)

    @property
    def units(self) -> list[Unit]:
        return self.cut[0]

    @property
    def names(self) -> dict[fx.Node, str]:
        return self.cut[1]


@functools.lru_cache(maxsize=4)
def opened(reference: str, channels: int, size: Size, classes: int, make: Callable[..., Any] | None = None) -> Network:
    """The network of a reference for images of this shape; a UserError if there is none, or it cannot be traced.

    Args:
        make: as ``source.make`` has it.
    """
    model = ours(source.make(reference, channels, size, classes, make))
    _require_own_weights(model, reference)
    _require_statistics(model, reference)
    values = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    graph = trace.trace(model, channels, size, reference)
    values |= graph.meta[trace.CONSTANTS]
    found = find(graph)
    labels = found.labels()
    order = {str(node.target): i for i, node in reversed([*enumerate(graph.graph.nodes)])}
    nodes = {node: i for i, node in enumerate(graph.graph.nodes)}
    placed: list[tuple[int, Width | Depth | Kernel]] = []
    placed += [(order[gene.groups[0].name], gene) for gene in genes.widths(found, labels)]
    placed += [(order[gene.name], gene) for gene in genes.kernels(graph)]
    placed += [(nodes[gene.blocks[0].nodes[0]], gene) for gene in genes.depths(graph, found, labels)]
    chosen = tuple(gene for _, gene in sorted(placed, key=lambda item: item[0]))
    network = Network(reference, (channels, size, classes), graph, values, found, labels, chosen, make)
    _require_once(network)
    return network


def _require_own_weights(model: nn.Module, reference: str) -> None:
    """A UserError where a layer has no weights of its own, by a name: it has another one's, or computes them."""
    owners: dict[Tensor, str] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        if (owner := owners.setdefault(value, name)) != name:
            raise UserError(f"{reference} has one tensor as {owner} and as {name}: {SHARED}")
    for name, module in model.named_modules():
        if SLASH in name:
            raise UserError(f"{name} of {reference} has a {SLASH} in its name: expected names of letters and numbers")
        if isinstance(module, units.PRODUCTS) and "weight" not in dict(module.named_parameters()):
            raise UserError(
                f"{name} of {reference} computes its weight from others, as weight_norm and spectral_norm do: expected "
                "a network from which they were removed, by the function that torch.nn.utils has for each"
            )


def _require_statistics(model: nn.Module, reference: str) -> None:
    """A UserError where a BN has no running statistics: the logits of an image would depend on the others with it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise UserError(
                f"{name} of {reference} has no running statistics, so that the logits of an image depend on the others "
                "of its batch: expected a BN with track_running_stats=True"
            )


def _require_once(network: Network) -> None:
    """A UserError where several layers run the same weights, which each would have for itself."""
    first: dict[str, Unit] = {}
    for unit in network.units:
        for name in unit.tensors(network.graph):
            if first.setdefault(name, unit) is not unit:
                raise UserError(f"{network.reference} runs {name} several times: {SHARED}")


SHARED = "weights that are shared cannot be cut and trained here, expected each in one place"
KINDS = {Width: "width", Heads: "heads", Depth: "depth", Kernel: "kernel"}


def of(network: Network) -> Space:
    """The space of a given network's parts; its largest architecture is the network.

    Raises:
        UserError: nothing of it can be chosen.
    """
    channels, size, classes = network.images
    if not network.genes:
        layer, reason = next(iter(network.whole.items()), ("it", "it has no convolution and no linear layer"))
        raise UserError(f"{network.reference} has nothing to choose: {layer} stays whole, as {reason}")
    made: list[Gene] = []
    names: Counter[str] = Counter()
    for gene in network.genes:
        op = KINDS[type(gene)]
        names[name := f"{op} {gene.name}"] += 1
        name += f" {names[name]}" if names[name] > 1 else ""  # channels of a layer that play several parts
        made.append(Gene(name, tuple(Choice(op, count=n) for n in gene.counts), 1, 1, 1))
    return Space(
        name=network.reference,
        channels=channels,
        resolution=size.height,
        width=size.width,
        classes=classes,
        stem_channels=1,
        stem_stride=1,
        head_channels=0,
        act="relu",
        genes=tuple(made),
        allowed=tuple(tuple(range(len(gene.choices))) for gene in made),
        init="given",
        model=network.reference,
        make=network.make,
    )


def require(space: Space, network: Network) -> None:
    """A UserError if the genes of a space are not those of the network, as those of a newer release can be."""
    expected = of(network)
    if space.genes != expected.genes:
        names = [gene.name for gene in expected.genes]
        other = next((gene.name for gene in space.genes if gene not in expected.genes), several(len(names), "gene"))
        raise UserError(f"space {space.name}: {space.model} is another network here: it has no such {other}")
