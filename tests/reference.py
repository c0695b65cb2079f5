"""Plain PyTorch twins of supernet.ops: slow, obviously right, differentiated by autograd."""

import math

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "swish": F.silu,
}


def masked_conv2d(x, weight, *, out_channels=None, coefficients=None, stride=1, padding=0, groups=1):
    per_group = weight.shape[0] // groups
    if groups == 1:
        active = 1
        weight = weight[:out_channels, : x.shape[1]]
    else:
        active = x.shape[1] // weight.shape[1]
        weight = weight[: active * per_group]
    y = F.conv2d(x, weight, None, stride, padding, 1, active)
    if coefficients is not None:
        # A channel whose coefficient is 0 is off, for the coefficient too.
        on = (coefficients != 0).to(y.dtype)
        y = y * (coefficients * on)[:, None, None]
    return y


def depth_mix(xs, p):
    return sum(weight * x for weight, x in zip(p, xs, strict=True))


def affine(y, scale, shift):
    return y * scale[:, None, None] + shift[:, None, None]


def batch_norm(y, gamma, beta, eps):
    mean = y.mean((0, 2, 3))
    var = y.var((0, 2, 3), correction=0)
    y = (y - mean[:, None, None]) / (var + eps).sqrt()[:, None, None]
    return y if gamma is None else affine(y, gamma, beta), (mean.detach(), var.detach())


def batch_norm_act_train(x, gamma, beta, *, eps, act="none"):
    y, stats = batch_norm(x, gamma, beta, eps)
    return ACTIVATIONS[act](y), stats


def dw_separable(
    x,
    dw_weight,
    dw_scale,
    dw_shift,
    pw_weight,
    pw_scale,
    pw_shift,
    *,
    stride=1,
    mid_act="relu",
    out_act="none",
):
    y = F.conv2d(x, dw_weight, None, stride, dw_weight.shape[2] // 2, 1, x.shape[1])
    y = ACTIVATIONS[mid_act](affine(y, dw_scale, dw_shift))
    return ACTIVATIONS[out_act](affine(F.conv2d(y, pw_weight), pw_scale, pw_shift))


def dw_separable_train(
    x,
    dw_weight,
    dw_gamma,
    dw_beta,
    pw_weight,
    pw_gamma,
    pw_beta,
    *,
    eps,
    stride=1,
    mid_act="relu",
    out_act="none",
):
    y = F.conv2d(x, dw_weight, None, stride, dw_weight.shape[2] // 2, 1, x.shape[1])
    y, dw_stats = batch_norm(y, dw_gamma, dw_beta, eps)
    y = F.conv2d(ACTIVATIONS[mid_act](y), pw_weight)
    y, pw_stats = batch_norm(y, pw_gamma, pw_beta, eps)
    return ACTIVATIONS[out_act](y), dw_stats, pw_stats


def inverted_bottleneck(
    x, expand_weight, expand_scale, expand_shift, *separable, residual=False, stride=1, act="relu6"
):
    y = ACTIVATIONS[act](affine(F.conv2d(x, expand_weight), expand_scale, expand_shift))
    y = dw_separable(y, *separable, stride=stride, mid_act=act)
    return x + y if residual else y


def inverted_bottleneck_train(
    x, expand_weight, expand_gamma, expand_beta, *separable, eps, residual=False, stride=1, act="relu6"
):
    y, expand_stats = batch_norm(F.conv2d(x, expand_weight), expand_gamma, expand_beta, eps)
    y, *stats = dw_separable_train(ACTIVATIONS[act](y), *separable, eps=eps, stride=stride, mid_act=act)
    return x + y if residual else y, expand_stats, *stats


def quantised(real, zero, dtype):
    """Float32 values rounded, halves to even, to the nearest of an 8-bit type."""
    ends = torch.iinfo(dtype)
    return (real.round() + zero).clamp(ends.min, ends.max).to(torch.int64)


def int8_conv(q, conv, stride, groups, dtype):
    """QLinearConv of ``[N, C, H, W]`` in 64-bit integers, tap after tap, of which 32 bits count; then the table."""
    k = conv.weight.shape[2]
    q = F.pad(q - conv.in_zero, [k // 2] * 4)
    height, width = ((size - k) // stride + 1 for size in q.shape[2:])
    sums = conv.bias.long()[:, None, None].expand(q.shape[0], -1, height, width)
    for i in range(k):
        for j in range(k):
            tap, seen = conv.weight[:, :, i, j].long(), q[:, :, i::stride, j::stride][:, :, :height, :width]
            sums = sums + (seen * tap[:, 0, None, None] if groups > 1 else torch.einsum("nchw,oc->nohw", seen, tap))
    sums = (sums + 2**31) % 2**32 - 2**31
    out = quantised(sums.float() * conv.scale[:, None, None], conv.zero, dtype)
    return out if conv.table is None else conv.table.long()[out - torch.iinfo(dtype).min]


def dw_separable_int8(x, dw, pw, *, stride=1):
    y = int8_conv(x.long(), dw, stride, len(dw.weight), x.dtype)
    return int8_conv(y, pw, 1, 1, x.dtype).to(x.dtype)


def inverted_bottleneck_int8(x, expand, dw, pw, *, residual=None, stride=1):
    y = dw_separable_int8(int8_conv(x.long(), expand, 1, 1, x.dtype).to(x.dtype), dw, pw, stride=stride)
    if residual is None:
        return y

    def times(q, zero, factor):
        mantissa, exponent = math.frexp(factor)
        return (q.long() - zero).float() * math.ldexp(round(mantissa * 2**16), exponent - 16)

    both = times(y, pw.zero, residual.pw_factor) + times(x, expand.in_zero, residual.x_factor)
    return quantised(both, residual.zero, x.dtype).to(x.dtype)


def to(value, dtype, device="cpu"):
    """A leaf copy of a tensor (or of each in a list) that wants gradients if the original does."""
    if isinstance(value, list | tuple):
        return [to(v, dtype, device) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to(device, dtype, copy=True).requires_grad_(value.requires_grad)
