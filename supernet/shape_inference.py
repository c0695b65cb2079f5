"""Shape inference: what the compiled operators return, without computing it. ``torch.compile`` and export need it.

Importing this registers it; the operators must be there already, so ``supernet.ops`` imports it. What operators refuse
is refused here too, by their own checks.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from supernet import _C

Maybe = Tensor | None


def register(name: str) -> Callable[[Callable], None]:
    check = getattr(_C.checks, name.removeprefix("supernet::"))

    def decorate(infer: Callable) -> None:
        @wraps(infer)
        def checked(*args: Any) -> Any:
            # Sizes that are symbols are checked once they have values, when the operator runs.
            if all(isinstance(size, int) for t in _tensors(args) for size in t.shape):
                check(*args)
            return infer(*args)

        torch.library.register_fake(name, checked)

    return decorate


def _tensors(args: Any) -> Iterator[Tensor]:
    for arg in args:
        if isinstance(arg, list):
            yield from _tensors(arg)
        elif isinstance(arg, Tensor):
            yield arg


def _conv_output(x: Tensor, channels: int, kernel: int, stride: int, padding: int) -> Tensor:
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    shape = (x.shape[0], channels, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _stats(x: Tensor, channels: int) -> Tensor:
    return x.new_empty(channels, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _like(t: Maybe) -> Maybe:
    return None if t is None else torch.empty_like(t)


def _like_channels_last(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@register("supernet::masked_conv2d")
def _masked_conv2d(
    x: Tensor, weight: Tensor, coefficients: Maybe, out_channels: int | None, stride: int, padding: int, groups: int
) -> Tensor:
    if out_channels is None:
        outputs, inputs = weight.shape[:2]
        out_channels = outputs if groups == 1 else x.shape[1] // inputs * (outputs // groups)
    return _conv_output(x, out_channels, weight.shape[2], stride, padding)


@register("supernet::masked_conv2d_backward")
def _masked_conv2d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, coefficients: Maybe, stride: int, padding: int, groups: int,
    needed: list[bool],
) -> tuple[Maybe, ...]:  # fmt: skip
    return (
        _like_channels_last(x) if needed[0] else None,
        _like(weight) if needed[1] else None,
        _like(coefficients) if needed[2] else None,
    )


@register("supernet::depthwise_conv2d")
def _depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    kernel = weight.shape[2]
    return _conv_output(x, x.shape[1], kernel, stride, kernel // 2)


@register("supernet::depthwise_conv2d_backward")
def _depthwise_conv2d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, needed: list[bool]
) -> tuple[Maybe, Maybe]:
    return _like_channels_last(x) if needed[0] else None, _like(weight) if needed[1] else None


@register("supernet::depth_mix")
def _depth_mix(xs: list[Tensor], p: Tensor) -> Tensor:
    return torch.empty_like(xs[0])


@register("supernet::depth_mix_backward")
def _depth_mix_backward(grad: Tensor, xs: list[Tensor], p: Tensor) -> tuple[list[Tensor], Tensor]:
    return [torch.empty_like(xs[0]) for _ in xs], torch.empty_like(p)


@register("supernet::dw_separable")
def _dw_separable(
    x: Tensor, dw_weight: Tensor, dw_scale: Tensor, dw_shift: Tensor, pw_weight: Tensor, pw_scale: Tensor,
    pw_shift: Tensor, stride: int, mid_act: str, out_act: str,
) -> Tensor:  # fmt: skip
    kernel = dw_weight.shape[2]
    return _conv_output(x, pw_weight.shape[0], kernel, stride, kernel // 2)


@register("supernet::inverted_bottleneck")
def _inverted_bottleneck(
    x: Tensor, expand_weight: Tensor, expand_scale: Tensor, expand_shift: Tensor, dw_weight: Tensor, dw_scale: Tensor,
    dw_shift: Tensor, pw_weight: Tensor, pw_scale: Tensor, pw_shift: Tensor, residual: bool, stride: int, act: str,
) -> Tensor:  # fmt: skip
    kernel = dw_weight.shape[2]
    return _conv_output(x, pw_weight.shape[0], kernel, stride, kernel // 2)


@register("supernet::dw_separable_train")
def _dw_separable_train(
    x: Tensor, dw_weight: Tensor, dw_gamma: Maybe, dw_beta: Maybe, dw_eps: float, pw_weight: Tensor,
    pw_gamma: Maybe, pw_beta: Maybe, pw_eps: float, stride: int, mid_act: str, out_act: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    channels, outputs, kernel = x.shape[1], pw_weight.shape[0], dw_weight.shape[2]
    dw_out = _conv_output(x, channels, kernel, stride, kernel // 2)
    pw_out = _conv_output(x, outputs, kernel, stride, kernel // 2)
    stats = [_stats(x, c) for c in (channels, channels, outputs, outputs)]
    return torch.empty_like(pw_out), dw_out, pw_out, *stats


@register("supernet::dw_separable_backward")
def _dw_separable_backward(
    grad: Tensor, x: Tensor, dw_out: Tensor, pw_out: Tensor,
    dw_weight: Tensor, dw_gamma: Maybe, dw_beta: Maybe, dw_mean: Tensor, dw_var: Tensor, dw_eps: float,
    pw_weight: Tensor, pw_gamma: Maybe, pw_beta: Maybe, pw_mean: Tensor, pw_var: Tensor, pw_eps: float,
    stride: int, mid_act: str, out_act: str, x_needed: bool,
) -> tuple[Maybe, ...]:  # fmt: skip
    parameters = (dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta)
    return _like_channels_last(x) if x_needed else None, *map(_like, parameters)


@register("supernet::inverted_bottleneck_train")
def _inverted_bottleneck_train(
    x: Tensor, expand_weight: Tensor, expand_gamma: Maybe, expand_beta: Maybe, dw_weight: Tensor,
    dw_gamma: Maybe, dw_beta: Maybe, pw_weight: Tensor, pw_gamma: Maybe, pw_beta: Maybe, eps: float,
    residual: bool, stride: int, act: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    channels, outputs, kernel = expand_weight.shape[0], pw_weight.shape[0], dw_weight.shape[2]
    expand_out = _conv_output(x, channels, 1, 1, 0)
    dw_out, pw_out = (_conv_output(x, c, kernel, stride, kernel // 2) for c in (channels, outputs))
    stats = [_stats(x, c) for c in (channels, channels, channels, channels, outputs, outputs)]
    return torch.empty_like(pw_out), expand_out, dw_out, pw_out, *stats


@register("supernet::inverted_bottleneck_backward")
def _inverted_bottleneck_backward(
    grad: Tensor, x: Tensor, expand_out: Tensor, dw_out: Tensor, pw_out: Tensor,
    expand_weight: Tensor, expand_gamma: Maybe, expand_beta: Maybe, expand_mean: Tensor, expand_var: Tensor,
    dw_weight: Tensor, dw_gamma: Maybe, dw_beta: Maybe, dw_mean: Tensor, dw_var: Tensor,
    pw_weight: Tensor, pw_gamma: Maybe, pw_beta: Maybe, pw_mean: Tensor, pw_var: Tensor,
    eps: float, residual: bool, stride: int, act: str, x_needed: bool,
) -> tuple[Maybe, ...]:  # fmt: skip
    expand, dw, pw = (
        (expand_weight, expand_gamma, expand_beta), (dw_weight, dw_gamma, dw_beta), (pw_weight, pw_gamma, pw_beta)
    )  # fmt: skip
    return _like_channels_last(x) if x_needed else None, *map(_like, (*expand, *dw, *pw))


@register("supernet::batch_norm_act_train")
def _batch_norm_act_train(x: Tensor, gamma: Maybe, beta: Maybe, eps: float, act: str) -> tuple[Tensor, ...]:
    return _like_channels_last(x), _stats(x, x.shape[1]), _stats(x, x.shape[1])


@register("supernet::batch_norm_act_backward")
def _batch_norm_act_backward(
    grad: Tensor, x: Tensor, gamma: Maybe, beta: Maybe, mean: Tensor, var: Tensor, eps: float, act: str
) -> tuple[Tensor, Maybe, Maybe]:
    return _like_channels_last(x), _like(gamma), _like(beta)


@register("supernet::dw_separable_int8")
def _dw_separable_int8(x: Tensor, dw_weight: Tensor, *args: Any) -> Tensor:
    pw_weight, stride = args[5], args[-1]
    kernel = dw_weight.shape[2]
    return _conv_output(x, pw_weight.shape[0], kernel, stride, kernel // 2)


@register("supernet::inverted_bottleneck_int8")
def _inverted_bottleneck_int8(x: Tensor, *args: Any) -> Tensor:
    dw_weight, pw_weight, stride = args[6], args[12], args[-1]
    kernel = dw_weight.shape[2]
    return _conv_output(x, pw_weight.shape[0], kernel, stride, kernel // 2)
