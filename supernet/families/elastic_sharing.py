"""How the networks of an elastic space share weights: each layer is a slice of the largest one.

A slice has the first outputs, inputs and middle channels and the centre of each kernel; in once-for-all, a smaller
kernel is the centre of the next larger one times a learnt k²×k² matrix, shared by the channels of a layer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from supernet.active import active, box
from supernet.families.slices import Slice, Sliced
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
        self.slices: dict[LayerSpec, ElasticSlice] = {}

    def slice(self, own: LayerSpec) -> ElasticSlice:
        """The part of this layer that is ``own``; made once, since building modules takes longer than running them."""
        own = dataclasses.replace(own, size=PIXEL)  # no layer depends on it
        if own not in self.slices:
            self.slices[own] = ElasticSlice(self, own)
        return self.slices[own]

    def __getstate__(self) -> dict:
        """Copies make their slices themselves."""
        return {**self.__dict__, "slices": {}}


class ElasticSlice(Slice):
    """The part of a shared layer that some architectures run, its kernels made smaller by matrices."""

    def __init__(self, shared: Elastic, own: LayerSpec):
        with torch.device("meta"):
            layer = own.build(**shared.build)
        steps = [(large, small) for large, small in itertools.pairwise(shared.kernels) if large > own.kernel]
        pairs = []
        weights: list[Sliced] = []
        statistics: list[Sliced] = []
        for name, mine in layer.named_modules():
            theirs = shared.layer.get_submodule(name)
            pairs.append((mine, theirs))
            for sliced, tensors in ((weights, mine._parameters), (statistics, mine._buffers)):
                for key in [key for key, value in tensors.items() if value is not None]:
                    # From now on it is a plain attribute, set before each run.
                    sizes, largest = tuple(tensors.pop(key).shape), getattr(theirs, key).shape
                    folded = bool(steps) and len(sizes) == 4 and largest[-1] > sizes[-1]
                    sizes = (*sizes[:2], steps[0][1], steps[0][1]) if folded else sizes
                    runs = [[place] for place in box(largest, sizes)]
                    sliced.append(Sliced.of(name, mine, theirs, key, runs)._replace(folded=folded))
        super().__init__(layer.forward, pairs, weights, statistics)
        self.adds = bool(getattr(layer, "adds", False))
        self.matrices = nn.ParameterList(shared.matrices[f"{large}to{small}"] for large, small in steps)

    def tensors(self) -> Iterator[tuple[Sliced, Tensor]]:
        """Every tensor of the own layer, and what stands for it; matrices are folded into their kernels."""
        for t, value in super().tensors():
            yield t, smaller(value, list(self.matrices)) if t.folded else value
