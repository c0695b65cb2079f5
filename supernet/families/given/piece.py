"""A layer of a given network at some of its widths, as a module of its own or as a slice of the shared one."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from supernet.families.given.channels import Along, Channels
from supernet.families.given.trace import BATCH, LAYER_NORMS, called_with
from supernet.norm import BatchNorm


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of a network's channels and kernels.

    Attributes:
        channels: of the whole network. labels: the classes of their atoms. mask: of each class, whether it is left.
        kernels: the sizes of those convolutions whose kernels are cut.
    """

    channels: Channels
    labels: np.ndarray
    mask: np.ndarray
    kernels: Mapping[str, int]

    def places(self, atoms: np.ndarray) -> np.ndarray:
        """For each place along an axis whether it is left."""
        return self.mask[self.labels[atoms]]

    def count(self, along: Along) -> int:
        """How many places along an axis are left."""
        return int(self.places(along.atoms).sum())

    def runs(self, name: str, tensor: Tensor) -> list[list[tuple[int, int]]]:
        """For each axis of a parameter or buffer, from where to where it is left; more than one run where there are
        several parts, as after a concatenation.
        """
        axes = self.channels.weights.get(name, {})
        found = []
        for axis, size in enumerate(tensor.shape):
            places = self.places(axes[axis]) if axis in axes else None
            found.append([(0, size)] if places is None or places.all() else _runs(places))
        kernel = self.kernels.get(name.rpartition(".")[0])
        if kernel is not None and tensor.ndim == 4:
            start = (tensor.shape[-1] - kernel) // 2
            found[2:] = [[(start, start + kernel)]] * 2
        return found

    def sizes(self, name: str, tensor: Tensor) -> list[int]:
        """Of what is left of a parameter or buffer of the whole network."""
        return [sum(end - start for start, end in runs) for runs in self.runs(name, tensor)]

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a parameter or buffer of the whole network."""
        for axis, runs in enumerate(self.runs(name, tensor)):
            if runs != [(0, tensor.shape[axis])]:
                tensor = torch.cat([tensor.narrow(axis, start, end - start) for start, end in runs], axis)
        return tensor

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of what a node gives for one image, without the batch."""
        shape, of = list(node.meta["value"].shape), self.channels.of[node]
        if isinstance(of, Along):
            shape[of.axis] = self.count(of)
        return tuple(shape[1:])

    def narrow(self, module: nn.Module, name: str) -> nn.Module:
        """The module with the sizes of what is left; its tensors are still to be set, as attributes."""
        own = copy.copy(module)
        own.__dict__ = {**vars(module), "_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
        sizes = {
            key: [sum(e - s for s, e in runs) for runs in self.runs(f"{name}.{key}", t)] for key, t in tensors(own)
        }
        if isinstance(own, nn.Conv2d):
            out, into, kernel, _ = sizes["weight"]
            own.groups = own.groups if own.groups == 1 else own.groups * out // own.out_channels
            own.out_channels, own.in_channels = out, into * own.groups
            if name in self.kernels:
                if isinstance(own.padding, tuple) and own.padding[0]:
                    own.padding = (kernel // 2, kernel // 2)
                own.kernel_size = (kernel, kernel)
                own._reversed_padding_repeated_twice = [kernel // 2] * 4  # of padding that is no zeros
        elif isinstance(own, nn.Linear):
            own.out_features, own.in_features = sizes["weight"]
        elif isinstance(own, BatchNorm):
            own.num_features = next(iter(sizes.values()))[0]
        elif isinstance(own, LAYER_NORMS) and sizes:
            own.normalized_shape = tuple(sizes["weight"])
        elif isinstance(own, nn.GroupNorm) and sizes:
            own.num_groups = max(own.num_groups * sizes["weight"][0] // own.num_channels, 1)
            own.num_channels = sizes["weight"][0]
        return own


def tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Its own parameters and buffers."""
    own = {**module._parameters, **module._buffers}
    return [(name, value) for name, value in own.items() if value is not None]


def _runs(places: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], places, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


@dataclass(frozen=True, eq=False)
class Step:
    """One operation: what ``function`` gives of its arguments gets the name ``result``.

    Attributes:
        drops: values that are not needed any more.
        branch: the name of what it adds to the input of a block; "" if it is no such sum.
    """

    result: str
    function: Callable[..., Any]
    args: tuple
    kwargs: dict
    drops: tuple[str, ...]
    branch: str = ""


class Named(str):
    """The name of a value, as an argument."""


def argument(step_args: Any, values: Mapping[str, Any]) -> Any:
    """Arguments with the values that names stand for."""
    if isinstance(step_args, Named):
        return values[step_args]
    if isinstance(step_args, (tuple, list)):
        return type(step_args)(argument(one, values) for one in step_args)
    if isinstance(step_args, dict):
        return {key: argument(one, values) for key, one in step_args.items()}
    if isinstance(step_args, slice):
        return slice(*(argument(one, values) for one in (step_args.start, step_args.stop, step_args.step)))
    return step_args


def steps(unit: Any, names: Mapping[fx.Node, str], kept: Kept) -> Iterator[Step]:
    """The operations of a layer for what is left of the channels: constants that count channels become what is left."""
    last: dict[str, int] = {}
    for place, node in enumerate(unit.nodes):
        for source in node.all_input_nodes:
            last[_name(source, names)] = place
    for place, node in enumerate(unit.nodes):
        function, args, kwargs = _rewritten(node, kept)
        args, kwargs = fx.node.map_arg((args, kwargs), lambda source: Named(_name(source, names)))
        result = names[node]
        drops = [name for name, end in last.items() if end == place and name not in (*unit.writes, result)]
        branch = unit.block.added.get(node) if unit.block else None
        branch = "" if branch is None else _name(branch, names)
        yield Step(result, function, tuple(args), dict(kwargs), tuple(drops), branch)


def _name(node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    return f"{PARAMETER}{node.target}" if node.op == "get_attr" else names[node]


PARAMETER = "parameter "


def _rewritten(node: fx.Node, kept: Kept) -> tuple[Any, tuple, dict]:
    """Function (the name of a module is left to the caller), arguments and keyword arguments of a node."""
    args: list[Any] = list(node.args)
    kwargs: dict[str, Any] = dict(node.kwargs)
    if node.op == "call_module":
        return str(node.target), tuple(args), kwargs
    function = _method(str(node.target).rstrip("_")) if node.op == "call_method" else _out_of_place(node.target)
    name = function.__name__
    if "inplace" in kwargs:
        kwargs["inplace"] = False
    source: Any = next(iter(node.all_input_nodes), None)
    before, after = (kept.channels.of.get(n) if n is not None else None for n in (source, node))
    if name in ("view", "reshape", "expand") and isinstance(node.meta["value"], Tensor):
        given = args[1:] or [kwargs.get("shape", kwargs.get("size"))]
        sizes: list[Any] = list(given[0] if isinstance(given[0], (tuple, list)) else given)
        if isinstance(sizes[0], fx.Node) and isinstance(sizes[0].meta["value"], tuple):  # a shape that is computed
            sizes = [-1, *node.meta["value"].shape[1:]]
        for axis, whole in enumerate(node.meta["value"].shape):
            left = kept.count(after) if isinstance(after, Along) and axis == after.axis else whole
            if left != whole and sizes[axis] != -1:
                sizes[axis] = left
            elif isinstance(sizes[axis], fx.Node) and axis and whole % BATCH and _counts(sizes[axis], kept.channels):
                sizes[axis] = whole  # what is cut is counted, for what is not
        return function, (source, tuple(sizes)), {}
    elif name == "_assert" and isinstance(args[0], fx.Node) and _counts(args[0], kept.channels):
        args[0] = True  # it held for the whole
    elif name == "unflatten" and isinstance(after, Along):
        dim, parts = called_with(node, 1, "dim") % source.meta["value"].ndim, list(called_with(node, 2, "sizes"))
        if dim <= after.axis < dim + len(parts):
            parts[after.axis - dim] = kept.count(after)
        return torch.unflatten, (source, dim, tuple(parts)), {}
    elif name in ("split", "chunk", "tensor_split") and isinstance(before, Along) and isinstance(after, list):
        dim = called_with(node, 2, "dim", 0) % source.meta["value"].ndim
        if dim == before.axis:
            lengths = [value.shape[dim] for value in node.meta["value"]]
            sizes = [kept.count(of) if of is not None else size for of, size in zip(after, lengths, strict=True)]
            return torch.split, (source, sizes, dim), {}
    elif name == "getitem" and isinstance(before, Along):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        args[1] = _sliced(index, kept, before, source.meta["value"].ndim)
    elif (
        name == "narrow"
        and isinstance(before, Along)
        and called_with(node, 1, "dim") % source.meta["value"].ndim == before.axis
    ):
        places, start = kept.places(before.atoms), _whole(called_with(node, 2, "start"))
        start, end = start % len(places), start % len(places) + _whole(called_with(node, 3, "length"))
        return torch.narrow, (source, before.axis, int(places[:start].sum()), int(places[start:end].sum())), {}
    return function, tuple(args), kwargs


def _counts(number: fx.Node, channels: Channels) -> bool:
    """Whether a number comes from how many channels there are, not only from other sizes of images."""
    for source in number.all_input_nodes:
        value = source.meta["value"]
        if not isinstance(value, (Tensor, torch.Size)):
            if _counts(source, channels):
                return True
            continue
        tensor = source if isinstance(value, Tensor) else source.all_input_nodes[0]
        of, axis = channels.of[tensor], number.args[1] if len(number.args) > 1 else None
        if not isinstance(axis, int) or (isinstance(of, Along) and axis % tensor.meta["value"].ndim == of.axis):
            return True
    return False


def _sliced(index: tuple, kept: Kept, before: Along, ndim: int) -> tuple:
    """An index whose slice or list of the channels selects what is left of them."""
    found: list[Any] = []
    axis, places = 0, kept.places(before.atoms)
    numbers = np.cumsum(places) - 1  # of what is left
    for one in index:
        if one is Ellipsis:
            axis = ndim - sum(i is not None for i in index[len(found) + 1 :])
        elif one is not None:
            if axis == before.axis and isinstance(one, slice):
                one = slice(*map(_whole, (one.start, one.stop, one.step)))
            if axis == before.axis and isinstance(one, slice) and one.step in (None, 1):
                start, stop, _step = one.indices(len(places))
                one = slice(int(places[:start].sum()), int(places[:stop].sum()), one.step)
            elif axis == before.axis and isinstance(one, (slice, list)):
                wanted = range(len(places))[one] if isinstance(one, slice) else one
                one = [int(numbers[i]) for i in wanted if places[i]]
            axis += 1
        found.append(one)
    return tuple(found)


def _whole(number: Any) -> Any:
    """What a number that the network's code computes is in the whole network."""
    return number.meta["value"] if isinstance(number, fx.Node) else number


def _out_of_place(function: Any) -> Any:
    """The same function of new memory: what a layer gets may be needed by another architecture, too."""
    name = getattr(function, "__name__", "")
    if getattr(operator, name, None) is function and name.startswith("i") and hasattr(operator, name[1:]):
        return getattr(operator, name[1:])
    return getattr(torch, name.rstrip("_"), function) if name.endswith("_") and not name.endswith("__") else function


def _method(name: str) -> _Method:
    """A method; ``view`` of images in channels_last copies as ``reshape`` does."""
    return _Method("reshape" if name == "view" else name)


class _Method:
    """A method of a tensor as a function."""

    def __init__(self, name: str):
        self.__name__ = name

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, self.__name__)(*args, **kwargs)


def run(
    steps: Sequence[Step],
    modules: Mapping[str, nn.Module],
    values: dict[str, Any],
    writes: Sequence[str],
    drop_path: float = 0.0,
) -> Any:
    """The values named ``writes``, alone if there is one.

    Args:
        drop_path: the probability, for each image, that a block adds nothing to its input.
    """
    for step in steps:
        function = modules[step.function] if isinstance(step.function, str) else step.function
        if drop_path and step.branch:
            values[step.result] = _dropped(step, function, values, drop_path)
        else:
            values[step.result] = function(*argument(step.args, values), **argument(step.kwargs, values))
        for name in step.drops:
            values.pop(name, None)
    found = tuple(values[name] for name in writes)
    return found if len(found) > 1 else found[0]


def _dropped(step: Step, function: Any, values: Mapping[str, Any], rate: float) -> Any:
    """A sum whose branch is nothing for some images."""
    from torchvision.ops import stochastic_depth  # seconds to import

    if step.branch in values:
        values = {**values, step.branch: stochastic_depth(values[step.branch], rate, "row")}
        return function(*argument(step.args, values), **argument(step.kwargs, values))
    (x,) = argument(step.args, values)  # one operator makes the branch and adds it
    return x + stochastic_depth(function.branch(x), rate, "row")
