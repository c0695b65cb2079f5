"""A network as a graph of operations, with what each of them gives for one image."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import traceback
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from supernet.errors import UserError
from supernet.families.given import attention
from supernet.size import Size

# WHOLE stand for themselves, subclasses too: the sizes of their weights follow from their channels.
LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
WHOLE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm, *LAYER_NORMS)


class Pieces(fx.Proxy):
    """What a tensor is cut into, as often as the call says: code may go through them."""

    def __len__(self) -> int:
        return called_with(self.node, 1, "chunks")

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]


class Tracer(fx.Tracer):
    """Goes into modules, but not into those of torch and those that timm says cannot be traced.

    Args:
        followed: buffers of which the graph has what code computes with them, not its result.

    Attributes:
        read: the buffers that code took out of a module.
    """

    record_stack_traces = True

    def __init__(self, followed: Collection[Tensor] = ()) -> None:
        from timm.models import _features_fx as known
        from timm.models.nfnet import NormFreeBlock

        functions = tuple(known.get_notrace_functions())
        super().__init__(autowrap_functions=functions)
        # timm's reason against that one is what it does in place, which ``_out_of_place`` mends
        self.opaque = tuple(module for module in known.get_notrace_modules() if module is not NormFreeBlock)
        self.opened: nn.Module | None = None
        self.followed, self.read = {*followed}, set[Tensor]()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if type(attr_val) is Tensor:
            self.read.add(attr_val)
            self.proxy_buffer_attributes = attr_val in self.followed
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        cut = node.target in ("chunk", torch.chunk) and isinstance(called_with(node, 1, "chunks"), int)
        return Pieces(node, self) if cut else super().proxy(node)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, (*WHOLE, *self.opaque)) or super().is_leaf_module(m, module_qualified_name)
        return known and m is not self.opened

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if isinstance(m, nn.MultiheadAttention) and attention.opens(m, *args, **kwargs):
            self.opened, forward = m, functools.partial(attention.self_attention, m)
        return super().call_module(m, forward, args, kwargs)


def trace(model: nn.Module, channels: int, size: Size, name: str) -> fx.GraphModule:
    """The graph of a network. ``meta["value"]`` of each node is what it gives for a batch of ``BATCH`` images: tensors
    without data, numbers, or tuples of them.

    Raises:
        UserError: it cannot be traced, or does not run on such images.
    """
    try:
        with _images_alone(model):
            graph = _traced(model)
    except Exception as error:  # whatever its code does with a proxy
        raise UserError(f"{name} cannot be traced: {line(error)}") from error
    _out_of_place(graph)
    graph.meta[MEMBERS] = {
        name: [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
        for name, module in model.named_modules()
    }
    graph.meta[CONSTANTS] = _constants(graph, model)
    graph.to("meta")
    for name, value in graph.meta[CONSTANTS].items():
        setattr(graph, name, value.to("meta"))
    try:
        # What a module keeps for the next time can be copied; what its code makes has no data, too.
        with torch.no_grad(), torch.device("meta"):
            Values(graph).run(torch.zeros(BATCH, channels, *size, device="meta"))
    except Exception as error:
        raise UserError(f"{name} does not run on {channels}×{size} images: {line(error)}") from error
    return graph


def _traced(model: nn.Module) -> fx.GraphModule:
    """Traced again where a constant may come from a buffer that files of weights have."""
    tracer, stored = Tracer(), model.state_dict()
    graph = fx.GraphModule(model, tracer.trace(model))
    followed = {name: buffer for name, buffer in model.named_buffers() if name in stored and buffer in tracer.read}
    direct = followed.keys() <= {node.target for node in graph.graph.nodes}
    if followed and (not direct or _constants(graph, model)):
        graph = fx.GraphModule(model, Tracer(followed.values()).trace(model))
    return graph


def _out_of_place(graph: fx.GraphModule) -> None:
    """What a function changes in place is from there on what it gives, since layers run it on new memory."""
    before: set[fx.Node] = set()
    for node in graph.graph.nodes:
        before.add(node)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        called = node.op in ("call_function", "call_method") and isinstance(next(iter(node.args), None), fx.Node)
        if called and ((name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace") is True):
            node.args[0].replace_all_uses_with(node, lambda user: user not in before)


def _constants(graph: fx.GraphModule, model: nn.Module) -> dict[str, Tensor]:
    """Tensors that the network's code makes while it runs, by the names that the graph has for them."""
    known = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    names = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    return {name: attribute(graph, name) for name in names - known}


