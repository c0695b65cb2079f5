"""The active part of a parameter: what a narrower layer uses of it, and all that an optimiser's step then moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Sizes = tuple[int, ...]
Box = tuple[slice, ...]


def part(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """The part of a shared tensor that is active, as a view: the first channels, the centre of the kernel.

    Args:
        value: ``[C]``, ``[O, I]`` or ``[O, I, K, K]``.
        sizes: of the part, no larger along any axis.
    """
    return value if value.shape == torch.Size(sizes) else value[next(_boxes(value.shape, {tuple(sizes)}))]


def active(parameters: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> Sequence[Tensor]:
    """The parts of parameters, as views that learn.

    What computes with a part returns a gradient of its size. The parameter's own has the full size, with zeros
    outside; which parts have learnt is kept with the parameter, for ``moved``.
    """
    if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
        return _Active.apply(sizes, *parameters)
    return [part(p, size) for p, size in zip(parameters, sizes, strict=True)]


def moved(parameter: Tensor) -> list[Box]:
    """Where the gradients since ``forget`` are: boxes that do not overlap, of all parts that have learnt.

    A parameter that nothing has taken a part of is one box.
    """
    return list(_boxes(parameter.shape, vars(parameter).get("learnt") or {tuple(parameter.shape)}))


def forget(parameters: Iterable[Tensor]) -> None:
    """Begin anew, as gradients do."""
    for p in parameters:
        vars(p).pop("learnt", None)


class _Active(torch.autograd.Function):
    """One for all tensors of a layer: a call costs as much as a small operator."""

    @staticmethod
    def forward(ctx: Any, sizes: Sequence[Sequence[int]], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.parameters = parameters  # leaves: to keep them makes no cycle
        ctx.set_materialize_grads(False)
        return tuple(part(p.detach(), size) for p, size in zip(parameters, sizes, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *map(_whole, ctx.parameters, grads)


def _whole(parameter: Tensor, grad: Tensor | None) -> Tensor | None:
    """The gradient of a parameter from that of a part, which is noted."""
    if grad is None or not parameter.requires_grad:
        return None
    vars(parameter).setdefault("learnt", set()).add(tuple(grad.shape))
    if grad.shape == parameter.shape:
        return grad
    whole = torch.zeros_like(parameter)
    part(whole, grad.shape).copy_(grad)
    return whole


def _boxes(shape: Sequence[int], parts: set[Sizes], axis: int = 0) -> Iterator[Box]:
    """The union of parts of a tensor, cut into boxes that do not overlap; of one part, itself."""
    if axis == len(shape):
        yield ()
        return
    inner = 0
    for size in sorted({sizes[axis] for sizes in parts}):
        rest = list(_boxes(shape, {sizes for sizes in parts if sizes[axis] >= size}, axis + 1))
        for along in _slices(shape[axis], inner, size, centred=axis >= 2):
            yield from ((along, *box) for box in rest)
        inner = size


def _slices(length: int, inner: int, size: int, centred: bool) -> list[slice]:
    """What a part of an axis has and a smaller one, of length ``inner``, has not."""
    if not centred:
        return [slice(inner, size)]
    start, hole = (length - size) // 2, (length - inner) // 2
    return [slice(start, hole), slice(hole + inner, start + size)] if inner else [slice(start, start + size)]
