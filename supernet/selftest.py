"""The compiled operators against the same in PyTorch, here and now: values and gradients, on this machine's device."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet import ops, quantized
from supernet.quantized import Quantisation, QuantisedConv

TOLERANCE = 2e-4  # of the largest value: float32 on both sides, and sums over thousands of products
N, C, M, SIZE, EPS = 4, 24, 72, 14, 1e-5

Form = Callable[..., Tensor]  # the same tensors give the same values


class Case(NamedTuple):
    """An operator, PyTorch's form of it, and what both are called with.

    Args:
        apart: the largest difference that rounding explains, of values; None: ``TOLERANCE`` of the largest value.
    """

    name: str
    ours: Form
    plain: Form
    tensors: Sequence[Tensor]
    apart: float | None = None


class Outcome(NamedTuple):
    """How an operator did.

    Args:
        difference: the largest one of the output and of any gradient, over the largest value; of 8-bit values in steps.
        allowed: the largest one that rounding explains.
        error: what it raised, or empty.
    """

    name: str
    device: str
    difference: float
    allowed: float
    fine: bool
    seconds: float
    error: str = ""


def run(devices: Sequence[torch.device]) -> Iterator[Outcome]:
    """Every operator on each of the devices."""
    for device in devices:
        for case in cases(device):
            start, allowed = time.perf_counter(), TOLERANCE if case.apart is None else case.apart
            try:
                found = _difference(case)
                fine, error = found <= allowed, ""
            except Exception as problem:  # whatever it is, the other operators are tried, too
                found, fine, error = float("nan"), False, f"{type(problem).__name__}: {problem}".splitlines()[0]
            yield Outcome(case.name, str(device), found, allowed, fine, time.perf_counter() - start, error)


def _difference(case: Case) -> float:
    if case.apart is not None:
        return float((case.ours(*case.tensors).float() - case.plain(*case.tensors).float()).abs().max())
    with torch.backends.cudnn.flags(allow_tf32=False):
        pairs = [_values(form, case.tensors) for form in (case.ours, case.plain)]
    off = [(a - b).abs().max() / b.abs().max().clamp(min=1e-6) for a, b in zip(*pairs, strict=True)]
    return float(torch.stack(off).max())  # NaN where one is, which Python's max may pass over


def _values(form: Form, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The output and, where there are some, the gradients of a fixed sum of it."""
    tensors = [t.clone().requires_grad_(t.requires_grad) for t in tensors]
    y = form(*tensors)
    wanted = [t for t in tensors if t.requires_grad]
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
    return [y.detach(), *(torch.autograd.grad((y * weights).sum(), wanted) if wanted else ())]


