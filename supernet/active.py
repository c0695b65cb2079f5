"""The active part of a parameter: what a narrower layer uses of it, and all that an optimiser's step then moves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Box = tuple[tuple[int, int], ...]  # along each axis of a tensor, from where to where


def box(shape: Sequence[int], sizes: Sequence[int]) -> Box:
    """The first channels and the centre of the kernel.

    Args:
        shape: of the shared tensor, ``[C]``, ``[O, I]`` or ``[O, I, K, K]``.
        sizes: of the part, no larger along any axis.
    """
    starts = (0 if axis < 2 else (shape[axis] - size) // 2 for axis, size in enumerate(sizes))
    return tuple((start, start + size) for start, size in zip(starts, sizes, strict=True))


def part(value: Tensor, of: Box) -> Tensor:
    """What a box has of a tensor, as a view."""
    if all(end - start == size for (start, end), size in zip(of, value.shape, strict=True)):
        return value
    return value[tuple(itertools.starmap(slice, of))]


def active(parameters: Sequence[Tensor], boxes: Sequence[Box]) -> Sequence[Tensor]:
    """A part of each parameter, as a view that learns.

    What computes with a part returns a gradient of its size. The parameter's own has the full size, with zeros
    outside; which parts have learnt is kept with the parameter, for ``moved``.
    """
    if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
        return _Active.apply(boxes, *parameters)
    return list(map(part, parameters, boxes))


def moved(parameter: Tensor) -> list[Box]:
    """Where the gradients since ``forget`` are: boxes that do not overlap, together all parts that have learnt.

    A parameter that nothing has taken a part of is one box.
    """
    learnt = vars(parameter).get("learnt")
    if not learnt:
        return [box(parameter.shape, parameter.shape)]
    return list(_disjoint({one for one in learnt if not any(_inside(one, other) for other in learnt - {one})}))


def forget(parameters: Iterable[Tensor]) -> None:
    """Begin anew, as gradients do."""
    for p in parameters:
        vars(p).pop("learnt", None)


class _Active(torch.autograd.Function):
    """One for all tensors of a layer: a call costs as much as a small operator."""

    @staticmethod
    def forward(ctx: Any, boxes: Sequence[Box], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.parameters, ctx.boxes = parameters, boxes  # the parameters are leaves: to keep them makes no cycle
        ctx.set_materialize_grads(False)
        return tuple(part(p.detach(), of) for p, of in zip(parameters, boxes, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *map(_whole, ctx.parameters, ctx.boxes, grads)


def _whole(parameter: Tensor, of: Box, grad: Tensor | None) -> Tensor | None:
    """The gradient of a parameter from that of a part, which is noted."""
    if grad is None or not parameter.requires_grad:
        return None
    vars(parameter).setdefault("learnt", set()).add(of)
    if grad.shape == parameter.shape:
        return grad
    whole = torch.zeros_like(parameter)
    part(whole, of).copy_(grad)
    return whole


def _inside(one: Box, other: Box) -> bool:
    return all(b[0] <= a[0] and a[1] <= b[1] for a, b in zip(one, other, strict=True))


def _disjoint(boxes: set[Box]) -> Iterator[Box]:
    """The union of boxes, cut along the first axis where one begins or ends, and so on."""
    if () in boxes:
        yield ()
        return
    for start, end in itertools.pairwise(sorted({edge for first, *_ in boxes for edge in first})):
        rest = {along[1:] for along in boxes if along[0][0] <= start and end <= along[0][1]}
        yield from (((start, end), *inner) for inner in _disjoint(rest))
