"""Python source: a module of torch's alone, with the weights beside it as a state dict."""

from __future__ import annotations

import ast
import inspect
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from supernet import files
from supernet.errors import UserError
from supernet.export.base import PLAIN, Format, Options, Run, Script, Shape, pack, unpack
from supernet.export.pt2 import called
from supernet.model import Network
from supernet.plain import plain

BEGIN = '"""A network that was found by supernet'
SOURCE = '''{begin}, for images of {shape}: it needs nothing but PyTorch.

The weights are in the file of the same name that ends in .pt.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class Part(nn.Module):
    """Modules within a module, by name or number."""

    def __getitem__(self, name):
        return getattr(self, str(name))

    def __setitem__(self, name, module):
        setattr(self, str(name), module)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        {init}

    {forward}


def load(weights=Path(__file__).with_suffix(".pt")):
    """The network with its weights, in eval mode."""
    network = Network()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()
'''


def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to archives of a source and its weights; the batch may be any.

    Raises:
        UserError: a module cannot be written with torch alone.
    """
    return [
        _archive(module.plain() if isinstance(module, Network) else plain({"module": module}), shape)
        for module, shape in zip(modules, shapes, strict=True)
    ]


def _archive(module: fx.GraphModule, shape: Shape) -> bytes:
    weights = io.BytesIO()
    torch.save({name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}, weights)
    return pack(py=written(module, shape).encode(), pt=weights.getvalue())


def unpacked(file: bytes) -> tuple[str, bytes]:
    """The source and the weights in an archive."""
    source, weights = unpack(file, "py", "pt")
    return source.decode(), weights


def load(file: bytes) -> Run:
    """The network as a function. It is code, which is run: of this process, or of a file that a person has named."""
    source, weights = unpacked(file)
    made: dict[str, Any] = {"__name__": "network", "__file__": "network.py"}
    exec(compile(source, "network.py", "exec"), made)
    return called(made["load"](io.BytesIO(weights)))


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """The source, and its weights as ``.pt``; a UserError if the source is somebody's."""
    if path.exists() and not path.read_bytes().startswith(BEGIN.encode()):
        raise UserError(f"{path} is not written over: it was not exported here")
    source, weights = unpacked(file)
    files.write_bytes(path, source.encode())  # first, as formats.able takes weights without it for somebody's
    files.write_bytes(path.with_suffix(".pt"), weights)


def read(path: Path) -> bytes:
    """The source and its weights as one archive again."""
    return pack(py=path.read_bytes(), pt=path.with_suffix(".pt").read_bytes())


def written(module: fx.GraphModule, shape: Shape) -> str:
    """The source of a traced module for images of this shape."""
    init, forward = "\n        ".join(_init(module)), _forward(module).replace("\n", "\n    ")
    return SOURCE.format(begin=BEGIN, shape="×".join(map(str, shape)), init=init, forward=forward)


def _init(root: fx.GraphModule) -> Iterator[str]:
    """Lines that make the parts of a module, each after the one that it is in."""
    leaves = {str(node.target) for node in root.graph.nodes if node.op == "call_module"}
    tensors = {str(node.target) for node in root.graph.nodes if node.op == "get_attr"}
    for name, module in root.named_modules():
        if name in leaves:
            yield f"{_place(name)} = {_made(module, name)}"
        elif name and any(other.startswith(f"{name}.") for other in leaves | tensors):
            yield f"{_place(name)} = Part()"
    for name in sorted(tensors):
        owner, _, key = name.rpartition(".")
        value = getattr(root.get_submodule(owner), key)
        empty = f"torch.empty({tuple(value.shape)}, dtype={value.dtype})"
        if isinstance(value, nn.Parameter):
            yield f"{_place(name)} = nn.Parameter({empty})"
        else:
            yield f"{_place(owner)}.register_buffer({key!r}, {empty})"


def _place(name: str) -> str:
    """Where a module is, as Python has it."""
    parts = name.split(".") if name else []
    return "self" + "".join(f".{p}" if p.isidentifier() else f"[{int(p) if p.isdigit() else p!r}]" for p in parts)