def cases(device: torch.device) -> Iterator[Case]:
    """Every operator once, at sizes of a network in its middle."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, learns: bool = True) -> Tensor:
        return torch.randn(shape, generator=generator).to(device).requires_grad_(learns)

    def around_one(n: int, learns: bool = True) -> Tensor:
        return (1 + 0.1 * torch.randn(n, generator=generator)).to(device).requires_grad_(learns)

    def layer(out: int, inp: int, kernel: int, learns: bool = True) -> list[Tensor]:
        """Weight, scale and shift."""
        weight = random(out, inp, kernel, kernel, learns=learns) / (inp * kernel**2) ** 0.5
        return [weight.detach().requires_grad_(learns), around_one(out, learns), random(out, learns=learns)]

    x = random(N, C, SIZE, SIZE)
    wide, narrow = random(2 * C, 2 * C, 3, 3), random(C, 1, 5, 5)
    yield Case(
        "masked_conv2d",
        lambda x, w: ops.masked_conv2d(x, w, out_channels=C, padding=1),
        lambda x, w: F.conv2d(x, w[:C, :C], padding=1),
        [x, wide],
    )
    yield Case(
        "depthwise_conv2d",
        lambda x, w: ops.depthwise_conv2d(x, w, stride=2),
        lambda x, w: F.conv2d(x, w, stride=2, padding=2, groups=C),
        [x, narrow],
    )
    yield Case(
        "depth_mix",
        lambda p, *xs: ops.depth_mix(xs, p),
        lambda p, *xs: sum((share * each for share, each in zip(p, xs, strict=True)), torch.zeros_like(x)),
        [random(3).softmax(0).detach().requires_grad_(), *(random(N, C, SIZE, SIZE) for _ in range(3))],
    )
    yield Case(
        "batch_norm_act_train",
        lambda *t: ops.batch_norm_act_train(*t, eps=EPS, act="swish")[0],
        lambda x, g, b: F.silu(F.batch_norm(x, None, None, g, b, True, 0.0, EPS)),
        [x, around_one(C), random(C)],
    )
    separable = [*layer(C, 1, 3), *layer(2 * C, C, 1)]
    yield Case(
        "dw_separable_train",
        lambda *t: ops.dw_separable_train(*t, eps=EPS, stride=2)[0],
        lambda *t: _separable(*t, act=F.relu, stride=2, training=True),
        [x, *separable],
    )
    block = [*layer(M, C, 1), *layer(M, 1, 5), *layer(C, M, 1)]
    yield Case(
        "inverted_bottleneck_train",
        lambda *t: ops.inverted_bottleneck_train(*t, eps=EPS, residual=True)[0],
        lambda *t: _bottleneck(*t, training=True),
        [x, *block],
    )
    still = [t.detach() for t in (x, *separable, *block)]
    x, separable, block = still[0], still[1:7], still[7:]
    yield Case(
        "dw_separable",
        ops.dw_separable,
        lambda *t: _separable(*t, act=F.relu, stride=1, training=False),
        [x, *separable],
    )
    yield Case(
        "inverted_bottleneck",
        lambda *t: ops.inverted_bottleneck(*t, residual=True),
        lambda *t: _bottleneck(*t, training=False),
        [x, *block],
    )
    yield from _of_8_bits(random(N, C, SIZE, SIZE, learns=False).clamp(-3, 3), separable, block)


def _norm(y: Tensor, gamma: Tensor, beta: Tensor, training: bool) -> Tensor:
    if training:
        return F.batch_norm(y, None, None, gamma, beta, True, 0.0, EPS)
    return y * gamma[:, None, None] + beta[:, None, None]


def _separable(x: Tensor, *t: Tensor, act: Callable[[Tensor], Tensor], stride: int, training: bool) -> Tensor:
    dw, dw_gamma, dw_beta, pw, pw_gamma, pw_beta = t
    y = F.conv2d(x, dw, stride=stride, padding=dw.shape[2] // 2, groups=len(dw))
    return _norm(F.conv2d(act(_norm(y, dw_gamma, dw_beta, training)), pw), pw_gamma, pw_beta, training)


def _bottleneck(x: Tensor, *t: Tensor, training: bool) -> Tensor:
    expand, gamma, beta, *separable = t
    y = F.relu6(_norm(F.conv2d(x, expand), gamma, beta, training))
    return x + _separable(y, *separable, act=F.relu6, stride=1, training=training)


def _of_8_bits(x: Tensor, separable: list[Tensor], block: list[Tensor]) -> Iterator[Case]:
    """The operators on 8-bit values against float32 on the same values: they differ by roundings between the layers."""
    into, between, out = Quantisation(6 / 255, 128), Quantisation(6 / 255, 0), Quantisation(0.1, 128)
    q = into.quantise(x).contiguous(memory_format=torch.channels_last)

    def convs(tensors: list[Tensor], chain: Sequence[Quantisation]) -> list[QuantisedConv]:
        layers = zip(tensors[::3], tensors[1::3], tensors[2::3], chain, chain[1:], strict=False)
        return [QuantisedConv.of(w * s[:, None, None, None], b, a, z) for w, s, b, a, z in layers]

    def real(tensors: list[Tensor], q: Tensor) -> Tensor:
        y = into.dequantise(q)
        for i in range(0, len(tensors), 3):
            w, s, b = tensors[i : i + 3]
            y = F.conv2d(y, w * s[:, None, None, None], b, padding=w.shape[2] // 2, groups=y.shape[1] // w.shape[1])
            y = y if i + 3 == len(tensors) else y.clamp(0, 6)
        return out.quantise(y)

    pair, triple = convs(separable, (into, between, out)), convs(block, (into, between, between, out))
    for name, ours, plain in (
        ("dw_separable_int8", lambda q: quantized.dw_separable(q, *pair), separable),
        ("inverted_bottleneck_int8", lambda q: quantized.inverted_bottleneck(q, *triple), block),
    ):
        yield Case(name, ours, functools.partial(real, plain), [q], apart=2)


def devices() -> list[torch.device]:
    """The CPU, and the GPU that PyTorch sees where the operators were built for one."""
    with_cuda = ops.build_info()["cuda"] and torch.cuda.is_available()
    return [torch.device("cpu"), *([torch.device("cuda")] if with_cuda else [])]
