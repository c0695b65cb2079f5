"""Operations of a given network that one of our operators runs: a convolution with its BN and activation, a depthwise
and a pointwise one, an inverted bottleneck.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import fused as operators
from supernet.convolution import Conv2d
from supernet.families.given.modules import BatchNormAct
from supernet.families.given.piece import Named, Step
from supernet.modules import ACTIVATIONS, of_one_pixel
from supernet.norm import BatchNorm
from supernet.size import PIXEL

NAMES: dict[type, str] = {cls: name for name, cls in ACTIVATIONS.items()}
FUNCTIONS: dict[Any, nn.Module] = {
    F.relu: nn.ReLU(),
    torch.relu: nn.ReLU(),
    F.relu6: nn.ReLU6(),
    F.hardswish: nn.Hardswish(),
    F.silu: nn.SiLU(),
}
NOTHING = nn.Identity()
KERNELS = (3, 5, 7)  # of the depthwise convolutions in our operators
MOST = 3  # convolutions in one operator


@dataclass(frozen=True)
class Part:
    """A convolution, its BN and its activation, the last step of which stands at ``end``."""

    conv: Conv2d
    bn: BatchNorm
    act: nn.Module
    end: int

    @property
    def act_name(self) -> str:
        return NAMES.get(type(self.act), "none")

    @property
    def kind(self) -> str:
        """Which of the convolutions in our operators it is."""
        conv, kernel, padding = self.conv, self.conv.kernel_size[0], self.conv.padding[0]
        if conv._parameters.get("bias", conv) is not None:  # that of a slice is there while it runs, and not known here
            return "other"
        if conv.groups == conv.in_channels == conv.out_channels > 1:
            return "depthwise" if kernel in KERNELS and padding == kernel // 2 else "other"
        return "pointwise" if _is_pointwise(conv) else "other"


@dataclass(frozen=True)
class Together:
    """Convolutions that one operator runs, which at last may add its input."""

    parts: tuple[Part, ...]
    residual: bool

    def branch(self, x: Tensor) -> Tensor:
        """What it adds to its input."""
        return replace(self, residual=False)(x)

    def __call__(self, x: Tensor) -> Tensor:
        first, *others = self.parts
        if not first.bn.training and torch.is_grad_enabled():  # for inference the operators have no gradient
            y = operators.single(x, first)
            for part in others:
                y = operators.single(y, part)
            return x + y if self.residual else y
        if not others:
            return operators.single(x, first)
        if len(others) == 1:
            return operators.separable(x, first, *others)
        depthwise, pointwise = others
        return operators.inverted_bottleneck(x, first, depthwise, pointwise, self.residual)


@dataclass(frozen=True)
class Pointwise:
    """A 1×1 convolution, of images of one pixel as a product of matrices: squeeze-excite has such."""

    conv: Conv2d

    def __call__(self, x: Tensor) -> Tensor:
        return of_one_pixel(x.flatten(1), self.conv)[:, :, None, None] if x.shape[2:] == PIXEL else self.conv(x)


def resolved(steps: Iterable[Step], modules: Mapping[str, nn.Module]) -> list[Step]:
    """The steps with modules in the place of their names."""
    return [replace(s, function=modules[s.function]) if isinstance(s.function, str) else s for s in steps]


def fused(steps: Sequence[Step]) -> list[Step]:
    """The steps, each as many of them by one operator as it runs; they call modules, not names."""
    found, place = [], 0
    while place < len(steps):
        step, place = _longest(steps, place)
        found.append(step)
    return found


def convolutions(steps: Sequence[Step]) -> int:
    """The most convolutions that one operator runs of the steps."""
    return max((len(s.function.parts) for s in fused(steps) if isinstance(s.function, Together)), default=0)


def _longest(steps: Sequence[Step], place: int) -> tuple[Step, int]:
    """What runs from a place on by one operator, the step itself if there is none, and the place behind it."""
    parts = tuple(_parts(steps, place))
    if not parts:
        return _alone(steps[place]), place + 1
    residual = False
    if _is_inverted_bottleneck(parts):
        end = _sum(steps, place, parts)
        residual = end is not None
    else:
        parts, end = parts[: 2 if _is_separable(parts) else 1], None
    end = parts[-1].end if end is None else end
    covered = steps[place : end + 1]
    result = covered[-1].result
    drops = dict.fromkeys(name for step in covered for name in step.drops if name != result)
    branch = covered[-1].branch if residual else ""
    return Step(result, Together(parts, residual), covered[0].args, {}, tuple(drops), branch), end + 1


def _alone(step: Step) -> Step:
    """A step that nothing else runs with, by what runs it best."""
    conv: Any = step.function
    return replace(step, function=Pointwise(conv)) if _is_plain(conv) and _is_pointwise(conv) else step


def _is_separable(parts: Sequence[Part]) -> bool:
    kinds = [part.kind for part in parts[:2]]
    return kinds == ["depthwise", "pointwise"] and parts[0].bn.eps == parts[1].bn.eps


def _is_inverted_bottleneck(parts: Sequence[Part]) -> bool:
    if len(parts) < MOST or parts[0].kind != "pointwise" or not _is_separable(parts[1:]):
        return False
    expand, depthwise, pointwise = parts
    acts = expand.act_name, pointwise.act_name
    return acts == (depthwise.act_name, "none") and expand.bn.eps == depthwise.bn.eps


def _parts(steps: Sequence[Step], place: int) -> Iterator[Part]:
    """The convolutions, one after the other, that begin at a place."""
    chain = list(_chain(steps, place)) if len(steps[place].args) == 1 else []
    for _ in range(MOST):
        functions: list[Any] = [steps[at].function for at in chain[:3]]
        conv, bn, act = (functions + [None] * 3)[:3]
        if not _is_plain(conv) or type(bn) not in (BatchNorm, BatchNormAct):
            return
        taken, own = 2, getattr(bn, "act", NOTHING)
        if type(getattr(bn, "drop", NOTHING)) is not nn.Identity or type(own) not in (nn.Identity, *NAMES):
            return
        act = FUNCTIONS.get(act, act)
        if type(own) is nn.Identity and type(act) in NAMES:
            taken, own = 3, act
        yield Part(conv, bn, own, chain[taken - 1])
        chain = chain[taken:]


def _is_plain(conv: Any) -> TypeGuard[Conv2d]:
    """Whether it is a convolution whose strides and paddings our operators could have."""
    if type(conv) is not Conv2d or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return False
    return all(len({*size}) == 1 for size in (conv.kernel_size, conv.stride, conv.padding)) and conv.dilation == (1, 1)


def _is_pointwise(conv: Conv2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _chain(steps: Sequence[Step], place: int) -> Iterator[int]:
    """The places of steps from a place on each of which alone reads what the one before gives."""
    yield place
    for at in range(place + 1, len(steps)):
        if not _follows(steps[at], steps[at - 1]):
            return
        if type(steps[at].function) is not nn.Identity:
            yield at


def _follows(step: Step, before: Step) -> bool:
    """Whether a step alone reads what the one before it gives."""
    reads = step.args == (Named(before.result),) and step.kwargs.keys() <= {"inplace"}
    return reads and _last_reads(step, before.result)


def _last_reads(step: Step, name: str) -> bool:
    """Whether nothing reads a value after a step that does."""
    return name in step.drops or name == step.result


def _sum(steps: Sequence[Step], place: int, parts: Sequence[Part]) -> int | None:
    """Where the input of an inverted bottleneck is added to what it gives."""
    at = parts[-1].end + 1
    while at < len(steps) and type(steps[at].function) is nn.Identity and _follows(steps[at], steps[at - 1]):
        at += 1
    if at == len(steps) or steps[at].function not in (operator.add, torch.add) or steps[at].kwargs:
        return None
    expand, depthwise, pointwise = (part.conv for part in parts)
    same = depthwise.stride == (1, 1) and expand.in_channels == pointwise.out_channels
    (x,), y = steps[place].args, steps[at - 1].result
    there = x not in [step.result for step in steps[place:at]] and _last_reads(steps[at], y)
    return at if same and there and steps[at].args in ((x, y), (y, x)) else None
