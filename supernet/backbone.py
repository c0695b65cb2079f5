"""A network without its head, giving its feature maps: what detectors and segmentation are built on."""

from __future__ import annotations

import copy
import itertools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models import FeatureInfo
from torch import Tensor, fx
from torch.nn import functional as F

from supernet.errors import UserError
from supernet.families.given import trace
from supernet.families.given.units import PRODUCTS
from supernet.model import Network, load_network
from supernet.size import PIXEL, Size
from supernet.spec import Block

LARGE = Size(512, 640)  # images whose feature maps show their strides, and which axes they have
SKEW = 1.15  # by how much the strides along the two axes may differ, as without padding
EXPANDS = 2  # a block has at most so many convolutions before the one with a stride


class Backbone(fx.GraphModule):
    """Images ``[B, C, H, W]`` to a list of feature maps, as timm's networks with ``features_only``.

    Its modules are torch's alone, with the names that ``Network.plain`` gives them.

    Attributes:
        feature_info: timm's: ``channels()`` and ``reduction()`` of what is given, in the same order.
    """

    feature_info: FeatureInfo
    _head: frozenset[str]  # names of what is left out

    def __init__(self, root: fx.GraphModule, graph: fx.Graph, feature_info: FeatureInfo):
        super().__init__(root, graph, "Backbone")
        self.feature_info = feature_info
        self._head = frozenset(root.state_dict()) - frozenset(self.state_dict())

    def __deepcopy__(self, memo: dict) -> Backbone:
        own: Any = super().__deepcopy__(memo)
        own.feature_info, own._head = self.feature_info, self._head
        return own

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Also that of the whole network: its head is left out."""
        own = {name: value for name, value in state_dict.items() if name not in self._head}
        return super().load_state_dict(own, strict, assign)


def load_backbone(
    folder: str | Path,
    out_indices: int | Sequence[int] | None = None,
    operations: Sequence[type[Block]] = (),
    make: Callable[..., Any] | None = None,
) -> Backbone:
    """The feature maps of the network that was trained alone in ``folder``, in eval mode.

    Args:
        out_indices: which feature maps, counted from the largest one, as ``timm.create_model`` takes them; None: all.
        operations, make: as ``load_network`` takes them.

    Raises:
        CheckpointError: there is no network, or its files are damaged.
        UserError: it has no feature maps, or not those.
    """
    return backbone(load_network(folder, operations=operations, make=make), out_indices)


def backbone(network: Network, out_indices: int | Sequence[int] | None = None) -> Backbone:
    """The feature maps of an eager network, with copies of its weights.

    There is one for each stride: the last value with this stride that goes into the next block, or into the head; of a
    given network the head begins with the pooling.

    Args:
        out_indices: as ``load_backbone`` takes them.

    Raises:
        UserError: it has no feature maps, or not those.
    """
    module = network.plain()
    layers = () if network.space.model else tuple(network.named_path())
    found = _Maps(module, _run(module, network.input_shape), layers).find()
    if not found:
        raise UserError(f"a network of {network.space.name} has no feature maps: expected one of convolutions")
    indices = range(len(found))[-out_indices:] if isinstance(out_indices, int) else out_indices
    try:
        places = [range(len(found))[i] for i in (range(len(found)) if indices is None else indices)]
    except IndexError as error:
        raise UserError(
            f"out_indices {out_indices}: the network has {len(found)} feature maps, of strides "
            f"{', '.join(str(feature.reduction) for feature in found)}"
        ) from error
    info = [
        {"num_chs": feature.channels, "reduction": feature.reduction, "module": _name(feature.node)}
        for feature in found
    ]
    return Backbone(module, _cut(module, [found[i].node for i in places]), FeatureInfo(info, tuple(places)))


def _cut(module: fx.GraphModule, features: Sequence[fx.Node]) -> fx.Graph:
    """The part of a graph that gives these values, which nothing writes to."""
    graph = module.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = (list(features),)
    for node in reversed([*graph.nodes]):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    for node in graph.nodes:
        if node.op == "call_module" and not {*features}.isdisjoint(node.all_input_nodes):
            part: Any = module.get_submodule(str(node.target))
            if getattr(part, "inplace", False):
                part.inplace = False
    return graph


class _Feature(NamedTuple):
    node: fx.Node
    channels: int
    reduction: int


def _name(node: fx.Node) -> str:
    """The module that gives a feature map, or what the graph calls its value."""
    return str(node.target) if node.op == "call_module" else node.name


class _Maps:
    """Finds the feature maps in a graph whose nodes have their values for images of a size.

    Args:
        layers: the modules that are blocks, where that is known; the last one is the head.
    """

    def __init__(self, module: fx.GraphModule, size: Size, layers: Sequence[str]):
        self.layers, self.nodes = layers, list(module.graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        modules = dict(module.named_modules())
        self.products = [
            i
            for i, node in enumerate(self.nodes)
            if node.op == "call_module" and isinstance(modules[str(node.target)], PRODUCTS)
        ]
        end = self.begin(layers[-1]) if layers else self.products[-1]  # what gives the logits is no feature map
        self.chain = [node for node in self.images(size) if self.place[node] < end]

    def images(self, size: Size) -> Iterator[fx.Node]:
        """The images that all later values follow from, in order."""
        live: set[fx.Node] = set()
        for i, node in enumerate(self.nodes):
            value = node.meta["value"]
            if isinstance(value, (Tensor, tuple, list)) and not isinstance(value, torch.Size) and node.op != "get_attr":
                live.add(node)
            live = {known for known in live if any(self.place[user] > i for user in known.users)}
            if live == {node} and isinstance(value, Tensor) and value.ndim == 4 and node.target is not F.pad:
                strides = [whole / own for whole, own in zip(size, value.shape[2:], strict=True)]
                if max(strides) <= SKEW * min(strides):
                    yield node

    def find(self) -> list[_Feature]:
        """From the largest on; none if most of the products are of no images."""
        found, reduction = [], 1
        for one, other in itertools.pairwise(self.chain):
            times = round(one.meta["value"].shape[2] / other.meta["value"].shape[2])
            if times < 2:
                continue
            strided = [i for i in self.products if self.place[one] < i <= self.place[other]]
            if not strided and other.meta["value"].shape[2:] == PIXEL:  # the pooling before the head
                self.chain = self.chain[: self.chain.index(other)]
                break
            found.append((self.into_block(one, strided) if strided else one, reduction))
            reduction *= times
        found.append((self.chain[-1], reduction))
        if 2 * sum(i < self.place[self.chain[-1]] for i in self.products) < len(self.products):
            return []
        return [_Feature(node, node.meta["value"].shape[1], stride) for node, stride in found if stride > 1]

    def into_block(self, before: fx.Node, strided: Sequence[int]) -> fx.Node:
        """The value that goes into the block of some products with a stride, or ``before`` these if they are in none.

        Where blocks are not known, it is the innermost module that has other products too, few of them before.
        """
        inner = posixpath.commonpath([str(self.nodes[i].target).replace(".", "/") for i in strided]).split("/")
        for depth in range(len(inner), 0, -1):
            block = ".".join(inner[:depth])
            own = [i for i in self.products if self.within(i, block)]
            if block in self.layers or (not self.layers and len(own) > 1):
                enters = [node for node in self.chain if self.place[node] < self.begin(block)][-1]
                same = enters.meta["value"].shape[2:] == before.meta["value"].shape[2:]
                return enters if same and sum(i < strided[0] for i in own) <= EXPANDS else before
        return before

    def within(self, i: int, block: str) -> bool:
        return f"{self.nodes[i].target}.".startswith(f"{block}.")

    def begin(self, block: str) -> int:
        """Where a module begins to run."""
        return next(i for i in range(len(self.nodes)) if self.within(i, block))


def _run(module: fx.GraphModule, shape: tuple[int, int, int]) -> Size:
    """Give each node its value, without data, for large images, or for those of the network if it takes no others."""
    empty = copy.deepcopy(module).to("meta")
    for size in (LARGE, Size(*shape[1:])):
        try:
            trace.Values(empty).run(torch.zeros(2, shape[0], *size, device="meta"))
            break
        except (RuntimeError, AssertionError):
            continue
    for node, known in zip(module.graph.nodes, empty.graph.nodes, strict=True):
        node.meta["value"] = known.meta["value"]
    return size
