"""The CPU kernels of every instruction set that this machine has, against plain PyTorch."""

import os
import subprocess
import sys

import pytest
import reference
import torch
from torch.nn import functional as F

ops = pytest.importorskip("supernet.ops", reason="the extension is not built", exc_type=ImportError)
_C = pytest.importorskip("supernet._C")

BEST = _C.build_info()["cpu_capability"]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# Largest error of a whole tensor relative to its L2 norm
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1.2e-2}
# In inference each tensor rounded to bfloat16 (folded weights of pointwise convolutions, what they read, the output)
# adds at most 2^-9 of its norm, and AMX rounds all of them; AVX-512-bf16 also the folded depthwise weights and what
# these are multiplied with, whose errors average out over the taps.
SEPARABLE_INFERENCE = {**TOLERANCE, torch.bfloat16: 3 * 2**-9}
BOTTLENECK_INFERENCE = {**TOLERANCE, torch.bfloat16: 4 * 2**-9}
# (N, C, H, W): one vector and less, tails, images smaller than the kernel, several bands, batch 1
SHAPES = ((2, 19, 9, 7), (1, 16, 8, 8), (3, 40, 14, 14), (2, 5, 3, 2), (1, 33, 29, 31), (2, 8, 1, 1))


def error(got, want, floor=1e-3):
    want = want.detach().double()
    return ((got.detach().double() - want).norm() / want.norm().clamp_min(floor)).item()


def channels_last(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float64).to(dtype).to(memory_format=torch.channels_last)


def grads(y, inputs, grad):
    return torch.autograd.grad(y, inputs, grad)


