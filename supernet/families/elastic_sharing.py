"""How the networks of an elastic space share weights: each layer is a slice of the largest one.

A slice has the first outputs, inputs and middle channels and the centre of each kernel; in once-for-all, a smaller
kernel is the centre of the next larger one times a learnt k²×k² matrix, shared by the channels of a layer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from supernet.families.elastic_blocks import ElasticStem
from supernet.norm import BatchNorm
from supernet.spec import BuildOptions, LayerSpec


def active(value: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of a shared tensor that runs, as a view: the first channels, the centre of the kernel.

    Args:
        value: ``[C]``, ``[O, I]`` or ``[O, I, K, K]``.
        shape: of the part, no larger along any axis.
    """
    if value.shape == torch.Size(shape):
        return value
    starts = [0 if axis < 2 else (size - shape[axis]) // 2 for axis, size in enumerate(value.shape)]
    return value[tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))]


def smaller(kernel: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """A kernel ``[O, I, K, K]`` made smaller by matrices ``[k², k²]``, from large to small: each takes the centre."""
    for matrix in matrices:
        shape = (*kernel.shape[:2], *[math.isqrt(len(matrix))] * 2)
        kernel = (active(kernel, shape).flatten(2) @ matrix.T).view(shape)
    return kernel


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
        if not isinstance(self.layer, ElasticStem):
            own = dataclasses.replace(own, size=1)  # only a stem depends on the size
        if own not in self.slices:
            self.slices[own] = Slice(self, own)
        return self.slices[own]

    def __getstate__(self) -> dict:
        """Copies make their slices themselves."""
        return {**self.__dict__, "slices": {}}


class Slice(nn.Module):
    """The part of a shared layer that some architectures run: their own layer, with views of the shared tensors.

    It holds no weights: its submodules are those of the shared layer that run, its parameters theirs and the matrices
    that it needs. Gradients have the full size of the shared tensors, with zeros outside of the slice; so momentum and
    weight decay move what is outside, too.
    """

    def __init__(self, shared: Elastic, own: LayerSpec):
        super().__init__()
        with torch.device("meta"):
            layer = own.build(**shared.build)
        pairs, running = [], []
        for name, mine in layer.named_modules():
            theirs = shared.layer.get_submodule(name)
            tensors = {**mine._parameters, **mine._buffers}
            shapes = {key: value.shape for key, value in tensors.items() if value is not None}
            for key in shapes:  # from now on a plain attribute, set before each run
                (mine._parameters if key in mine._parameters else mine._buffers).pop(key)
            pairs.append((name, mine, theirs, shapes))
            if shapes:
                running.append(theirs)
        self.run: Callable[[Tensor], Tensor] = layer.forward
        self.pairs, self.adds = pairs, bool(getattr(layer, "adds", False))
        self.parts, self.matrices = nn.ModuleList(running), nn.ParameterDict()
        for large, small in itertools.pairwise(shared.kernels):
            if large > own.kernel:
                self.matrices[f"{large}to{small}"] = shared.matrices[f"{large}to{small}"]

    def tensors(self) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
        """Name of the submodule, submodule of the own layer, name of the tensor in it, and what stands for it."""
        for name, mine, theirs, shapes in self.pairs:
            for key, shape in shapes.items():
                value = getattr(theirs, key)
                if len(shape) == 4 and self.matrices and value.shape[-1] > shape[-1]:
                    channels = active(value, (*shape[:2], *value.shape[2:]))
                    yield name, mine, key, smaller(channels, list(self.matrices.values()))
                else:
                    yield name, mine, key, active(value, shape)

    def forward(self, x: Tensor) -> Tensor:
        """Plain views for now: operators that take full-size tensors with the active sizes would need no copies."""
        for _, mine, key, value in self.tensors():
            vars(mine)[key] = value
        for _, mine, theirs, _ in self.pairs:
            mine.training = theirs.training
            if isinstance(mine, BatchNorm) and isinstance(theirs, BatchNorm):
                mine.pool, mine.sync, mine.ran = theirs.pool, theirs.sync, theirs.ran
        y = self.run(x)
        for _, mine, theirs, shapes in self.pairs:
            if isinstance(mine, BatchNorm) and isinstance(theirs, BatchNorm):
                theirs.ran = mine.ran
            for key in shapes:
                del vars(mine)[key]
        return y

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # never asked for as part of a module
        """The weights of the stand-alone layer by the names used there; matrices are folded into their kernels."""
        return {f"{name}.{key}".lstrip("."): value for name, _, key, value in self.tensors()}
