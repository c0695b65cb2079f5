"""A layer of a given network as a module of its own, and as a slice of the shared one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.families.given.piece import PARAMETER, steps, tensors
from supernet.families.given.program import Program
from supernet.families.slices import Slice, Sliced
from supernet.spec import Block

SLASH = "/"  # in the names of submodules stands for the dots in those of the given network


def given_name(name: str) -> str:
    """The name in the given network of what has this one in a layer."""
    return name.replace(SLASH, ".")


class Layer(Block, nn.Module):
    """A unit of a given network with some of its channels, as a module of its own.

    It maps what it reads, a tensor or several, to what it hands on.
    """

    op = "given"

    def __init__(self, spec: Any, affine: bool = True, eps: float = 1e-5, kernels: str = "fused"):
        super().__init__()
        network, kept = spec.layout.network, spec.kept
        self.kernels, self.joins = kernels, spec.joins if kernels == "fused" else 1
        self.reads, self.writes = spec.unit.reads, spec.unit.writes  # what it does not use is handed on as it is
        self.steps = list(steps(spec.unit, network.names, kept))
        self.slices: dict[Any, GivenSlice] = {}
        self.chains: dict[Any, Chain] = {}
        for name, module in spec.modules():
            own = kept.narrow(module, name)
            own._modules = {key: copy.deepcopy(child) for key, child in own._modules.items()}
            for path, part in own.named_modules():
                for key, tensor in tensors(part):
                    given = f"{name}.{path}.{key}" if path else f"{name}.{key}"
                    _set(part, key, kept.part(given, network.values[given]).clone(), tensor)
                if callable(reset := getattr(part, "reset_parameters", None)):
                    reset()
            self.add_module(name.replace(".", SLASH), own)
        for name, tensor in spec.raw():
            _set(self, name.replace(".", SLASH), kept.part(name, network.values[name]).clone(), tensor)

    @property
    def drops(self) -> bool:
        """Whether a block adds to its input here, so that ``forward`` may be told to drop that."""
        return any(step.branch for step in self.steps)

    def forward(self, x: Any, drop_path: float = 0.0) -> Any:
        return self.program()(x, drop_path) if self.kernels == "eager" else self.join(())(x, drop_path)

    def program(self) -> Program:
        """What it runs."""
        modules = {given_name(name): module for name, module in self.named_children()}
        return Program(self.reads, self.writes, self.steps, modules, _raw(self, self))

    def join(self, others: Sequence[Layer]) -> Chain:
        """It and those that follow it as one module, on as few operators as can be; made once."""
        if len(others) not in self.chains:
            self.chains[len(others)] = Chain([self, *others])
        return self.chains[len(others)]

    def given(self) -> Iterator[tuple[str, nn.Module | Tensor]]:
        """Its modules, parameters and buffers, by their names in the given network."""
        for name, part in (*self.named_children(), *self._parameters.items(), *self._buffers.items()):
            if part is not None:
                yield given_name(name), part

    def slice(self, own: Any) -> GivenSlice:
        """The part of this unit, which has all its channels, that is ``own``; made once."""
        if own not in self.slices:
            self.slices[own] = GivenSlice(self, own)
        return self.slices[own]

    def __getstate__(self) -> dict:
        """Copies make their slices themselves."""
        return {**self.__dict__, "slices": {}, "chains": {}}


class Alone(nn.Module):
    """A unit as its latency is measured, from one tensor to one: its first input and its last output.

    Other inputs, such as a shortcut, are constant noise; other outputs are on the way to the last one.
    """

    def __init__(self, spec: Any, kernels: str):
        super().__init__()
        self.layer = Layer(spec, kernels=kernels)
        (main, *others), self.layer.writes = spec.uses, spec.gives[-1:]
        self.layer.reads = (main, *others)
        for i, name in enumerate(others):
            self.register_buffer(f"other{i}", torch.randn(1, *spec.shapes[name]))

    def forward(self, x: Tensor) -> Any:
        return self.layer((x, *self.buffers(recurse=False)))


def _set(module: nn.Module, key: str, value: Tensor, like: Tensor) -> None:
    """Give a module a parameter or a buffer, whichever ``like`` is."""
    if isinstance(like, nn.Parameter):
        module._parameters[key] = nn.Parameter(value)
    else:
        module._buffers[key] = value


def _raw(layer: Layer, holder: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """The parameters and buffers that functions of a layer use, as ``holder`` has them."""
    return [(PARAMETER + given_name(key), holder, key) for key in (*layer._parameters, *layer._buffers)]


class Chain(nn.Module):
    """Layers in a row as one module."""

    def __init__(self, own: Sequence[Layer]):
        super().__init__()
        self.parts = nn.ModuleList(own)
        self.run = Program.joined([layer.program() for layer in own])
        self.drops = self.run.drops

    def forward(self, x: Any, drop_path: float = 0.0) -> Any:
        return self.run(x, drop_path)


class GivenSlice(Slice):
    """The part of a unit that some architectures run."""

    def __init__(self, shared: Layer, own: Any):
        modules, pairs = {}, []
        weights: list[Sliced] = []
        statistics: list[Sliced] = []

        def add(name: str, mine: nn.Module, theirs: nn.Module) -> None:
            for key, tensor in tensors(theirs):
                runs = own.kept.runs(given_name(f"{name}.{key}".lstrip(".")), tensor)
                learns = isinstance(tensor, nn.Parameter)
                (weights if learns else statistics).append(Sliced.of(name, mine, theirs, key, runs))
                vars(mine)["_parameters" if learns else "_buffers"].pop(key, None)

        whole = {key: module for key, module in shared.named_children() if _nested(module)}
        for name, theirs in shared.named_children():
            given, mine = given_name(name), theirs
            if name not in whole:
                mine = own.kept.narrow(theirs, given)
                pairs.append((mine, theirs))
                add(name, mine, theirs)
            modules[given] = mine
        holder = nn.Module()
        add("", holder, shared)
        what = list(steps(own.unit, own.layout.network.names, own.kept))
        program = Program(shared.reads, shared.writes, what, modules, _raw(shared, holder))
        run = Program.joined([program]) if shared.kernels == "fused" else program
        super().__init__(run, pairs, weights, statistics)
        self.whole, self.joins, self.program = nn.ModuleDict(whole), shared.joins, program
        self.drops = run.drops
        self.chains: dict[tuple[GivenSlice, ...], SliceChain] = {}

    def join(self, others: Sequence[GivenSlice]) -> SliceChain:
        """It and those that follow it as one module, on as few operators as can be; made once."""
        key = tuple(others)
        if key not in self.chains:
            self.chains[key] = SliceChain([self, *others])
        return self.chains[key]

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The weights of the stand-alone layer by the names used there."""
        return super().state_dict() | {f"{k}.{n}": v for k, m in self.whole.items() for n, v in m.state_dict().items()}


class SliceChain(Slice):
    """Slices in a row as one module."""

    def __init__(self, own: Sequence[GivenSlice]):
        pairs, weights, statistics = (
            [*itertools.chain(*parts)] for parts in zip(*((s.pairs, s.weights, s.statistics) for s in own), strict=True)
        )
        run = Program.joined([s.program for s in own])
        super().__init__(run, pairs, weights, statistics)
        self.drops = run.drops
        self.whole = nn.ModuleList(s.whole for s in own)


def _nested(module: nn.Module) -> bool:
    """Whether a module that is not traced has weights further inside, so that it always runs whole."""
    return any(tensors(part) for path, part in module.named_modules() if path)
