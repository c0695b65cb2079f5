"""The compiled operators and the shapes that they take; csrc/ops wires their gradients.

The only module that imports the extension. The convolutions work on ``[N, C, H, W]`` tensors in
``channels_last`` memory; an input in another layout is converted once, at entry. float32, bfloat16 and
float64 everywhere, float16 on CUDA; under ``torch.autocast`` inputs and convolution weights are cast as for
PyTorch's convolutions. Weights may be views of larger tensors: they are kept as such for backward, and their gradients
have the size of the view. There are no second derivatives. Wrong shapes, types or devices raise ``RuntimeError`` with
what was expected and what came.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_BUILD = "build it in the project's folder with: pip install --no-build-isolation -e ."

try:
    from supernet import _C
except ImportError as error:
    raise ImportError(f"supernet's compiled operators are missing or do not load ({error}); {_BUILD}") from error

if _C.build_info()["torch"] != torch.__version__.split("+")[0]:
    raise ImportError(
        f"supernet's operators were compiled for torch {_C.build_info()['torch']}, this is torch "
        f"{torch.__version__}; {_BUILD}"
    )

from supernet import shape_inference  # noqa: E402, F401 - registers itself; the operators are loaded by now

_ops = torch.ops.supernet
_masked_conv2d = _ops.masked_conv2d.default
_depthwise_conv2d = _ops.depthwise_conv2d.default
_depth_mix = _ops.depth_mix.default
_dw_separable = _ops.dw_separable.default
_dw_separable_train = _ops.dw_separable_train.default
_inverted_bottleneck = _ops.inverted_bottleneck.default
_inverted_bottleneck_train = _ops.inverted_bottleneck_train.default
_batch_norm_act_train = _ops.batch_norm_act_train.default

Stats = tuple[Tensor, Tensor]


def build_info() -> dict[str, Any]:
    """What the extension was built with.

    ``torch`` and ``compiler`` (versions), ``cuda`` (version or None), ``cuda_archs`` (compute capabilities)
    and ``cpu_capability`` (the instruction set of the CPU kernels).
    """
    return _C.build_info()


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    out_channels: int | None = None,
    coefficients: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Convolution with the active part of a weight of the largest width.

    Reads the first ``out_channels`` outputs and the first ``x.size(1)`` inputs of ``weight``; its cost is
    that of the active part. With ``groups > 1`` whole groups are active: ``x.size(1) / weight.size(1)`` of
    them. Depthwise is ``groups == weight.size(0)``.

    Args:
        x: ``[N, w_in, H, W]``.
        weight: ``[W_out, W_in / groups, k, k]``, k 1, 3, 5 or 7, of x's type.
        out_channels: active outputs; None takes all (of the active groups).
        coefficients: ``[out_channels]``, of x's type or float32: output channel k is multiplied by
            ``coefficients[k]``. A channel whose coefficient is exactly 0 is off: it is 0, and its rows of the
            weight and the coefficient itself get gradient 0.

    Returns:
        ``[N, out_channels, H', W']``, channels_last. The weight's gradient has the full weight's shape and is
        zero outside the active part.

    Source: SPOS's channel search (arXiv:1904.00420); coefficients as in FBNetV2 (arXiv:2004.05565, eq. 4-6).
    """
    x, weight = _prepared(x, weight)
    return _masked_conv2d(x, weight, coefficients, out_channels, stride, padding, groups)


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """Depthwise k x k convolution with padding k // 2; on the CPU by kernels of our own, forward and backward.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[C, 1, k, k]``, k 1, 3, 5 or 7, of x's type.

    Returns:
        ``[N, C, H', W']``, channels_last. Gradients do not depend on the number of threads.
    """
    x, weight = _prepared(x, weight)
    return _depthwise_conv2d(x, weight, stride)


