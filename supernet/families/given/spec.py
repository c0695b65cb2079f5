"""A layer of a given network as it is built, counted and timed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from supernet.families.given import trace, units
from supernet.families.given.layer import Alone
from supernet.families.given.modules import BatchNormAct
from supernet.families.given.piece import Kept, Named, argument, steps
from supernet.families.given.units import Unit
from supernet.size import Size
from supernet.spec import Conv, LayerSpec


@dataclass(frozen=True)
class Product(Conv):
    """A convolution, of any kernel, or whatever multiplies with weights."""

    products: int = 0

    @property
    def flops(self) -> int:
        return self.products


@dataclass(frozen=True, eq=False)
class GivenSpec(LayerSpec):
    """A layer of a given network as it is built, counted and timed.

    Attributes:
        place: of its unit among those of the network.
        counts: what its genes have, those of ``GivenLayout.deciding``.
        kept: what is left of the channels that it knows of.
    """

    layout: Any = field(kw_only=True)  # the GivenLayout that it belongs to
    place: int = field(kw_only=True)
    counts: tuple[int, ...] = field(kw_only=True)
    kept: Kept = field(kw_only=True)

    # There is one of each for a layout; what it has of a LayerSpec does not tell it from others.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        return self.layout.again, (self.layout.space, self.place, self.counts)

    @property
    def unit(self) -> Unit:
        return self.layout.network.units[self.place]

    @property
    def op(self) -> str:
        """The operations that it runs."""
        return "_".join(filter(None, (_word(node, self.layout.module(node)) for node in self.unit.nodes)))

    @cached_property
    def key(self) -> str:
        """The same for layers that run the same on tensors of the same shapes, wherever they stand."""
        own: dict[str, str] = {name: f"in{i}" for i, name in enumerate(self.uses)}
        text = []
        for step in steps(self.unit, self.layout.network.names, self.kept):
            target = step.function
            if isinstance(target, str):
                target = self.kept.narrow(self.layout.network.graph.get_submodule(target), target)
            for name in (*_named(step.args), *_named(step.kwargs), step.result):
                own.setdefault(name, f"v{len(own)}")
            args = argument((step.args, step.kwargs), {name: Named(short) for name, short in own.items()})
            text.append(f"{own[step.result]} = {getattr(target, '__name__', target)}{args}")
        before, after = (
            ",".join("x".join(map(str, self.shapes[name])) for name in names) for names in (self.uses, self.gives)
        )
        number = hashlib.sha256("\n".join([*text, before, after]).encode()).hexdigest()[:8]
        return f"{self.op}_k{self.kernel}_s{self.stride} {before}->{after} {number}"

    @cached_property
    def uses(self) -> tuple[str, ...]:
        """Those of the values that it reads that it uses itself, the one that it begins with first."""
        names = self.layout.network.names
        used = [names[s] for node in self.unit.nodes for s in node.all_input_nodes if s.op != "get_attr"]
        return tuple(name for name in dict.fromkeys(used) if name in self.unit.reads)

    @property
    def gives(self) -> tuple[str, ...]:
        """Those of the values that it hands on that are its own."""
        own = {self.layout.network.names[node] for node in self.unit.nodes}
        return tuple(name for name in self.unit.writes if name in own)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the values that it reads and hands on, for one image."""
        names, mine = self.layout.network.names, {*self.unit.reads, *self.unit.writes}
        return {name: self.kept.shape(node) for node, name in names.items() if name in mine}

    def measured(self, kernels: str) -> nn.Module:
        """The module whose latency is that of the layer."""
        return Alone(self, kernels)

    @property
    def joins(self) -> int:
        """How many layers one of our operators can run, of it and those that follow."""
        return self.layout.together.get(self.place, 1)

    @property
    def input_shape(self) -> Any:
        """Of the value that it begins with, an image or a vector."""
        return self.shapes[self.uses[0]]

    @property
    def out_size(self) -> Size:
        return self.layout.image(self.unit.ends, self.kept)[1]

    @cached_property
    def convs(self) -> dict[str, Conv]:
        """Convolutions and linear layers by their names; those in a function, or in a module that is not traced, by the
        name of the node.
        """
        found: dict[str, Conv] = {}
        for node in self.unit.nodes:
            module, name, graph = self.layout.module(node), str(node.target), self.layout.network.graph
            if weight := units.weight(graph, node):
                out, *each = self.kept.sizes(weight, trace.attribute(graph, weight))
                size, products = self.layout.image(node, self.kept)[1], math.prod((*self.kept.shape(node), *each))
                if module is not None:
                    found[name] = _product(self.kept.narrow(module, name), size, products)
                else:
                    bias = trace.linear_arguments(node)[2] is not None
                    found[weight] = Product(each[0], out, 1, size, norm=False, bias=bias, products=products)
            elif products := node.meta[trace.PRODUCTS]:  # they have no rule, so that they are whole
                found[node.name] = Product(1, 1, 1, Size.of(1), norm=False, products=products)
        return found

    @property
    def params(self) -> int:
        """All parameters, those of what is no convolution too."""
        return sum(math.prod(self.kept.sizes(name, tensor)) for name, tensor in self.parameters())

    def modules(self) -> list[tuple[str, nn.Module]]:
        """The modules of the given network that it runs, by their names there."""
        names = dict.fromkeys(str(node.target) for node in self.unit.nodes if node.op == "call_module")
        return [(name, self.layout.network.graph.get_submodule(name)) for name in names]

    def raw(self) -> list[tuple[str, Tensor]]:
        """The parameters and buffers that its functions use, by their names in the given network."""
        sources = (source for node in self.unit.nodes for source in node.all_input_nodes if source.op == "get_attr")
        names = dict.fromkeys(str(source.target) for source in sources)
        return [(name, trace.attribute(self.layout.network.graph, name)) for name in names]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that it uses, by their names in the given network."""
        yield from ((name, value) for name, value in self.raw() if isinstance(value, nn.Parameter))
        for name, module in self.modules():
            yield from ((f"{name}.{key}", value) for key, value in module.named_parameters())

    @property
    def activations(self) -> int:
        """Values in memory: all that it gets and all that it hands on."""
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        read = sum(sizes[name] for name in self.unit.reads)
        return read + sum(sizes[name] for name in self.unit.writes if name not in self.unit.reads)


def _word(node: fx.Node, module: nn.Module | None) -> str:
    """What a node does, in short; nothing if it only passes on what it gets."""
    if isinstance(module, nn.Conv2d):
        return "conv" if module.groups == 1 else "dwconv" if module.groups == module.in_channels else "groupconv"
    if isinstance(module, BatchNormAct):
        return "bn" if isinstance(module.act, nn.Identity) else f"bn_{type(module.act).__name__.lower()}"
    if isinstance(module, (nn.Identity, nn.Dropout)):
        return ""
    if module is not None:
        return "bn" if isinstance(module, nn.BatchNorm2d) else type(module).__name__.lower()
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "function").strip("_")


def _named(arguments: Any) -> Iterator[Named]:
    """The names in arguments."""
    if isinstance(arguments, Named):
        yield arguments
    elif isinstance(arguments, (tuple, list, dict)):
        for one in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from _named(one)


def _product(module: nn.Module, size: Size, products: int) -> Product:
    """A convolution or linear layer that gives images of this size."""
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    options: dict[str, Any] = {"norm": False, "bias": module.bias is not None, "products": products}
    if isinstance(module, nn.Linear):
        return Product(module.in_features, module.out_features, 1, size, **options)
    options |= {"stride": module.stride[0], "groups": module.groups}
    return Product(module.in_channels, module.out_channels, module.kernel_size[0], size, **options)
