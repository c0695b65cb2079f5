"""The layers of a given network: its graph, cut before each convolution and linear layer and around each block.

What a layer hands on is a tensor, or several where others are still needed: a shortcut, the features of a dense block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from supernet.families.given.genes import Block
from supernet.families.given.trace import attribute, linear_arguments

PRODUCTS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer.

    Attributes:
        nodes: what it runs, in order.
        reads, writes: the names of the values that it gets and hands on, the images or logits alone if it is the first
            or the last. A block hands its result on by the name of its input, so that the next layer finds it there
            whether the block runs or not.
        block: the block that it is part of, if that can be left out.
    """

    nodes: tuple[fx.Node, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    block: Block | None

    @property
    def begins(self) -> fx.Node:
        """What its first operation gets, of several the largest: another may be the gate of a squeeze-excite."""
        outside = (
            [s for s in node.all_input_nodes if s.op != "get_attr" and s not in self.nodes and _image(s)]
            for node in self.nodes
        )
        first = next(filter(None, outside), list(self.nodes[:1]))
        return max(first, key=lambda node: node.meta["value"].numel())

    @property
    def ends(self) -> fx.Node:
        """Its last operation that gives an image or vectors; sizes may be checked after it."""
        return next(node for node in reversed(self.nodes) if _image(node))

    def tensors(self, graph: fx.GraphModule) -> Iterator[str]:
        """The names of what it runs that has parameters or statistics, and of the parameters that its functions use."""
        for node in self.nodes:
            if node.op == "call_module":
                module = graph.get_submodule(str(node.target))
                yield from (str(node.target) for _ in [*module.parameters(), *module.buffers()][:1])
            sources = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
            yield from (name for name in sources if isinstance(attribute(graph, name), nn.Parameter))


def cut(graph: fx.GraphModule, blocks: Sequence[Block]) -> tuple[list[Unit], dict[fx.Node, str]]:
    """The layers in order, and the name of what each node gives."""
    nodes = [node for node in graph.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    (images,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    member = {node: block for block in blocks for node in block.nodes}
    names = {node: node.name for node in [images, *nodes]}
    for block in sorted(blocks, key=lambda block: nodes.index(block.nodes[0])):
        names[block.result] = names[block.source]
    last_use = {node: max((nodes.index(u) for u in node.users if u in names), default=len(nodes)) for node in names}
    for node in names:  # the output reads what it gives at the end
        if any(user.op == "output" for user in node.users):
            last_use[node] = len(nodes)

    def live(place: int) -> list[fx.Node]:
        """What is known before node ``place`` and needed from there on."""
        known = [images, *nodes[:place]]
        return [node for node in known if last_use[node] >= place and node.users]

    def may_cut(place: int) -> bool:
        """Only tensors are handed on."""
        return all(isinstance(node.meta["value"], Tensor) for node in live(place))

    starts = [0]
    for place, node in enumerate(nodes[1:], 1):
        edge = member.get(node) is not member.get(nodes[place - 1])
        begun = any(weight(graph, n) for n in nodes[starts[-1] : place])
        if (edge or (weight(graph, node) and begun)) and may_cut(place):
            starts.append(place)
    units = []
    for start, end in zip(starts, [*starts[1:], len(nodes)], strict=False):
        reads, writes = ([*dict.fromkeys(names[node] for node in live(place))] for place in (start, end))
        units.append(Unit(tuple(nodes[start:end]), tuple(reads), tuple(writes), member.get(nodes[start])))
    return units, names


def weight(graph: fx.GraphModule, node: fx.Node) -> str | None:
    """The name of the weights of a convolution or a linear layer, which can be a function of parameters."""
    if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), PRODUCTS):
        return f"{node.target}.weight"
    if node.target is nn.functional.linear and (own := linear_arguments(node)[1]).op == "get_attr":
        return str(own.target)
    return None


def _image(node: fx.Node) -> bool:
    """Whether a node gives a tensor of several axes."""
    return isinstance(node.meta["value"], Tensor) and node.meta["value"].ndim > 1
