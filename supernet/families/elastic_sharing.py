"""How the networks of an elastic space share weights: each layer is a slice of the largest one.

A slice has the first outputs, inputs and middle channels and the centre of each kernel; in once-for-all, a smaller
kernel is the centre of the next larger one times a learnt k²×k² matrix, shared by the channels of a layer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from supernet.active import Box, active, box, part
from supernet.norm import BatchNorm
from supernet.size import PIXEL
from supernet.spec import BuildOptions, LayerSpec


def smaller(kernel: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The centre ``[O, I, k, k]`` of a kernel made smaller by matrices ``[k², k²]``, from large to small.

    A matrix that another follows gives the centre that this one takes: the other rows do not learn.
    """
    sizes = [math.isqrt(len(matrix)) for matrix in matrices]
    for matrix, size, wanted in zip(matrices, sizes, [*sizes[1:], sizes[-1]], strict=True):
        kernel = (kernel.flatten(2) @ _centre_rows(matrix, size, wanted).T).view(*kernel.shape[:2], wanted, wanted)
    return kernel


def _centre_rows(matrix: Tensor, size: int, wanted: int) -> Tensor:
    """The rows of a matrix ``[k², k²]`` that make the centre of a k×k kernel."""
    if size == wanted:
        return active([matrix], [box(matrix.shape, matrix.shape)])[0]
    _, _, (top, bottom), (left, right) = box((1, 1, size, size), (1, 1, wanted, wanted))
    boxes = [((row * size + left, row * size + right), (0, size**2)) for row in range(top, bottom)]
    return torch.cat(list(active([matrix] * wanted, boxes)))


class Elastic(nn.Module):
    """A layer at its largest, and the matrices of its smaller kernels.

    Args:
        spec: of the largest layer.
        kernels: sizes that have a matrix for each step from one to the next, from large to small; none: plain centres.
        build: how it is built, and its slices.
    """

    def __init__(self, spec: LayerSpec, kernels: Sequence[int], build: BuildOptions):
        super().__init__()
        self.layer, self.build, self.kernels = spec.build(**build), build, tuple(kernels)
        self.matrices = nn.ParameterDict()
        for large, small in itertools.pairwise(kernels):
            self.matrices[f"{large}to{small}"] = nn.Parameter(torch.eye(small**2))
        self.slices: dict[LayerSpec, Slice] = {}

    def slice(self, own: LayerSpec) -> Slice:
        """The part of this layer that is ``own``; made once, since building modules takes longer than running them."""
        own = dataclasses.replace(own, size=PIXEL)  # no layer depends on it
        if own not in self.slices:
            self.slices[own] = Slice(self, own)
        return self.slices[own]

    def __getstate__(self) -> dict:
        """Copies make their slices themselves."""
        return {**self.__dict__, "slices": {}}


class Sliced(NamedTuple):
    """A tensor of a layer that is part of a shared one.

    Args:
        name: of the submodule that has it.
        mine, theirs: that submodule of the own and of the shared layer.
        key: name of the tensor in them.
        box: the part.
        folded: whether matrices make its kernel smaller.
    """

    name: str
    mine: nn.Module
    theirs: nn.Module
    key: str
    box: Box
    folded: bool


class Slice(nn.Module):
    """The part of a shared layer that some architectures run: their own layer, with views of the shared tensors.

    It holds no weights: its submodules are those of the shared layer that run, its parameters theirs and the matrices
    that it needs. What is outside of it has no gradient and, with our optimiser, does not move.
    """

    def __init__(self, shared: Elastic, own: LayerSpec):
        super().__init__()
        with torch.device("meta"):
            layer = own.build(**shared.build)
        self.run: Callable[[Tensor], Tensor] = layer.forward
        self.adds = bool(getattr(layer, "adds", False))
        steps = [(large, small) for large, small in itertools.pairwise(shared.kernels) if large > own.kernel]
        self.matrices = nn.ParameterList(shared.matrices[f"{large}to{small}"] for large, small in steps)
        self.pairs = [(mine, shared.layer.get_submodule(name)) for name, mine in layer.named_modules()]
        self.weights: list[Sliced] = []
        self.statistics: list[Sliced] = []
        for (name, mine), (_, theirs) in zip(layer.named_modules(), self.pairs, strict=True):
            for sliced, tensors in ((self.weights, mine._parameters), (self.statistics, mine._buffers)):
                for key in [key for key, value in tensors.items() if value is not None]:
                    # From now on it is a plain attribute, set before each run.
                    sizes, largest = tuple(tensors.pop(key).shape), getattr(theirs, key).shape
                    folded = bool(steps) and len(sizes) == 4 and largest[-1] > sizes[-1]
                    sizes = (*sizes[:2], steps[0][1], steps[0][1]) if folded else sizes
                    sliced.append(Sliced(name, mine, theirs, key, box(largest, sizes), folded))
        self.parts = nn.ModuleList(dict.fromkeys(t.theirs for t in (*self.weights, *self.statistics)))

    def tensors(self) -> Iterator[tuple[Sliced, Tensor]]:
        """Every tensor of the own layer, and what stands for it."""
        shared = [getattr(t.theirs, t.key) for t in self.weights]
        for t, view in zip(self.weights, active(shared, [t.box for t in self.weights]), strict=True):
            yield t, smaller(view, list(self.matrices)) if t.folded else view
        for t in self.statistics:
            yield t, part(getattr(t.theirs, t.key), t.box)

    def forward(self, x: Tensor) -> Tensor:
        for t, value in self.tensors():
            vars(t.mine)[t.key] = value
        for mine, theirs in self.pairs:
            mine.training = theirs.training
            if isinstance(mine, BatchNorm) and isinstance(theirs, BatchNorm):
                mine.pool, mine.sync, mine.ran = theirs.pool, theirs.sync, theirs.ran
        y = self.run(x)
        for mine, theirs in self.pairs:
            if isinstance(mine, BatchNorm) and isinstance(theirs, BatchNorm):
                theirs.ran = mine.ran
        for t in (*self.weights, *self.statistics):
            del vars(t.mine)[t.key]
        return y

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # never asked for as part of a module
        """The weights of the stand-alone layer by the names used there; matrices are folded into their kernels."""
        return {f"{t.name}.{t.key}".lstrip("."): value for t, value in self.tensors()}