def depth_mix(xs: Sequence[Tensor], p: Tensor) -> Tensor:
    """The mixture ``y = sum_d p[d] * xs[d]`` in one pass.

    Args:
        xs: 1 to 32 tensors of one type and one shape, which may be any. Those whose memory layout is not that of
            the first are copied once.
        p: ``[len(xs)]``, of their type or float32. Where p[d] is exactly 0, xs[d] is not read and its
            gradient is 0; the gradient of p[d] is ``<grad, xs[d]>`` all the same.

    Returns:
        A tensor like ``xs[0]``. The gradient of p does not depend on the number of threads.
    """
    return _depth_mix(xs, p)


def dw_separable(
    x: Tensor,
    dw_weight: Tensor,
    dw_scale: Tensor,
    dw_shift: Tensor,
    pw_weight: Tensor,
    pw_scale: Tensor,
    pw_shift: Tensor,
    *,
    stride: int = 1,
    mid_act: str = "relu",
    out_act: str = "none",
) -> Tensor:
    """Depthwise k x k, affine, activation, pointwise 1 x 1, affine, activation: for inference.

    A batch norm in eval mode is ``scale = gamma / sqrt(var + eps)``, ``shift = beta - mean * scale``.

    Args:
        x: ``[N, C, H, W]``.
        dw_weight: ``[C, 1, k, k]``, k 1, 3, 5 or 7; padding is k // 2.
        dw_scale, dw_shift: ``[C]``, of x's type or float32.
        pw_weight: ``[O, C, 1, 1]``.
        pw_scale, pw_shift: ``[O]``.
        mid_act, out_act: ``relu``, ``relu6``, ``hard_swish``, ``swish`` or ``none``.

    Returns:
        ``[N, O, H', W']``, channels_last. It has no gradient: backward raises.
    """
    x, dw_weight, pw_weight = _prepared(x, dw_weight, pw_weight)
    return _dw_separable(x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, mid_act, out_act)


def dw_separable_train(
    x: Tensor,
    dw_weight: Tensor,
    dw_gamma: Tensor | None,
    dw_beta: Tensor | None,
    pw_weight: Tensor,
    pw_gamma: Tensor | None,
    pw_beta: Tensor | None,
    *,
    eps: float,
    stride: int = 1,
    mid_act: str = "relu",
    out_act: str = "none",
) -> tuple[Tensor, Stats, Stats]:
    """`dw_separable` with batch norms that normalise by the batch: for training.

    Keeps x and the two tensors before the batch norms for backward, which computes the rest again.

    Args:
        x, dw_weight, pw_weight, stride, mid_act, out_act: as in `dw_separable`.
        dw_gamma, dw_beta: ``[C]``, of x's type or float32, or both None (batch norm without affine).
        pw_gamma, pw_beta: ``[O]``, likewise.
        eps: of both batch norms.

    Returns:
        ``(y, (dw_mean, dw_var), (pw_mean, pw_var))``: the output and the batch's means and biased variances
        per channel, float32 (float64 for float64 input), without gradient.

    Raises:
        RuntimeError: also if a channel has fewer than two values: its variance would not be defined.
    """
    x, dw_weight, pw_weight = _prepared(x, dw_weight, pw_weight)
    y, _, _, dw_mean, dw_var, pw_mean, pw_var = _dw_separable_train(
        x, dw_weight, dw_gamma, dw_beta, eps, pw_weight, pw_gamma, pw_beta, eps, stride, mid_act, out_act
    )
    return y, (dw_mean, dw_var), (pw_mean, pw_var)


