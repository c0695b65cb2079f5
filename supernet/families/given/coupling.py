"""What each operation of a network does to atoms: which it makes, moves and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from supernet.families.given.channels import FIXED, Along, Channels
from supernet.families.given.trace import BATCH, attribute


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions and methods of tensors by their names; those that work in place have them without the underscore.
MOVES = _names(
    "view reshape permute transpose flatten squeeze unsqueeze expand contiguous chunk split getitem unbind narrow roll "
    "repeat tile repeat_interleave flip tensor_split clone detach to movedim swapaxes unflatten pixel_shuffle "
    "pixel_unshuffle channel_shuffle"
)
JOINS = _names("cat concat stack")
REDUCES = _names("mean sum amax amin norm vector_norm var std")
SPATIAL = _names("avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate pad boolean_dispatch")
ELEMENTWISE = _names(
    "add iadd sub isub mul imul truediv itruediv div pow neg maximum minimum where clamp relu relu6 leaky_relu silu "
    "gelu mish elu sigmoid hardtanh hardswish hardsigmoid tanh softplus exp log sqrt rsqrt abs square softmax "
    "addcmul log_softmax dropout drop_path stochastic_depth float type_as half "
    "normalize hard_swish hard_sigmoid hard_mish swish"
)
MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)


def find(graph: fx.GraphModule) -> Channels:
    """The channels of a network that ``trace.trace`` has traced."""
    channels = Channels()
    walk = _Walk(graph, channels)
    for node in graph.graph.nodes:
        channels.of[node] = walk.visit(node)
    return channels


class _Walk:
    """What each node does to atoms."""

    def __init__(self, graph: fx.GraphModule, channels: Channels):
        self.graph, self.channels = graph, channels

    def visit(self, node: fx.Node) -> Any:
        """The atoms of what ``node`` gives."""
        if node.op == "output":
            for along in self.inputs(node):
                self.channels.keep(along.atoms, "they are the network's output")
            return None
        if node.op == "get_attr":
            return self.parameter(node)
        if node.op == "call_module":
            return self.module(node, self.graph.get_submodule(str(node.target)))
        if not self.inputs(node):
            return None
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return self.function(node, str(name).strip("_"))

    # Nodes and their values.

    def inputs(self, node: fx.Node) -> list[Along]:
        """The atoms of all inputs that have some."""
        found: list[Along] = []
        for source in node.all_input_nodes:
            of = self.channels.of[source]
            found += [of] if isinstance(of, Along) else [one for one in of or () if one is not None]
        return found

    def first(self, node: fx.Node) -> Along | None:
        of = self.channels.of[node.all_input_nodes[0]]
        return of if isinstance(of, Along) else None

    def give_up(self, node: fx.Node, reason: str) -> None:
        """Nothing that goes into ``node`` can be cut, and what it gives has no channels to cut."""
        for along in self.inputs(node):
            self.channels.keep(along.atoms, reason)

    # Kinds of nodes.

    def parameter(self, node: fx.Node) -> Along | None:
        """A parameter that a function uses has atoms along its last axis that is longer than 1."""
        value, name = node.meta["value"], str(node.target)
        long = [axis for axis, size in enumerate(value.shape) if size > 1]
        if not long or not isinstance(attribute(self.graph, name), nn.Parameter):
            return None
        atoms = self.channels.weights.setdefault(name, {}).get(long[-1])
        if atoms is None:
            atoms = self.channels.weights[name][long[-1]] = self.channels.fresh(value.shape[long[-1]])
        return Along(long[-1], atoms)

    def module(self, node: fx.Node, module: nn.Module) -> Any:
        tensors = [source for source in node.all_input_nodes if isinstance(source.meta["value"], Tensor)]
        if len(tensors) != 1 or tensors != node.all_input_nodes:
            self.give_up(node, f"{node.target} is a {type(module).__name__} of several inputs")
            return None
        x, shape = self.first(node), tensors[0].meta["value"].shape
        if any("." in name for name in _tensors(module)):
            self.give_up(node, f"{node.target} is a {type(module).__name__}, which cannot be traced")
            return None
        if isinstance(module, nn.Conv2d):
            if x is None or x.axis == len(shape) - 3:
                return self.convolution(node, module, x)
        elif isinstance(module, nn.Linear):
            if x is None or x.axis == len(shape) - 1:
                return self.product(node, module, x, len(shape) - 1)
        elif x is None:
            return None
        elif isinstance(module, (nn.BatchNorm2d, nn.PReLU, nn.LayerNorm, nn.GroupNorm)):
            if all(len(tensor) in (1, len(x.atoms)) for tensor in _tensors(module).values() if tensor.ndim):
                return self.norm(node, module, x)
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
        return Along(1, out)

    def product(self, node: fx.Node, module: nn.Conv2d | nn.Linear, x: Along | None, axis: int) -> Along:
        """A dense layer makes new channels of all that it has."""
        name = str(node.target)
        if name not in self.channels.made:
            self.channels.made[name] = self.channels.fresh(len(module.weight))
        out = self.channels.made[name]
        self.assign(node, module, {0: out} if x is None else {0: out, 1: x.atoms})
        return Along(axis, out)

    def norm(self, node: fx.Node, module: nn.Module, x: Along) -> Along:
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        if groups > 1:
            atoms = x.atoms.reshape(groups, -1)
            self.channels.tie(atoms, atoms[:, :1])
        self.assign(node, module, {0: x.atoms})
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
        if name in ELEMENTWISE:
            return self.elementwise(node)
        x = self.first(node)
        if name in SPATIAL and x is not None:
            return self.spatial(node, x)
        if isinstance(node.meta["value"], (Tensor, tuple, list)) and _has_tensor(node.meta["value"]):
            self.give_up(node, f"{name} has no rule")
        return None

    def spatial(self, node: fx.Node, x: Along) -> Along | None:
        """What changes the size of an image, or nothing, but no channels."""
        value = node.meta["value"]
        if isinstance(value, Tensor) and value.ndim > x.axis and value.shape[x.axis] == len(x.atoms):
            return x
        self.give_up(node, f"{node.target} changes the number of channels")
        return None

    def elementwise(self, node: fx.Node) -> Along | None:
        value = node.meta["value"]
        found: Along | None = None
        for source in node.all_input_nodes:
            of = self.channels.of[source]
            if not isinstance(of, Along):
                continue
            own = Along(of.axis + value.ndim - source.meta["value"].ndim, of.atoms)
            if found is not None and own.axis != found.axis:
                self.give_up(node, f"{node.name} combines different axes")
                return None
            if found is not None:
                self.channels.tie(found.atoms, own.atoms)
            found = own if found is None or len(own.atoms) > len(found.atoms) else found
        assert found is not None
        for source in node.all_input_nodes:
            other = source.meta["value"]
            if not isinstance(self.channels.of[source], Along) and isinstance(other, Tensor):
                axis = found.axis - value.ndim + other.ndim
                if axis >= 0 and other.shape[axis] > 1:
                    self.channels.keep(found.atoms, f"{node.name} combines them with what cannot be cut")
        return found

    def reduced(self, node: fx.Node) -> Along | None:
        """Over other axes than that of the channels; over theirs, the others have none."""
        x = self.first(node)
        if x is None:
            return None
        ndim = node.all_input_nodes[0].meta["value"].ndim
        value = node.meta["value"]
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        if node.target in (torch.norm, torch.linalg.vector_norm) or node.target == "norm":
            dims = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else None)
        if dims is None:
            return None
        over = {dim % ndim for dim in ([dims] if isinstance(dims, int) else dims)}  # type: ignore[union-attr]
        if x.axis in over:
            return None
        kept = value.ndim == ndim
        return Along(x.axis if kept else x.axis - sum(dim < x.axis for dim in over), x.atoms)

    def joined(self, node: fx.Node, name: str) -> Along | None:
        """Concatenated along the channels, or along another axis, where they must agree."""
        parts, value = list(node.args[0]), node.meta["value"]  # type: ignore[arg-type]
        axis_of: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        dim = axis_of % value.ndim
        found = [of for part in parts if isinstance(of := self.channels.of[part], Along)]
        axis = found[0].axis
        if any(of.axis != axis for of in found):
            self.give_up(node, f"{node.name} joins different axes")
            return None
        if name != "stack" and dim == axis:
            atoms = [
                of.atoms if isinstance(of, Along) else np.full(part.meta["value"].shape[dim], FIXED)
                for part in parts
                for of in [self.channels.of[part]]
            ]
            return Along(axis, np.concatenate(atoms))
        for of in found[1:]:
            self.channels.tie(found[0].atoms, of.atoms)
        if len(found) < len(parts):
            self.channels.keep(found[0].atoms, f"{node.name} joins them with what cannot be cut")
        return Along(axis + (name == "stack" and dim <= axis), found[0].atoms)

    def moved(self, node: fx.Node, module: nn.Module | None) -> Any:
        """Run on the numbers of the atoms."""

        def numbers(source: fx.Node) -> Any:
            value, of = source.meta["value"], self.channels.of[source]
            if isinstance(value, (tuple, list)):
                return type(value)(map(_numbers, value, of or [None] * len(value)))
            return _numbers(value, of) if isinstance(value, Tensor) else value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), numbers)
        if module is not None:
            result = module(*args)
        elif node.target == "contiguous":
            result = args[0]
        elif isinstance(node.target, str):
            result = getattr(args[0], "reshape" if node.target == "view" else node.target)(*args[1:], **kwargs)
        else:
            result = node.target(*args, **kwargs)
        if isinstance(result, (tuple, list)):
            return [self.along(node, one) for one in result]
        return self.along(node, result) if isinstance(result, Tensor) else None

    def along(self, node: fx.Node, numbers: Tensor) -> Along | None:
        """The axis along which the numbers differ; if there are several, all but the longest are tied."""
        if numbers.dtype != torch.int32:
            return None
        if not numbers.ndim:
            self.give_up(node, f"{node.name} takes a single one")
            return None
        varying, shape = [], numbers.shape
        for axis, size in enumerate(shape):
            if (
                size > 1
                and numbers.stride(axis)
                and not torch.equal(numbers, numbers.narrow(axis, 0, 1).expand_as(numbers))
            ):
                varying.append(axis)
            else:
                numbers = numbers.narrow(axis, 0, 1)
        if not varying:
            atom = int(numbers.flatten()[0])
            axis = next((axis for axis, size in enumerate(shape) if axis and size > 1), len(shape) - 1)
            return None if atom == FIXED else Along(axis, np.full(shape[axis], atom))
        longest = max(varying, key=lambda axis: numbers.shape[axis])
        if longest == 0 and shape[0] % BATCH == 0:
            self.give_up(node, f"{node.name} moves them among the images")
            return None
        atoms = numbers.movedim(longest, 0).reshape(shape[longest], -1).numpy()
        self.channels.tie(atoms, atoms[:, :1])
        return Along(longest, atoms[:, 0].astype(np.int64))


def _numbers(value: Any, of: Along | None) -> Any:
    """A tensor of the shape of ``value`` that holds the number of an atom for each element."""
    if not isinstance(value, Tensor):
        return value
    if of is None:
        return torch.zeros(1, dtype=torch.int32).expand(value.shape)
    shape = [1] * value.ndim
    shape[of.axis] = -1
    return torch.from_numpy(of.atoms.astype(np.int32)).view(shape).expand(value.shape)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers, and those of its parts."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or any(isinstance(one, Tensor) for one in value)
