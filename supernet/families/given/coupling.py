"""What each operation of a network does to atoms: which it makes, moves and ties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from supernet.families.given import places
from supernet.families.given.channels import FIXED, OUTPUT, Along, Channels, along_of, numbers_of
from supernet.families.given.trace import BATCH, LAYER_NORMS, attribute, called_with, linear_arguments
from supernet.norm import BatchNorm


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions and methods of tensors by their names; those that work in place have them without the underscore.
MOVES = _names(
    "view reshape permute transpose flatten squeeze unsqueeze expand contiguous chunk split getitem unbind narrow roll "
    "repeat tile repeat_interleave flip tensor_split clone detach to movedim swapaxes unflatten pixel_shuffle "
    "pixel_unshuffle channel_shuffle reshape_as view_as expand_as"
)
JOINS = _names("cat concat concatenate stack")
REDUCES = _names("mean sum amax amin norm vector_norm var std")
SPATIAL = _names("avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate pad boolean_dispatch")
ELEMENTWISE = _names(
    "add iadd sub isub mul imul truediv itruediv div pow neg maximum minimum where clamp relu relu6 leaky_relu silu "
    "gelu mish elu sigmoid hardtanh hardswish hardsigmoid tanh softplus exp log sqrt rsqrt abs square "
    "addcmul dropout drop_path stochastic_depth float type_as half "
    "normalize hard_swish hard_sigmoid hard_mish swish"
)
SHARES = _names("softmax log_softmax")
BATCHED = _names("matmul bmm scaled_dot_product_attention")
SHARE_MODULES = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
NORMS = (BatchNorm, nn.PReLU, nn.GroupNorm, *LAYER_NORMS)
MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)


def find(graph: fx.GraphModule) -> Channels:
    """The channels of a network that ``trace.trace`` has traced."""
    channels = Channels()
    walk = _Walk(graph, channels)
    for node in graph.graph.nodes:
        channels.of[node] = walk.visit(node)
    walk.settle()
    return channels


class _Walk:
    """What each node does to atoms."""

    def __init__(self, graph: fx.GraphModule, channels: Channels):
        self.graph, self.channels = graph, channels

    def visit(self, node: fx.Node) -> Any:
        """The atoms of what ``node`` gives."""
        if node.op == "output":
            self.give_up(node, OUTPUT)
            return None
        if node.op == "get_attr":
            return self.parameter(node)
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is None and not self.inputs(node):
            return None
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        name = str(name).strip("_") if module is None else type(module).__name__
        if places.matter(node, name, self.channels.of, module):
            self.give_up(node, f"{name} asks where each of them stands")
            return None
        if not (name in MOVES or name in JOINS or isinstance(module, MOVING_MODULES)):
            self.channels.changed += [along.atoms for along in self.inputs(node)]
        return self.function(node, name) if module is None else self.module(node, module)

    # Nodes and their values.

    def inputs(self, node: fx.Node) -> list[Along]:
        """The atoms of all inputs that have some."""
        found: list[Along] = []
        for source in node.all_input_nodes:
            of = self.channels.of[source]
            found += [of] if isinstance(of, Along) else [one for one in of or () if one is not None]
        return found

    def first(self, node: fx.Node) -> Along | None:
        """Of the first input, along one axis."""
        return self.channels.longest(of) if isinstance(of := self.channels.of[node.all_input_nodes[0]], Along) else None

    def give_up(self, node: fx.Node, reason: str) -> None:
        """Nothing that goes into ``node`` can be cut, and what it gives has no channels to cut."""
        for along in self.inputs(node):
            self.channels.keep(along.atoms, reason)

    def settle(self) -> None:
        """Each node's atoms along one axis: that along which they are not cut together."""
        labels = self.channels.labels()

        def settled(of: Along | None) -> Along | None:
            nonlocal labels
            if of is None or len(of.axes) == 1:
                return of
            own = labels[of.atoms]
            varying = [axis for i, axis in enumerate(of.axes) if (own != own.take([0], i)).any()]
            if len(varying) < 2:
                return of.first(varying[0] if varying else of.axes[-1])
            found = self.channels.longest(of)
            labels = self.channels.labels()
            return found

        for node, of in self.channels.of.items():
            self.channels.of[node] = [*map(settled, of)] if isinstance(of, list) else settled(of)

    # Kinds of nodes.

    def parameter(self, node: fx.Node) -> Along | None:
        """A parameter that a function uses has atoms along its last axis that is longer than 1, and so has a constant
        vector that is only concatenated, as the biases that some attention has for its queries and values alone.
        """
        value, name = node.meta["value"], str(node.target)
        long = [axis for axis, size in enumerate(value.shape) if size > 1]
        beside = value.ndim == 1 and value.is_floating_point() and all(user.target is torch.cat for user in node.users)
        if not long or not (beside or isinstance(attribute(self.graph, name), nn.Parameter)):
            return None
        atoms = self.channels.weights.setdefault(name, {}).get(long[-1])
        if atoms is None:
            atoms = self.channels.weights[name][long[-1]] = self.channels.fresh(value.shape[long[-1]])
        return Along((long[-1],), atoms)

    def module(self, node: fx.Node, module: nn.Module) -> Any:
        tensors = [source for source in node.all_input_nodes if isinstance(source.meta["value"], Tensor)]
        if len(tensors) != 1 or tensors != node.all_input_nodes:
            self.give_up(node, f"{node.target} is a {type(module).__name__} of several inputs")
            return None
        x, shape = self.channels.of[tensors[0]], tensors[0].meta["value"].shape
        if any("." in name for name in _tensors(module)):
            self.give_up(node, f"{node.target} is a {type(module).__name__}, which cannot be traced")
            return None
        if x is not None and (_tensors(module) or isinstance(module, NORMS)):
            if isinstance(module, LAYER_NORMS) and len(x.axes) > 1 and module.normalized_shape == shape[-1:]:
                return self.channels.only(x, x.without(len(shape) - 1))  # of each head
            x = self.channels.longest(x)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            axis = len(shape) - (3 if isinstance(module, nn.Conv2d) else 1)
            if x is not None and x.axis != axis:
                self.give_up(node, f"{node.target} gets them along another axis")
                x = None
            if isinstance(module, nn.Linear):
                return self.product(node, module, x, axis)
            return self.convolution(node, module, x)
        if x is None:
            return None
        if isinstance(module, SHARE_MODULES):
            return self.share(node, getattr(module, "dim", -3))
        if isinstance(module, NORMS):
            own = len(cast(Any, module).normalized_shape) if type(module) in LAYER_NORMS else 0  # of its axes
            place = x.axis - len(shape) + own if own else 0
            if place < 0:  # it normalises each of them for itself
                return x
            sizes = {tensor.shape[place] for tensor in _tensors(module).values() if tensor.ndim}
            if sizes and sizes <= {1, len(x.atoms)} and (x.axis == 1 or not isinstance(module, BatchNorm)):
                return self.norm(node, module, x, place)  # without weights the size of the whole is in its settings
        elif isinstance(module, MOVING_MODULES):
            return self.moved(node, module)
        elif not any(tensor.numel() > 1 for tensor in _tensors(module).values()):
            return self.spatial(node, x)
        self.give_up(node, f"{node.target} is a {type(module).__name__}, which has no rule")
        return None

    def convolution(self, node: fx.Node, conv: nn.Conv2d, x: Along | None) -> Along | None:
        """Dense, depthwise, or in groups, which are cut as a whole."""
        if conv.groups == 1:
            return self.product(node, conv, x, 1)
        if x is None:
            return None
        atoms = x.atoms.reshape(conv.groups, -1)
        self.channels.tie(atoms, atoms[:, :1])
        self.assign(node, conv, {0: (out := np.repeat(atoms[:, 0], conv.out_channels // conv.groups))})
        return Along((1,), out)

    def product(self, node: fx.Node, module: nn.Conv2d | nn.Linear, x: Along | None, axis: int) -> Along:
        """A dense layer makes new channels of all that it has."""
        out = self.made(str(node.target), len(module.weight))
        self.assign(node, module, {0: out} if x is None else {0: out, 1: x.atoms})
        return Along((axis,), out)

    def linear(self, node: fx.Node) -> Along | None:
        """A linear layer of parameters that the network's code takes out of a module."""
        source, weight, bias = linear_arguments(node)
        x, own, axis = self.channels.of[source], self.channels.of[weight], node.meta["value"].ndim - 1
        if weight.op != "get_attr" or own is None or own.axes != (1,) or (x is not None and x.axes != (axis,)):
            self.give_up(node, f"{node.name} is of another axis, or its weights are no parameter")
            return None
        self.channels.tie(own.atoms, np.array(FIXED) if x is None else x.atoms)
        name = str(weight.target)
        out = self.channels.weights[name][0] = self.made(name, len(weight.meta["value"]))
        if bias is not None:
            along = self.channels.of[bias]
            self.channels.tie(out, np.array(FIXED) if along is None else along.atoms)
        return Along((axis,), out)

    def made(self, name: str, count: int) -> np.ndarray:
        """The channels that a layer makes, the same each time that it runs."""
        if name not in self.channels.made:
            self.channels.made[name] = self.channels.fresh(count)
        return self.channels.made[name]

    def norm(self, node: fx.Node, module: nn.Module, x: Along, place: int) -> Along:
        if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
            atoms = x.atoms.reshape(module.num_groups, -1)
            self.channels.tie(atoms, atoms[:, :1])
        self.assign(node, module, {place: x.atoms})
        return x

    def assign(self, node: fx.Node, module: nn.Module, atoms: dict[int, np.ndarray]) -> None:
        """The tensors of a module have these atoms; where it runs a second time, the same as before."""
        for key, tensor in _tensors(module).items():
            own = {axis: along for axis, along in atoms.items() if axis < tensor.ndim and tensor.shape[axis] > 1}
            for axis, along in self.channels.weights.setdefault(f"{node.target}.{key}", own).items():
                self.channels.tie(along, own.get(axis, np.array(FIXED)))

    def function(self, node: fx.Node, name: str) -> Any:
        if name in JOINS:
            return self.joined(node, name)
        if name in MOVES:
            return self.moved(node, None)
        if name in REDUCES:
            return self.reduced(node)
        if name in SHARES:
            return self.share(node, called_with(node, 1, "dim"))
        if name in ELEMENTWISE:
            return self.elementwise(node)
        if name in BATCHED:
            return self.batched(node)
        if node.target is nn.functional.linear:
            return self.linear(node)
        if name in SPATIAL and (x := self.first(node)) is not None:
            return self.spatial(node, x)
        if isinstance(node.meta["value"], (Tensor, tuple, list)) and _has_tensor(node.meta["value"]):
            self.give_up(node, f"{name} has no rule")
        return None

    def spatial(self, node: fx.Node, x: Along) -> Along | None:
        """What changes the size of an image, or nothing, but no channels."""
        value = node.meta["value"]
        shape = value.shape if isinstance(value, Tensor) else ()
        if len(shape) > x.axes[-1] and x.atoms.shape == tuple(shape[axis] for axis in x.axes):
            return x
        self.give_up(node, f"{node.target if node.op == 'call_module' else node.name} changes the number of channels")
        return None

    def elementwise(self, node: fx.Node) -> Along | None:
        """Ties what is at the same place."""
        return self.tied(node, self.aligned(node))

    def share(self, node: fx.Node, dim: Any) -> Along | None:
        """A softmax: what lies along its axis sums to 1, so that none of it can go."""
        x, ndim = self.channels.of[node.all_input_nodes[0]], node.meta["value"].ndim
        last = all(user.op == "output" for user in node.users)
        reason = OUTPUT if last else f"{node.name} takes shares of all of them"
        if not isinstance(x, Along) or not isinstance(dim, int):
            self.give_up(node, reason)
            return None
        return self.channels.only(x, x.without(dim % ndim), reason)

    def batched(self, node: fx.Node) -> Along | None:
        """A product of matrices for each head of attention: all that goes into one of them is cut together."""
        whole, values = node.meta["value"].shape, [source.meta["value"] for source in node.all_input_nodes]
        alike = all(
            value.ndim <= len(whole)
            and all(n in (1, m) for n, m in zip(value.shape[-3::-1], whole[-3::-1], strict=False))
            for value in values
            if isinstance(value, Tensor)
        )
        heads = range(1, len(whole) - 2) if alike else ()  # before them are the images
        reason = f"{node.name} needs all of them"
        parts = [(size, of and self.channels.only(of, heads, reason)) for size, of in self.aligned(node)]
        found = self.tied(node, parts)
        if found is not None:
            path = [name for name, _ in (node.meta.get("nn_module_stack") or {}).values()]
            self.channels.heads.append((path[-1] if path else "", found.atoms))
        return found

    def aligned(self, node: fx.Node) -> list[tuple[Sequence[int], Along | None]]:
        """The sizes and the atoms of the tensors that go into a node, with as many axes as its result has."""
        ndim, found = node.meta["value"].ndim, []
        for source in node.all_input_nodes:
            value, of = source.meta["value"], self.channels.of[source]
            if isinstance(value, Tensor):
                more = ndim - value.ndim
                own = Along(tuple(axis + more for axis in of.axes), of.atoms) if isinstance(of, Along) else None
                found.append(((1,) * more + tuple(value.shape), own))
        return found

    def tied(self, node: fx.Node, parts: Sequence[tuple[Sequence[int], Along | None]]) -> Along | None:
        """The atoms of a result: those that ``parts``, as ``aligned`` gives them, have at the same place are cut
        together, or not at all where a part cannot be.
        """
        own = [of for _, of in parts if of is not None]
        whole = {
            axis
            for axis in {axis for of in own for axis in of.axes}
            if any(size[axis] > 1 and (of is None or axis not in of.axes) for size, of in parts)
        }
        reason = f"{node.name} combines them with what cannot be cut"
        found = [self.channels.only(of, of.without(*whole), reason) or self.channels.longest(of) for of in own]
        if not found:
            return None
        most = max(found, key=lambda of: (len(of.axes), of.atoms.size))
        if any(of.without(*most.axes) for of in found):
            self.give_up(node, f"{node.name} combines different axes")
            return None
        for of in found:
            lengths = dict(zip(of.axes, of.atoms.shape, strict=True))
            self.channels.tie(most.atoms, of.atoms.reshape([lengths.get(axis, 1) for axis in most.axes]))
        return most

    def reduced(self, node: fx.Node) -> Along | None:
        """Over other axes than that of the channels; over theirs, the others have none."""
        x, value, ndim = self.first(node), node.meta["value"], node.all_input_nodes[0].meta["value"].ndim
        dims = called_with(node, 2 if node.target in (torch.norm, torch.linalg.vector_norm, "norm") else 1, "dim")
        if x is None or dims is None:
            return None
        over = {dim % ndim for dim in ([dims] if isinstance(dims, int) else dims)}
        if x.axis in over:
            return None
        kept = value.ndim == ndim
        return Along((x.axis if kept else x.axis - sum(dim < x.axis for dim in over),), x.atoms)

    def joined(self, node: fx.Node, name: str) -> Along | None:
        """Concatenated along the channels, or along another axis, where they must agree."""
        sources: Any = node.args[0] if node.args else node.kwargs["tensors"]
        dim = called_with(node, 1, "dim", 0) % node.meta["value"].ndim
        if isinstance(sources, fx.Node):  # what was split before
            values, found = sources.meta["value"], self.channels.of[sources] or [None] * len(sources.meta["value"])
        else:
            values, found = [s.meta["value"] for s in sources], [self.channels.of[s] for s in sources]
        sizes = [list(value.shape) for value in values]
        own = [of if isinstance(of, Along) else None for of in found]
        if name == "stack":
            for size in sizes:
                size.insert(dim, 1)
            own = [of and Along(tuple(axis + (axis >= dim) for axis in of.axes), of.atoms) for of in own]
        elif all(of is None or of.axes == (dim,) for of in own):
            atoms = [np.full(size[dim], FIXED) if of is None else of.atoms for size, of in zip(sizes, own, strict=True)]
            return Along((dim,), np.concatenate(atoms))
        reason = f"{node.name} joins them along two axes"
        own = [of and self.channels.only(of, of.without(dim), reason) for of in own]
        return self.tied(node, list(zip(sizes, own, strict=True)))

    def moved(self, node: fx.Node, module: nn.Module | None) -> Any:
        """Run on the numbers of the atoms."""

        def numbers(source: fx.Node) -> Any:
            value, of = source.meta["value"], self.channels.of[source]
            if isinstance(value, (tuple, list)):
                return type(value)(map(numbers_of, value, of or [None] * len(value)))
            return numbers_of(value, of) if isinstance(value, Tensor) else value

        args, kwargs = fx.node.map_arg(cast(Any, (node.args, node.kwargs)), numbers)
        if module is not None:
            result = module(*args)
        elif node.target in ("contiguous", "to"):
            result = args[0]
        elif node.target == "view":
            result = args[0].reshape(node.meta["value"].shape)
        elif isinstance(node.target, str):
            result = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            result = node.target(*args, **kwargs)
        if isinstance(result, (tuple, list)):
            return [self.along(node, one) for one in result]
        found = self.along(node, result) if isinstance(result, Tensor) else None
        if str(node.target).endswith("_as"):  # the size is that of another tensor, whose channels go with these
            shape = node.meta["value"].shape
            return self.tied(node, [(shape, found), (shape, self.channels.of[node.all_input_nodes[-1]])])
        return found

    def along(self, node: fx.Node, numbers: Tensor) -> Along | None:
        """The axes along which the numbers differ, if a layer can be cut along these."""
        if numbers.dtype == torch.int32 and not numbers.ndim:
            self.give_up(node, f"{node.name} takes a single one")
            return None
        of = along_of(numbers)
        if of is not None and of.axes[0] == 0 and numbers.shape[0] % BATCH == 0:
            self.give_up(node, f"{node.name} moves them among the images")
            return None
        return of


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers, and those of its parts."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or any(isinstance(one, Tensor) for one in value)