def at_threads(fn):
    """The tensors that fn returns with 1, 2 and 3 threads."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(fn())
    finally:
        torch.set_num_threads(before)
    return results


# --- depthwise_conv2d ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_depthwise(capability, k, stride):
    for shape in (*SHAPES, (1, 128, 70, 61)):  # the last one is cut into bands
        for dtype in DTYPES:
            if shape[1] == 128 and dtype != torch.float32:
                continue
            x = channels_last(*shape, dtype=dtype).requires_grad_()
            weight = (torch.randn(shape[1], 1, k, k) / k).to(dtype).requires_grad_()
            y = ops.depthwise_conv2d(x, weight, stride=stride)
            assert y.is_contiguous(memory_format=torch.channels_last)
            inputs = reference.to([x, weight], torch.float64)
            want = F.conv2d(*inputs, None, stride, k // 2, 1, shape[1])
            grad = torch.randn_like(want).to(dtype)
            named = zip(
                ("output", "x", "weight"),
                (y, *grads(y, [x, weight], grad)),
                (want, *grads(want, inputs, grad.double())),
                strict=True,
            )
            for name, g, w in named:
                assert g.shape == w.shape
                assert g.dtype == dtype
                assert error(g, w) <= TOLERANCE[dtype], (name, shape, dtype)


def test_depthwise_computes_only_what_is_needed(capability):
    x, weight = channels_last(2, 20, 9, 9), torch.randn(20, 1, 5, 5)
    grad = torch.randn_like(x)
    both = torch.ops.supernet.depthwise_conv2d_backward(grad, x, weight, 1, [True, True])
    for needed in ([True, False], [False, True]):
        got = torch.ops.supernet.depthwise_conv2d_backward(grad, x, weight, 1, needed)
        for want, g, wanted in zip(both, got, needed, strict=True):
            assert g.equal(want) if wanted else g is None


def test_depthwise_gradcheck(capability):
    for k, stride in ((3, 1), (5, 2), (7, 2), (3, 3)):
        x = channels_last(2, 3, 5, 6, dtype=torch.float64).requires_grad_()
        weight = torch.randn(3, 1, k, k, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x, w, s=stride: ops.depthwise_conv2d(x, w, stride=s), (x, weight), fast_mode=True
        )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_depthwise_opcheck():
    x, weight = channels_last(2, 5, 6, 7).requires_grad_(), torch.randn(5, 1, 3, 3, requires_grad=True)
    op = torch.ops.supernet
    torch.library.opcheck(op.depthwise_conv2d.default, (x, weight, 2))
    args = (channels_last(2, 5, 3, 4), x.detach(), weight.detach(), 2, [True, True])
    torch.library.opcheck(op.depthwise_conv2d_backward.default, args)


def test_depthwise_empty_batch_and_layouts():
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    x = torch.randn(0, 4, 5, 5, requires_grad=True)
    y = ops.depthwise_conv2d(x, weight, stride=2)
    assert y.shape == (0, 4, 3, 3)
    y.sum().backward()
    assert weight.grad.eq(0).all()
    assert x.grad.shape == x.shape
    dense = torch.randn(2, 4, 6, 5)
    strided = torch.repeat_interleave(dense, 2, dim=3)[..., ::2]
    want = F.conv2d(dense, weight, None, 1, 1, 1, 4)
    for x in (dense, strided):
        assert error(ops.depthwise_conv2d(x, weight), want) < 1e-6


@pytest.mark.parametrize(
    ("x", "weight", "stride", "message"),
    [
        ((2, 4, 5), (4, 1, 3, 3), 1, "x should be a 4d tensor [N, C, H, W], got 3d"),
        ((2, 4, 5, 5), (3, 1, 3, 3), 1, "weight should have shape [4, 1, k, k] for x with 4 channels"),
        ((2, 4, 5, 5), (4, 1, 2, 2), 1, "weight should have a square kernel of 1, 3, 5 or 7, got 2x2"),
        ((2, 4, 5, 5), (4, 1, 3, 3), 0, "stride should be at least 1, got 0"),
    ],
)  # fmt: skip
def test_depthwise_refusals(x, weight, stride, message):
    with pytest.raises(RuntimeError) as caught:
        ops.depthwise_conv2d(torch.zeros(x), torch.zeros(weight), stride=stride)
    assert str(caught.value).startswith(f"depthwise_conv2d: {message}")


# --- dw_separable_train -------------------------------------------------------------------------------------


def separable_case(shape, outputs, k, dtype, affine=True):
    """x, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta: leaves of type dtype."""
    c = shape[1]

    def vectors(n):
        return [torch.rand(n) + 0.5, torch.rand(n) - 0.5] if affine else [None, None]

    weights = torch.randn(c, 1, k, k) / k, torch.randn(outputs, c, 1, 1) / c**0.5
    case = [channels_last(*shape), weights[0], *vectors(c), weights[1], *vectors(outputs)]
    return [v if v is None else v.to(dtype).requires_grad_() for v in case]


def flat(result):
    y, *stats = result
    return [y, *(s for pair in stats for s in pair)]


def compare_training(name, args, options, outputs, roundings):
    """Outputs (y and statistics, so many) and gradients of a training operator with those of its twin.

    ``roundings``: what bfloat16's tolerance is multiplied by, for the tensors of full size that are rounded to it.
    """
    dtype = args[0].dtype
    twins = reference.to(args, torch.float64)
    got = flat(getattr(ops, name)(*args, **options))
    want = flat(getattr(reference, name)(*twins, **options))
    grad = torch.randn_like(want[0]).to(dtype)
    leaves = [[a for a in each if a is not None] for each in (args, twins)]
    got += grads(got[0], leaves[0], grad)
    want += grads(want[0], leaves[1], grad.double())
    # Gradients that a following batch norm makes vanish are what is left of large terms: their errors are judged
    # against the gradient that came in.
    floor = grad.double().norm().item() / 10
    for j, (g, w) in enumerate(zip(got, want, strict=True)):
        limit = TOLERANCE[dtype] * (roundings if dtype == torch.bfloat16 else 2)
        assert error(g, w, floor if j >= outputs else 1e-3) <= limit, (j, args[0].shape, dtype, options)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_separable_train(capability, k, stride):
    acts = [("relu6", "none"), ("none", "relu"), ("hard_swish", "relu6"), ("relu", "hard_swish")]
    # Outputs: one vector and less, two, three, and more with a tail
    for i, (shape, outputs) in enumerate(zip(SHAPES[:5], (6, 16, 48, 33, 70), strict=True)):
        mid_act, out_act = ("swish", "swish") if i == 4 else acts[(i + k) % 4]
        options = {"stride": stride, "mid_act": mid_act, "out_act": out_act, "eps": 1e-3}
        for dtype in DTYPES:
            args = separable_case(shape, outputs, k, dtype, affine=i != 3)
            compare_training("dw_separable_train", args, options, 5, roundings=7)


def test_separable_train_statistics_do_not_cancel(capability):
    """A mean 1000 times the deviation: the plain sum of squares would leave no digit of the variance."""
    x = (channels_last(4, 20, 20, 20) + 1000).requires_grad_(False)
    ones, eye = torch.ones(20, 1, 1, 1), torch.eye(20)[..., None, None]
    _, (mean, var), (pw_mean, pw_var) = ops.dw_separable_train(
        x, ones, None, None, eye, None, None, eps=1e-3, mid_act="none"
    )
    want = x.double().var((0, 2, 3), correction=0)
    assert error(mean, x.double().mean((0, 2, 3))) < 1e-6
    assert error(var, want) < 1e-4
    assert pw_mean.abs().max() < 1e-3
    assert error(pw_var, want / (want + 1e-3)) < 1e-4


def test_separable_train_without_the_input_gradient(capability):
    args = separable_case((2, 20, 9, 7), 8, 3, torch.float32)
    args[0].requires_grad_(False)
    ops.dw_separable_train(*args, eps=1e-3)[0].square().sum().backward()
    assert all(a.grad is not None for a in args[1:])


def test_separable_train_gradcheck(capability):
    for i, act in enumerate(("none", "relu", "relu6", "hard_swish", "swish")):
        args = separable_case((2, 3, 5, 4), 2, (3, 5)[i % 2], torch.float64, affine=i > 0)

        def forward(*a, stride=1 + i // 2 % 2, act=act):
            return ops.dw_separable_train(*a, eps=0.1, stride=stride, mid_act=act, out_act=act)[0]

        assert torch.autograd.gradcheck(forward, args, fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_separable_train_does_not_depend_on_the_threads(dtype):
    args = separable_case((13, 24, 19, 17), 20, 5, dtype)
    grad = channels_last(13, 20, 10, 9, dtype=dtype)

    def run():
        result = flat(ops.dw_separable_train(*args, eps=1e-3, stride=2, mid_act="relu6"))
        return *result, *grads(result[0], args, grad)

    first, *others = at_threads(run)
    for other in others:
        assert all(a.equal(b) for a, b in zip(first, other, strict=True))


# --- dw_separable, the inference form -----------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_separable_inference(capability, k, stride):
    acts = [("relu6", "none"), ("none", "relu"), ("hard_swish", "relu6"), ("relu", "hard_swish")]
    # Several images a part, several bands an image, one; outputs as above. And rows of which few are cached at a time
    shapes = (*SHAPES[:5], (9, 70, 7, 7), (2, 200, 30, 23), (2, 20, 1, 30), (1, 8, 9, 112), (1, 8, 5, 160))
    for i, (shape, outputs) in enumerate(zip(shapes, (6, 16, 48, 33, 70, 24, 130, 3, 20, 8), strict=True)):
        mid_act, out_act = ("swish", "swish") if i == 4 else acts[(i + k) % 4]
        options = {"stride": stride, "mid_act": mid_act, "out_act": out_act}
        for dtype in DTYPES:
            args = [a.detach() for a in separable_case(shape, outputs, k, dtype)]
            got = ops.dw_separable(*args, **options)
            want = reference.dw_separable(*reference.to(args, torch.float64), **options)
            assert got.dtype == dtype
            assert got.is_contiguous(memory_format=torch.channels_last)
            assert error(got, want) <= SEPARABLE_INFERENCE[dtype], (shape, dtype, options)


def test_separable_inference_mixes_types():
    """bfloat16 images beside float32 batch norms, as autocast has them."""
    args = [a.detach() for a in separable_case((2, 20, 9, 7), 12, 3, torch.bfloat16)]
    mixed = [a.float() if a.dim() == 1 else a for a in args]
    assert error(ops.dw_separable(*mixed), ops.dw_separable(*args)) < 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
def test_separable_inference_does_not_depend_on_the_threads(dtype):
    args = [a.detach() for a in separable_case((5, 70, 41, 33), 20, 5, dtype)]
    first, *others = at_threads(lambda: ops.dw_separable(*args))
    assert all(first.equal(other) for other in others)


def test_inference_keeps_pixels_and_images_apart(capability):
    """What is not a number spoils the outputs that read it and no other, whatever is computed beside them.

    Pairs of rows multiply one row more, by zero, which leaves numbers alone only.
    """
    for dtype in DTYPES:
        x = channels_last(3, 20, 9, 7, dtype=dtype)
        spoilt = x.clone()
        spoilt[1, 5, 4, 3], spoilt[1, 19, 8, 6] = torch.nan, torch.inf
        more = int(capability == "avx512_bf16" and dtype == torch.bfloat16)
        near = torch.zeros(3, 1, 9, 7, dtype=torch.bool)
        near[1, :, 3 - more : 6 + more, 2:5] = near[1, :, 7 - more :, 5:] = True
        forms = (
            (ops.dw_separable, separable_case(x.shape, 6, 3, dtype)),
            (ops.inverted_bottleneck, bottleneck_case(x.shape, 40, 6, 3, dtype)),
        )
        for form, case in forms:
            args = [a.detach() for a in case[1:]]
            clean, got = form(x, *args), form(spoilt, *args)
            assert got[near.expand_as(got)].isnan().any()
            assert got[~near.expand_as(got)].equal(clean[~near.expand_as(got)]), (form, dtype)


def test_inference_of_an_empty_batch(capability):
    for dtype in DTYPES:
        separable = [a.detach() for a in separable_case((0, 20, 9, 7), 6, 3, dtype)]
        bottleneck = [a.detach() for a in bottleneck_case((0, 20, 9, 7), 40, 6, 3, dtype)]
        assert ops.dw_separable(*separable, stride=2).shape == (0, 6, 5, 4)
        assert ops.inverted_bottleneck(*bottleneck, stride=2).shape == (0, 6, 5, 4)


# --- masked_conv2d's pointwise form, depth_mix ---------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_pointwise(capability, soft):
    """Fewer outputs than inputs and more, tails, more than one block of pixels."""
    for shape, outputs in ((SHAPES[0], 6), (SHAPES[1], 48), (SHAPES[3], 33), ((3, 70, 24, 23), 100)):
        for dtype in DTYPES:
            x = channels_last(*shape, dtype=dtype).requires_grad_()
            weight = (torch.randn(outputs + 3, shape[1] + 2, 1, 1) / shape[1] ** 0.5).to(dtype).requires_grad_()
            c = (torch.arange(outputs) % 4 / 2).to(dtype).requires_grad_() if soft else None
            twins = reference.to([x, weight, c], torch.float64)
            y = ops.masked_conv2d(x, weight, out_channels=outputs, coefficients=c)
            want = reference.masked_conv2d(twins[0], twins[1], out_channels=outputs, coefficients=twins[2])
            grad = torch.randn_like(want).to(dtype)
            leaves = [[t for t in each if t is not None] for each in ((x, weight, c), twins)]
            got, want = (y, *grads(y, leaves[0], grad)), (want, *grads(want, leaves[1], grad.double()))
            for j, (g, w) in enumerate(zip(got, want, strict=True)):
                assert error(g, w) <= TOLERANCE[dtype] * 2, (j, shape, dtype)


def test_depth_mix(capability):
    for n in (3, 64, 6001):  # values: less than a vector, whole groups of them, several blocks and a tail
        for dtype in DTYPES:
            xs = [torch.randn(n, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(4)]
            p = torch.tensor([0.3, 0.0, -1.5, 1.0], dtype=dtype, requires_grad=True)
            y, grad = ops.depth_mix(xs, p), torch.randn(n, dtype=torch.float64).to(dtype)
            *twins, q = reference.to([*xs, p], torch.float64)
            want = reference.depth_mix(twins, q)
            got = (y, *grads(y, [*xs, p], grad))
            want = (want, *grads(want, [*twins, q], grad.double()))
            assert all(error(g, w) <= TOLERANCE[dtype] for g, w in zip(got, want, strict=True)), (n, dtype)


# --- inverted_bottleneck -----------------------------------------------------------------------------------


def bottleneck_case(shape, mid, outputs, k, dtype, affine=True):
    """x and weight, gamma, beta of the three convolutions: leaves of type dtype."""
    separable = separable_case((1, mid, 1, 1), outputs, k, dtype, affine)[1:]
    expand = torch.randn(mid, shape[1], 1, 1, dtype=torch.float64) / shape[1] ** 0.5
    vectors = [torch.rand(mid) + 0.5, torch.rand(mid) - 0.5] if affine else [None, None]
    case = [channels_last(*shape), expand, *vectors]
    return [v if v is None else v.to(dtype).requires_grad_() for v in case] + separable


# (N, C, H, W), mid: one vector and less, tails, several images a band, several bands an image through which the
# expanded rows slide, an image smaller than the kernel, batch 1
BOTTLENECKS = (
    ((2, 5, 9, 7), 19),
    ((1, 16, 8, 8), 96),
    ((5, 24, 7, 7), 40),
    ((2, 12, 41, 33), 100),
    ((3, 3, 2, 1), 6),
    ((1, 20, 70, 9), 200),
)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_inverted_bottleneck(capability, k, stride):
    for i, (shape, mid) in enumerate(BOTTLENECKS):
        residual = stride == 1 and i % 3 > 0
        act = "swish" if i == 1 else list(reference.ACTIVATIONS)[(i + k) % 4]
        options = {"stride": stride, "act": act, "residual": residual}
        for dtype in DTYPES:
            outputs = shape[1] if residual else (6, 16, 48, 33, 70, 24)[i]
            args = [a.detach() for a in bottleneck_case(shape, mid, outputs, k, dtype)]
            got = ops.inverted_bottleneck(*args, **options)
            want = reference.inverted_bottleneck(*reference.to(args, torch.float64), **options)
            assert got.dtype == dtype
            assert got.is_contiguous(memory_format=torch.channels_last)
            assert error(got, want) <= BOTTLENECK_INFERENCE[dtype], (shape, dtype, options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverted_bottleneck_does_not_depend_on_the_threads(dtype):
    args = [a.detach() for a in bottleneck_case((3, 12, 41, 33), 100, 20, 5, dtype)]
    first, *others = at_threads(lambda: ops.inverted_bottleneck(*args, stride=2))
    assert all(first.equal(other) for other in others)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_inverted_bottleneck_train(capability, k, stride):
    for i, (shape, mid) in enumerate(BOTTLENECKS[:5]):
        residual = stride == 1 and i % 3 > 0
        act = "swish" if i == 1 else list(reference.ACTIVATIONS)[(i + k) % 4]
        options = {"stride": stride, "act": act, "residual": residual, "eps": 0.1}
        for dtype in DTYPES:
            args = bottleneck_case(shape, mid, shape[1] if residual else 33, k, dtype, affine=i != 2)
            compare_training("inverted_bottleneck_train", args, options, 7, roundings=12)


def test_inverted_bottleneck_train_gradcheck(capability):
    for i, act in enumerate(("none", "relu", "relu6", "hard_swish", "swish")):
        args = bottleneck_case((2, 3, 5, 4), 5, 3, (3, 5)[i % 2], torch.float64, affine=i > 0)

        def forward(*a, stride=1 + i // 2 % 2, act=act):
            return ops.inverted_bottleneck_train(*a, eps=0.1, stride=stride, act=act, residual=stride == 1)[0]

        assert torch.autograd.gradcheck(forward, args, fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverted_bottleneck_train_does_not_depend_on_the_threads(dtype):
    args = bottleneck_case((13, 12, 19, 17), 40, 12, 5, dtype)
    grad = channels_last(13, 12, 19, 17, dtype=dtype)

    def run():
        result = flat(ops.inverted_bottleneck_train(*args, eps=1e-3, residual=True))
        return *result, *grads(result[0], args, grad)

    first, *others = at_threads(run)
    for other in others:
        assert all(a.equal(b) for a, b in zip(first, other, strict=True))


# --- batch_norm_act_train -----------------------------------------------------------------------------------


def batch_norm_twin(x, gamma, beta, act):
    z = F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-3)
    return reference.ACTIVATIONS[act](z), x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


@pytest.mark.parametrize("act", list(reference.ACTIVATIONS))
def test_batch_norm_act(capability, act):
    for i, shape in enumerate((*SHAPES, (3, 70, 24, 23))):
        for dtype in DTYPES:
            x = channels_last(*shape, dtype=dtype)
            vectors = [torch.rand(shape[1]) + 0.5, torch.rand(shape[1]) - 0.5] if i % 2 else [None, None]
            inputs = [v if v is None else v.to(dtype).requires_grad_() for v in (x, *vectors)]
            twins = reference.to(inputs, torch.float64)
            y, (mean, var) = ops.batch_norm_act_train(*inputs, eps=1e-3, act=act)
            want = batch_norm_twin(*twins, act)
            grad = torch.randn_like(want[0]).to(dtype)
            leaves = [[a for a in each if a is not None] for each in (inputs, twins)]
            got = (y, mean, var, *grads(y, leaves[0], grad))
            want = (*want, *grads(want[0], leaves[1], grad.double()))
            for j, (g, w) in enumerate(zip(got, want, strict=True)):
                assert error(g, w, 0.1) <= TOLERANCE[dtype] * 3, (j, shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_act_does_not_depend_on_the_threads(dtype):
    x, grad = (channels_last(13, 24, 31, 29, dtype=dtype) for _ in range(2))

    def run():
        y, mean, var = torch.ops.supernet.batch_norm_act_train(x, None, None, 1e-3, "relu")
        return y, mean, var, torch.ops.supernet.batch_norm_act_backward(
            grad, x, None, None, mean, var, 1e-3, "relu"
        )[0]  # fmt: skip

    first, *others = at_threads(run)
    for other in others:
        assert all(a.equal(b) for a, b in zip(first, other, strict=True))


# --- what holds for all -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_gradients_do_not_depend_on_the_threads(dtype):
    x, weight = channels_last(13, 24, 9, 9, dtype=dtype), torch.randn(24, 1, 5, 5).to(dtype)
    grad = channels_last(13, 24, 5, 5, dtype=dtype)
    first, *others = at_threads(
        lambda: (
            torch.ops.supernet.depthwise_conv2d(x, weight, 2),
            *torch.ops.supernet.depthwise_conv2d_backward(grad, x, weight, 2, [True, True]),
        )
    )
    for other in others:
        assert all(a.equal(b) for a, b in zip(first, other, strict=True))


def test_the_environment_names_the_capability():
    code = "import torch; from supernet import _C; print(_C.build_info()['cpu_capability'])"
    env = {**os.environ, "SUPERNET_CPU_CAPABILITY": "generic"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "generic"


SMALL_SIGNAL_STACK = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, 4096)), None) == 0
import torch; from supernet import _C; print(_C.build_info()["cpu_capability"])
"""


@pytest.mark.skipif(BEST != "amx", reason="this machine has no AMX")
def test_takes_avx512_bf16_where_the_system_refuses_amx():
    """A signal stack that could not hold the tiles makes Linux refuse them."""
    env = {k: v for k, v in os.environ.items() if k != "SUPERNET_CPU_CAPABILITY"}
    run = subprocess.run(
        [sys.executable, "-c", SMALL_SIGNAL_STACK], env=env, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "avx512_bf16"


def test_refuses_an_unknown_capability():
    sets = "generic, avx2, avx512, avx512_vnni, avx512_bf16 or amx"
    with pytest.raises(RuntimeError, match=f"CPU capability should be {sets}, got 'sse'"):
        _C.set_cpu_capability("sse")
