"""Shape inference of the operators: what they return, without computing it. ``ops`` imports it."""

import torch
from torch import Tensor


def _conv_output(x: Tensor, channels: int, kernel: int, stride: int, padding: int) -> Tensor:
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    shape = (x.shape[0], channels, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _stats(x: Tensor, channels: int) -> Tensor:
    return x.new_empty(channels, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _like(t: Tensor | None) -> Tensor | None:
    return None if t is None else torch.empty_like(t)


def _like_channels_last(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.register_fake("supernet::masked_conv2d")
def _(x, weight, coefficients, out_channels, stride, padding, groups):
    return _conv_output(x, out_channels, weight.shape[2], stride, padding)


@torch.library.register_fake("supernet::masked_conv2d_backward")
def _(grad, x, weight, coefficients, stride, padding, groups, needed):
    return (
        _like_channels_last(x) if needed[0] else None,
        _like(weight) if needed[1] else None,
        _like(coefficients) if needed[2] else None,
    )


@torch.library.register_fake("supernet::depthwise_conv2d")
def _(x, weight, stride):
    kernel = weight.shape[2]
    return _conv_output(x, x.shape[1], kernel, stride, kernel // 2)


@torch.library.register_fake("supernet::depthwise_conv2d_backward")
def _(grad, x, weight, stride, needed):
    return _like_channels_last(x) if needed[0] else None, _like(weight) if needed[1] else None


@torch.library.register_fake("supernet::depth_mix")
def _(xs, p):
    return torch.empty_like(xs[0])


@torch.library.register_fake("supernet::depth_mix_backward")
def _(grad, xs, p):
    return [torch.empty_like(xs[0]) for _ in xs], torch.empty_like(p)


@torch.library.register_fake("supernet::dw_separable")
def _(x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, mid_act, out_act):
    kernel = dw_weight.shape[2]
    return _conv_output(x, pw_weight.shape[0], kernel, stride, kernel // 2)


@torch.library.register_fake("supernet::inverted_bottleneck")
def _(x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift, pw_weight, *rest):
    *_, stride, _ = rest
    kernel = dw_weight.shape[2]
    return _conv_output(x, pw_weight.shape[0], kernel, stride, kernel // 2)


@torch.library.register_fake("supernet::dw_separable_train")
def _(x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act, out_act):
    channels, outputs, kernel = x.shape[1], pw_weight.shape[0], dw_weight.shape[2]
    dw_out = _conv_output(x, channels, kernel, stride, kernel // 2)
    pw_out = _conv_output(x, outputs, kernel, stride, kernel // 2)
    stats = [_stats(x, c) for c in (channels, channels, outputs, outputs)]
    return torch.empty_like(pw_out), dw_out, pw_out, *stats


@torch.library.register_fake("supernet::dw_separable_backward")
def _(
    grad, x, dw_out, pw_out, dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, dw_eps, pw_weight, pw_gamma,
    pw_beta, pw_mean, pw_var, pw_eps, stride, mid_act, out_act, x_needed,
):  # fmt: skip
    return (
        _like_channels_last(x) if x_needed else None,
        *(_like(t) for t in (dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta)),
    )


@torch.library.register_fake("supernet::inverted_bottleneck_train")
def _(
    x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta,
    eps, residual, stride, act,
):  # fmt: skip
    channels, outputs, kernel = expand_weight.shape[0], pw_weight.shape[0], dw_weight.shape[2]
    expand_out = _conv_output(x, channels, 1, 1, 0)
    dw_out, pw_out = (_conv_output(x, c, kernel, stride, kernel // 2) for c in (channels, outputs))
    stats = [_stats(x, c) for c in (channels, channels, channels, channels, outputs, outputs)]
    return torch.empty_like(pw_out), expand_out, dw_out, pw_out, *stats


@torch.library.register_fake("supernet::inverted_bottleneck_backward")
def _(
    grad, x, expand_out, dw_out, pw_out, expand_weight, expand_gamma, expand_beta, expand_mean, expand_var,
    dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, pw_weight, pw_gamma, pw_beta, pw_mean, pw_var, eps, residual,
    stride, act, x_needed,
):  # fmt: skip
    parameters = (
        *(expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta),
        *(pw_weight, pw_gamma, pw_beta),
    )
    return _like_channels_last(x) if x_needed else None, *(_like(t) for t in parameters)


@torch.library.register_fake("supernet::batch_norm_act_train")
def _(x, gamma, beta, eps, act):
    return _like_channels_last(x), _stats(x, x.shape[1]), _stats(x, x.shape[1])


@torch.library.register_fake("supernet::batch_norm_act_backward")
def _(grad, x, gamma, beta, mean, var, eps, act):
    return _like_channels_last(x), _like(gamma), _like(beta)