@contextlib.contextmanager
def _images_alone(model: nn.Module) -> Iterator[None]:
    """Only the images are an argument of ``model``; others, such as a mask, have their defaults."""
    cls = type(model)

    def forward(self: nn.Module, x: Any) -> Any:
        return cls.forward(self, x)

    # A tracer looks for functions that are not traced among the globals of this function.
    own = types.FunctionType(forward.__code__, cls.forward.__globals__, closure=forward.__closure__)
    model.__class__ = type(cls.__name__, (cls,), {"forward": own})
    try:
        yield
    finally:
        model.__class__ = cls


BATCH = 17  # images: a size that this number divides may count them
CONSTANTS, PRODUCTS = "constants", "products"
COUNTED = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)  # those of attention are no layer's
MEMBERS = "members"  # the names of the modules in each module: a traced graph has only those that run


class Values(fx.Interpreter):
    """Runs a graph without data and keeps what each node gives, and its multiply-adds for one image: ``PRODUCTS``."""

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            n.meta["value"] = super().run_node(n)
        n.meta[PRODUCTS] = multiply_adds(counter) // BATCH
        return n.meta["value"]


def multiply_adds(counter: FlopCounterMode) -> int:
    """Of all convolutions and linear layers that ran."""
    counts = counter.get_flop_counts().get("Global", {})
    return sum(counts.get(operator, 0) for operator in COUNTED) // 2


def attribute(graph: nn.Module, name: str) -> Any:
    """A parameter or buffer by its name."""
    owner, _, key = name.rpartition(".")
    return getattr(graph.get_submodule(owner), key)


def called_with(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """An argument of a function by its place or name; torch knows ``dim`` as ``axis``, too."""
    named = {"dim": node.kwargs.get("axis")} | node.kwargs
    given = node.args[place] if len(node.args) > place else named.get(name)
    return default if given is None else given


def linear_arguments(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None]:
    """What ``functional.linear`` is called with: input, weight, bias."""
    given: Any = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    return given["input"], given["weight"], given.get("bias")


def digest(graph: fx.GraphModule) -> str:
    """16 hex digits of what a traced network computes: its operations in order, their settings and arguments.

    Values of weights and constants are no part of it, nor are the names of what has no weights.
    """
    places = {node: f"%{i}" for i, node in enumerate(graph.graph.nodes)}
    lines = (
        f"{_operation(graph, node)} {map_arg((node.args, node.kwargs), places.__getitem__)}"
        for node in graph.graph.nodes
    )
    text = re.sub(r" at 0x[0-9a-f]+", "", "\n".join(lines))  # of functions among the arguments
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _operation(graph: fx.GraphModule, node: fx.Node) -> str:
    """What a node runs, in words."""
    if node.op == "get_attr":
        return f"{node.target} {tuple(attribute(graph, str(node.target)).shape)}"
    if node.op != "call_module":
        return getattr(node.target, "__name__", str(node.target))
    module = graph.get_submodule(str(node.target))
    weighted = any(True for _ in (*module.parameters(), *module.buffers()))
    parts = (f"{path} {_torchs(part)}({part.extra_repr()})" for path, part in module.named_modules())
    return f"{node.target if weighted else ''} {'; '.join(parts)}"


def _torchs(module: nn.Module) -> str:
    """The name of its class, of ours that of the class that it stands for."""
    return next(cls.__name__ for cls in type(module).__mro__ if not cls.__module__.startswith("supernet."))


def line(error: Exception) -> str:
    """What an error says, and the last line outside of torch that led to it, while tracing or in what is traced."""
    message, _, traced = str(error).partition("\n\nWhile executing")
    frames = [(f.filename, f.lineno, f.line) for f in traceback.extract_tb(error.__traceback__)]
    frames += re.findall(r'File "(.+)", line (\d+), in .+\n\s+(.+)', traced)
    frames = [frame for frame in frames if "/torch/" not in frame[0] and frame[0] != __file__]
    where = "{}, line {} ({}): ".format(frames[-1][0].rpartition("/")[2], *frames[-1][1:]) if frames else ""
    return where + " ".join(message.split())[:200]
