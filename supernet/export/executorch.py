"""ExecuTorch's programs, with XNNPACK."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from supernet.export.base import PLAIN, Format, Options, Run, Script, Shape, require, sample_input


class _PlainLayout(TorchFunctionMode):
    """Leaves conversions to channels_last out of what is traced: ExecuTorch refuses a program of mixed layouts."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.contiguous and kwargs.get("memory_format") is torch.channels_last:
            return args[0]
        return func(*args, **kwargs)


def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to ExecuTorch programs whose operators are delegated to XNNPACK."""
    require("executorch.exir", "executorch")
    return [lowered(exported(module, shape, batch)) for module, shape in zip(modules, shapes, strict=True)]


@torch.no_grad()
def exported(module: nn.Module, shape: Shape, batch: int) -> torch.export.ExportedProgram:
    """The graph of an eager module."""
    module = copy.deepcopy(module).eval().to(memory_format=torch.contiguous_format)
    with _PlainLayout():
        return torch.export.export(module, (sample_input(shape, batch),))


def lowered(program: torch.export.ExportedProgram) -> bytes:
    """The program of a graph."""
    exir = require("executorch.exir", "executorch")
    partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    edge = exir.to_edge_transform_and_lower(program, partitioner=[partitioner.XnnpackPartitioner()])
    return bytes(edge.to_executorch().buffer)


def load(file: bytes) -> Run:
    """A program as a function."""
    program = require("executorch.runtime", "executorch").Runtime.get().load_program(file)
    method = program.load_method("forward")

    def run(x: np.ndarray, program: Any = program) -> np.ndarray:  # the method lives in its program
        return method.execute([torch.from_numpy(x)])[0].numpy().copy()  # its memory is taken again by the next run

    return run


SCRIPT = Script(
    "executorch",
    "import torch\nfrom executorch.runtime import Runtime",
    'program = Runtime.get().load_program(FILE)\nmethod = program.load_method("forward")',
    "y = method.execute([torch.from_numpy(np.ascontiguousarray(x))])[0].numpy()",
)
FORMAT = Format(convert, load, SCRIPT, ("executorch",))