def _made(module: nn.Module, name: str) -> str:
    """A call that makes a module of torch's: its arguments are among its attributes."""
    cls = next(base for base in type(module).__mro__ if getattr(nn, base.__name__, None) is base)  # some have no name
    arguments = []
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        if key in ("self", "device", "dtype", "args", "kwargs"):
            continue
        if key == "bias":
            value: Any = any(own.endswith("bias") for own, _ in module.named_parameters(recurse=False))
        elif hasattr(module, key):
            value = getattr(module, key)
        elif parameter.default is not parameter.empty:
            continue
        else:
            raise UserError(f"{name} cannot be written: a {cls.__name__} does not tell its {key}")
        alike = isinstance(value, tuple) and len({*value}) == 1
        if alike and isinstance(module, (nn.Conv2d, nn.LayerNorm, nn.RMSNorm)):
            value = value[0]
        if parameter.default is parameter.empty:
            arguments.append(repr(value))
        elif value != parameter.default:
            arguments.append(f"{key}={value!r}")
    return f"nn.{cls.__name__}({', '.join(arguments)})"


def _forward(module: fx.GraphModule) -> str:
    """The traced function, with a few variables in place of one for each value."""
    (function,) = ast.parse(module.graph.python_code("self").src.strip()).body
    assert isinstance(function, ast.FunctionDef)
    variables, body = _Variables({"x": "x"}), []
    for place, statement in enumerate(function.body):
        if _ended(statement):
            continue
        new = variables.visit(statement)
        variables.end([name for other in function.body[place + 1 : place + 2] for name in _ended(other)])
        if isinstance(new, ast.Assign):
            (result,) = new.targets
            assert isinstance(result, ast.Name)
            result.id = variables.begin(result.id)
        body.append(new)
    head = ast.parse("def forward(self, x): pass").body[0]
    assert isinstance(head, ast.FunctionDef)
    head.body = body
    return ast.unparse(ast.fix_missing_locations(head))


def _ended(statement: ast.stmt) -> list[str]:
    """The names that a line of fx sets to None, as nothing reads them any more."""
    if not isinstance(statement, ast.Assign) or ast.unparse(statement.value) != "None":
        return []
    return [ast.unparse(target) for target in statement.targets]


class _Variables(ast.NodeTransformer):
    """Rewrites what fx has written for people.

    Args:
        names: the variables of the values that are still needed.
    """

    def __init__(self, names: dict[str, str]):
        self.names = names

    def begin(self, value: str) -> str:
        """The first variable that is free gets a value."""
        free = (name for name in itertools.chain("xyz", map("x{}".format, itertools.count(4))))
        self.names[value] = next(name for name in free if name not in self.names.values())
        return self.names[value]

    def end(self, values: Iterable[str]) -> None:
        """The variables of these values are free."""
        for value in values:
            self.names.pop(value, None)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load):
            node.id = self.names.get(node.id, node.id)
        return _expression(CONSTANTS[node.id]) if node.id in CONSTANTS else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Parts with numbers for names, in brackets."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 2:
            part = ast.literal_eval(node.args[1])
            if not part.isidentifier():
                return ast.Subscript(node.args[0], ast.Constant(int(part) if part.isdigit() else part), ast.Load())
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Functions where torch documents them."""
        name = ast.unparse(node)
        for prefix, short, module in PLACES:
            if name.startswith(prefix) and hasattr(module, node.attr):
                return _expression(f"{short}.{node.attr}")
        return self.generic_visit(node)  # type: ignore[return-value]


CONSTANTS = {"inf": 'float("inf")', "nan": 'float("nan")', "device": "torch.device"}  # as fx has them
PLACES = (
    ("torch._C._nn.", "F", F),
    ("torch.nn.functional.", "F", F),
    ("torch.functional.", "torch", torch),
)


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


SCRIPT = Script(
    "torch",
    "import runpy\nimport torch",
    'model = runpy.run_path(str(FILE))["load"]()',
    "y = model(torch.from_numpy(x)).detach().numpy()",
)
FORMAT = Format(convert, load, SCRIPT, (), write, read, options=frozenset({"any_batch"}), weights=".pt")
