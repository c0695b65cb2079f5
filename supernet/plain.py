"""A network as modules of ``torch.nn`` and functions of torch alone, for programs without this library."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from supernet.convolution import Conv2d
from supernet.errors import UserError
from supernet.families.given import layer, trace
from supernet.families.given.modules import BatchNormAct, SameConv2d
from supernet.norm import BatchNorm, BatchNorm1d

# Our modules of parameters, and what torch has in their place.
PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Conv2d: nn.Conv2d,
    SameConv2d: nn.Conv2d,
    BatchNorm: nn.BatchNorm2d,
    BatchNorm1d: nn.BatchNorm1d,
    BatchNormAct: nn.BatchNorm2d,
}
LIBRARIES = ("torch", "_operator", "builtins")


def plain(modules: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Modules that run one after the other as one module of torch's, with copies of their weights.

    Parameters of a given network have the names that they had there; others begin with that of their module here.

    Args:
        modules: eager ones by their names, in order.

    Raises:
        UserError: what they run cannot be written with torch alone.
    """
    if any(getattr(module, "kernels", "eager") != "eager" for part in modules.values() for module in part.modules()):
        raise ValueError("expected an eager network")
    training = next(iter(modules.values())).training
    path = copy.deepcopy(
        nn.ModuleList(modules.values())
    ).eval()  # functions that differ in training are as in eval mode
    root, tracer = _Path(path), _Tracer()
    for name, module in zip(modules, path, strict=True):
        for place, part in module.given() if isinstance(module, layer.Layer) else [(name, module)]:
            _put(root, place, part)
            if isinstance(part, nn.Module):
                tracer.names |= {m: f"{place}.{inner}".rstrip(".") for inner, m in part.named_modules()}
    try:
        graph = tracer.trace(root)
    except UserError:
        raise
    except Exception as error:  # whatever code does with a proxy
        raise UserError(f"the network cannot be written with torch alone: {trace.line(error)}") from error
    for node in graph.nodes:
        if node.op == "call_function":
            library = (getattr(node.target, "__module__", None) or "torch").split(".")[0]
            if library not in LIBRARIES:
                raise UserError(
                    f"the network cannot be written with torch alone: it runs {node.target.__name__} of {library}"
                )
    for module in root.modules():
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
            vars(module).pop("ran", None)
    return fx.GraphModule(root, graph, "Network").train(training)


class _Path(nn.Module):
    """Modules that run one after the other; their parts are under names of their own."""

    def __init__(self, path: Iterable[nn.Module]):
        super().__init__()
        self._in_order = tuple(path)  # not registered

    def forward(self, x: Any) -> Any:
        for module in self._in_order:
            x = module(x)
        return x


def _put(root: nn.Module, name: str, part: nn.Module | Tensor) -> None:
    """Give a module, a parameter or a buffer its place; where there is one, it must be the same."""
    *above, key = name.split(".")
    owner = root
    for one in above:
        if one not in owner._modules:
            owner.add_module(one, nn.Module())
        owner = owner.get_submodule(one)
    if isinstance(part, nn.Module):
        known = owner._modules.get(key)
        if known is not None and not _same(known, part):
            raise UserError(f"the network cannot be written with torch alone: {name} has several weights")
        owner.add_module(key, known or part)
    elif isinstance(part, nn.Parameter):
        owner.register_parameter(key, part)
    else:
        owner.register_buffer(key, part)


def _same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


class _Tracer(fx.Tracer):
    """Goes into all modules that are not torch's."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[nn.Module, str] = {}

    def path_of_module(self, mod: nn.Module) -> str:
        return self.names.get(mod, "")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("torch.nn.") and not isinstance(m, (nn.Sequential, nn.ModuleList))

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        if isinstance(m, nn.Identity):
            return args[0]
        if type(m) not in PLAIN:
            return super().call_module(m, forward, args, kwargs)
        (x,) = args
        if isinstance(m, SameConv2d):
            x = m.padded(x)
        y = self.create_proxy("call_module", self.path_of_module(m), (x,), {})
        return m.act(m.drop(y)) if isinstance(m, BatchNormAct) else y