def inverted_bottleneck(
    x: Tensor,
    expand_weight: Tensor,
    expand_scale: Tensor,
    expand_shift: Tensor,
    dw_weight: Tensor,
    dw_scale: Tensor,
    dw_shift: Tensor,
    pw_weight: Tensor,
    pw_scale: Tensor,
    pw_shift: Tensor,
    *,
    residual: bool = False,
    stride: int = 1,
    act: str = "relu6",
) -> Tensor:
    """Pointwise 1 x 1, affine, activation, then `dw_separable` with the same activation: for inference.

    On the CPU the expanded image never reaches memory.

    Args:
        x: ``[N, C, H, W]``.
        expand_weight: ``[M, C, 1, 1]``; expand_scale, expand_shift: ``[M]``, of x's type or float32.
        dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride: as in `dw_separable`, from M channels.
        residual: add x to the result; needs stride 1 and as many outputs as inputs.
        act: after the expansion and after the depthwise part: ``relu``, ``relu6``, ``hard_swish``, ``swish`` or
            ``none``.

    Returns:
        ``[N, O, H', W']``, channels_last. It has no gradient: backward raises.

    Source: MobileNetV2 (arXiv:1801.04381, section 3.2).
    """
    x, expand_weight, dw_weight, pw_weight = _prepared(x, expand_weight, dw_weight, pw_weight)
    return _inverted_bottleneck(
        *(x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift),
        *(pw_weight, pw_scale, pw_shift, residual, stride, act),
    )


def inverted_bottleneck_train(
    x: Tensor,
    expand_weight: Tensor,
    expand_gamma: Tensor | None,
    expand_beta: Tensor | None,
    dw_weight: Tensor,
    dw_gamma: Tensor | None,
    dw_beta: Tensor | None,
    pw_weight: Tensor,
    pw_gamma: Tensor | None,
    pw_beta: Tensor | None,
    *,
    eps: float,
    residual: bool = False,
    stride: int = 1,
    act: str = "relu6",
) -> tuple[Tensor, Stats, Stats, Stats]:
    """`inverted_bottleneck` with batch norms that normalise by the batch: for training.

    Keeps x and the three tensors before the batch norms for backward, which computes the rest again.

    Args:
        x, weights, residual, stride, act: as in `inverted_bottleneck`.
        expand_gamma, expand_beta, …: of the three batch norms, of x's type or float32, or both None (batch norm
            without affine).
        eps: of all three.

    Returns:
        ``(y, expand's, depthwise's, projection's (mean, var))``: statistics as in `dw_separable_train`.

    Raises:
        RuntimeError: also if a channel has fewer than two values: its variance would not be defined.
    """
    x, expand_weight, dw_weight, pw_weight = _prepared(x, expand_weight, dw_weight, pw_weight)
    y, _, _, _, *stats = _inverted_bottleneck_train(
        *(x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta),
        *(pw_weight, pw_gamma, pw_beta, eps, residual, stride, act),
    )
    return y, tuple(stats[:2]), tuple(stats[2:4]), tuple(stats[4:])


def batch_norm_act_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, *, eps: float, act: str = "none"
) -> tuple[Tensor, Stats]:
    """Batch norm by the batch's own statistics, then an activation, as one operator that keeps only x for backward.

    Args:
        x: ``[B, C, H, W]``; converted to channels_last once if it is not.
        gamma, beta: ``[C]``, of x's type or float32, or both None.
        act: ``relu``, ``relu6``, ``hard_swish``, ``swish`` or ``none``.

    Returns:
        ``(y, (mean, var))``: statistics as in `dw_separable_train`.

    Raises:
        RuntimeError: wrong shapes; fewer than two values per channel.
    """
    y, mean, var = _batch_norm_act_train(_channels_last(x), gamma, beta, eps, act)
    return y, (mean, var)


# What is no tensor, or no image, is left to the operators, which say what they expect.


def _prepared(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """In autocast's type, as autocast has it for convolutions (float64 stays); x in channels_last."""
    if isinstance(x, Tensor) and x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weights = _cast(x, dtype), tuple(_cast(w, dtype) for w in weights)
    return _channels_last(x), *weights


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    casts = isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64
    return t.to(dtype) if casts else t


def _channels_last(x: Tensor) -> Tensor:
    image = isinstance(x, Tensor) and x.layout == torch.strided and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if image else x
