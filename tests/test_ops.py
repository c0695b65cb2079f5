"""Every operator against its plain twin in reference.py, forward and backward, on the CPU and on a GPU.

"aten" is the CPU with the forms for every device in place of its own.
"""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import reference
import torch
from aten import forms_for_every_device
from torch import Tensor

from supernet import active

ops = pytest.importorskip("supernet.ops", reason="the extension is not built", exc_type=ImportError)

KERNELS = (1, 3, 5, 7)
ACTS = ("none", "relu", "relu6", "hard_swish", "swish")
CPU_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# (N, H, W): odd sizes, batch 1, an image smaller than the kernel
SIZES = ((2, 9, 7), (1, 8, 8), (3, 5, 6), (2, 3, 2))
LAYOUTS = ("channels_last", "contiguous", "strided")
# Largest relative error of the whole tensor in the L2 norm: one wrong element shows, rounding does not.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2.5e-2}

gpu = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["cpu", "aten", gpu])
def device(request):
    if request.param == "aten":
        with forms_for_every_device():
            yield "cpu"
        return
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        if ops.build_info()["cuda"] is None:
            pytest.skip("the extension was built without CUDA")
    yield request.param


@pytest.fixture(params=["cpu", "aten"])
def form(request):
    """The CPU's own forms, and those for every device."""
    with forms_for_every_device() if request.param == "aten" else nullcontext():
        yield


def dtypes(device):
    return CPU_DTYPES if device == "cpu" else (*CPU_DTYPES, torch.float16)


def image(n, c, h, w, layout="channels_last", **kw) -> Tensor:
    x = torch.randn(n, c, h, w, dtype=torch.float64, **kw)
    if layout == "channels_last":
        return x.to(memory_format=torch.channels_last)
    if layout == "strided":  # every second column of a wider tensor
        return torch.repeat_interleave(x, 2, dim=3)[..., ::2]
    return x


def close(got: Tensor | None, want: Tensor | None, dtype, what: str, factor=1.0) -> None:
    assert (got is None) == (want is None), what
    if want is None:
        return
    assert got.shape == want.shape, what
    want = want.detach().double().cpu()
    error = (got.detach().double().cpu() - want).norm() / want.norm().clamp_min(0.1)  # some are 0 but for rounding
    assert error <= TOLERANCE[dtype] * factor, f"{what}: relative error {error:.2e}"


def leaves(args):
    for a in args:
        if isinstance(a, list | tuple):
            yield from leaves(a)
        elif isinstance(a, Tensor) and a.requires_grad:
            yield a


def compare(op, twin, args, kwargs, dtype, device, layout=None, factor=1.0) -> Tensor:
    """Runs both on the same numbers rounded to dtype, the twin in float64, and compares."""
    rounded = reference.to(args, dtype)
    want_args = reference.to(rounded, torch.float64)
    got_args = reference.to(rounded, dtype, device)
    if layout is not None:
        got_args[0] = relayout(got_args[0], layout)
    want, got = twin(*want_args, **kwargs), op(*got_args, **kwargs)
    if isinstance(want, tuple):
        (want, *want_stats), (got, *got_stats) = want, got
        for w, g in zip(sum(want_stats, ()), sum(got_stats, ()), strict=True):
            assert g.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert not g.requires_grad
            close(g, w, dtype, "statistics", factor)
    assert got.dtype == dtype
    close(got, want, dtype, "output", factor)
    if want.requires_grad:
        grad = torch.randn_like(want).to(dtype)
        wants = torch.autograd.grad(want, list(leaves(want_args)), grad.double())
        gots = torch.autograd.grad(got, list(leaves(got_args)), grad.to(device))
        for i, (w, g, leaf) in enumerate(zip(wants, gots, leaves(got_args), strict=True)):
            assert g.dtype == leaf.dtype
            close(g, w, dtype, f"gradient {i}", factor)
    return got


def relayout(x: Tensor, layout: str) -> Tensor:
    grad = x.requires_grad
    x = x.detach()
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.repeat_interleave(x, 2, dim=3)[..., ::2]
    else:
        x = x.contiguous()
    return x.requires_grad_(grad)


# --- masked_conv2d ------------------------------------------------------------------------------------------

# (weight's outputs, weight's inputs, groups, active inputs, active outputs)
CONVS = {
    "dense, full": (12, 10, 1, 10, 12),
    "dense, masked": (12, 10, 1, 7, 5),
    "dense, one channel": (12, 10, 1, 1, 1),
    "grouped, full": (12, 8, 4, 8, 12),
    "grouped, masked": (12, 8, 4, 4, 6),
    "depthwise, full": (19, 19, 19, 19, 19),
    "depthwise, masked": (19, 19, 19, 11, 11),
}


def conv_case(conv, k, size=(2, 9, 7), coefficients=False, zeros=True):
    outputs, inputs, groups, active_in, active_out = CONVS[conv]
    n, h, w = size
    x = image(n, active_in, h, w, requires_grad=True)
    weight = torch.randn(outputs, inputs // groups, k, k, dtype=torch.float64, requires_grad=True)
    c = None
    if coefficients:
        c = torch.rand(active_out, dtype=torch.float64) + 0.25
        if zeros:
            c[::3] = 0
        c.requires_grad_()

    def run(fn):
        def call(x, weight, c, **kw):
            return fn(x, weight, out_channels=active_out, coefficients=c, groups=groups, **kw)

        return call

    return [x, weight, c], run


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", KERNELS)
@pytest.mark.parametrize("conv", CONVS)
def test_masked_conv2d(conv, k, stride, device):
    for dtype in dtypes(device):
        for coefficients in (False, True):
            args, run = conv_case(conv, k, coefficients=coefficients)
            y = compare(
                run(ops.masked_conv2d),
                run(reference.masked_conv2d),
                args,
                {"stride": stride, "padding": k // 2},
                dtype,
                device,
            )
            assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conv", ["dense, masked", "depthwise, masked"])
def test_masked_conv2d_sizes_and_layouts(conv, size, layout, device):
    for padding in (0, 1, 2):
        if min(size[1:]) + 2 * padding < 3:
            continue
        args, run = conv_case(conv, 3, size, coefficients=True)
        y = compare(
            run(ops.masked_conv2d),
            run(reference.masked_conv2d),
            args,
            {"stride": 2, "padding": padding},
            torch.float32,
            device,
            layout,
        )
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_masked_conv2d_off_channels(device):
    x = torch.randn(2, 4, 5, 5, device=device, requires_grad=True)
    weight = torch.randn(6, 4, 3, 3, device=device)
    weight[1] = float("inf")
    weight.requires_grad_()
    c = torch.tensor([1.0, 0.0, 0.5, 0.0], device=device, requires_grad=True)
    y = ops.masked_conv2d(x, weight, out_channels=4, coefficients=c, padding=1)
    assert y[:, [1, 3]].eq(0).all(), "an off channel is 0 whatever its weight holds"
    y.square().sum().backward()
    assert weight.grad.shape == weight.shape
    assert weight.grad[[1, 3, 4, 5]].eq(0).all(), "no gradient for off channels and beyond the active part"
    assert weight.grad[[0, 2]].ne(0).all()
    assert c.grad[[1, 3]].eq(0).all()
    assert c.grad[[0, 2]].ne(0).all()
    assert x.grad.isfinite().all()


def test_masked_conv2d_default_out_channels(device):
    weight = torch.randn(12, 2, 3, 3, device=device)
    assert ops.masked_conv2d(torch.randn(1, 2, 5, 5, device=device), weight).shape == (1, 12, 3, 3)
    assert ops.masked_conv2d(torch.randn(1, 4, 5, 5, device=device), weight, groups=4).shape == (1, 6, 3, 3)


def test_masked_conv2d_float32_coefficients_beside_bfloat16(device):
    x = torch.randn(2, 4, 5, 5, device=device, dtype=torch.bfloat16)
    weight = torch.randn(6, 4, 3, 3, device=device, dtype=torch.bfloat16, requires_grad=True)
    c = torch.rand(6, device=device, requires_grad=True)
    ops.masked_conv2d(x, weight, coefficients=c).sum().backward()
    assert (weight.grad.dtype, c.grad.dtype) == (torch.bfloat16, torch.float32)


def test_masked_conv2d_no_gradient_wanted(device):
    """Only what is asked for is computed: x without grad is the stem's case."""
    x = torch.randn(2, 3, 8, 8, device=device)
    weight = torch.randn(6, 3, 3, 3, device=device, requires_grad=True)
    ops.masked_conv2d(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


# --- depth_mix ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5, 32])
@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (1, 1, 1, 1), (3, 40, 33, 11), (13,), (4, 1031)])
def test_depth_mix(shape, depth, zeros, device):
    p = torch.rand(depth, dtype=torch.float64) + 0.1
    if zeros:
        p[1::2] = 0
    xs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(depth)]
    for dtype in dtypes(device):
        compare(ops.depth_mix, reference.depth_mix, [xs, p.requires_grad_()], {}, dtype, device)


@pytest.mark.parametrize("layouts", [LAYOUTS, LAYOUTS[::-1], ("strided",) * 3, ("channels_last",) * 3])
def test_depth_mix_layouts(layouts, device):
    xs = [image(2, 6, 5, 4, layout).to(device).requires_grad_() for layout in layouts]
    p = torch.rand(3, dtype=torch.float64, device=device, requires_grad=True)
    y = ops.depth_mix(xs, p)
    torch.testing.assert_close(y, reference.depth_mix(xs, p))
    if layouts[0] != "strided":
        assert y.stride() == xs[0].stride()
    grad = torch.randn(2, 6, 5, 4, dtype=torch.float64, device=device)
    got = torch.autograd.grad(y, [*xs, p], grad)
    want = torch.autograd.grad(reference.depth_mix(xs, p), [*xs, p], grad)
    torch.testing.assert_close(got, want)


def test_depth_mix_entries_that_are_off_are_not_read(device):
    xs = [torch.randn(2, 4, 5, 5, device=device), torch.full((2, 4, 5, 5), float("nan"), device=device)]
    p = torch.tensor([1.0, 0.0], device=device)
    assert ops.depth_mix(xs, p).equal(xs[0])


def test_depth_mix_off_entry_gets_its_true_coefficient_gradient(device):
    xs = [torch.randn(3, 5, device=device, requires_grad=True) for _ in range(2)]
    p = torch.tensor([1.0, 0.0], device=device, requires_grad=True)
    ops.depth_mix(xs, p).sum().backward()
    assert xs[1].grad.eq(0).all()
    torch.testing.assert_close(p.grad, torch.stack([x.detach().sum() for x in xs]))


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_depth_mix_gradients_do_not_depend_on_the_threads(dtype):
    xs = [torch.randn(7, 33, 29, 31).to(dtype) for _ in range(3)]
    p, grad = torch.rand(3), torch.randn(7, 33, 29, 31).to(dtype)
    p = p.to(dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            grad_xs, grad_p = torch.ops.supernet.depth_mix_backward(grad, xs, p)
            results.append([torch.ops.supernet.depth_mix(xs, p), *grad_xs, grad_p])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


def test_depth_mix_gradient_of_p_is_accurate_in_float32(form):
    x, grad = torch.rand(1 << 20) + 1, torch.rand(1 << 20) + 1
    _, got = torch.ops.supernet.depth_mix_backward(grad, [x], torch.ones(1))
    assert abs(got.item() / (x.double() @ grad.double()).item() - 1) < 1e-6


# --- dw_separable -------------------------------------------------------------------------------------------


def separable_case(k, size=(2, 9, 7), affine=True, channels=11, outputs=6):
    def vector(n, low=0.5):
        return (torch.rand(n, dtype=torch.float64) + low).requires_grad_() if affine else None

    n, h, w = size
    x = image(n, channels, h, w, requires_grad=True)
    dw = (torch.randn(channels, 1, k, k, dtype=torch.float64) / k).requires_grad_()
    pw = (torch.randn(outputs, channels, 1, 1, dtype=torch.float64) / channels**0.5).requires_grad_()
    return [x, dw, vector(channels), vector(channels, -0.5), pw, vector(outputs), vector(outputs, -0.5)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", KERNELS)
@pytest.mark.parametrize("acts", [("relu", "none"), ("none", "relu6"), ("relu6", "relu"), *((a, a) for a in ACTS[3:])])
def test_dw_separable(acts, k, stride, device):
    args = [a.detach() for a in separable_case(k)]
    for dtype in dtypes(device):
        for layout in LAYOUTS:
            y = compare(
                ops.dw_separable,
                reference.dw_separable,
                args,
                {"stride": stride, "mid_act": acts[0], "out_act": acts[1]},
                dtype,
                device,
                layout,
            )
            assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", KERNELS)
@pytest.mark.parametrize("acts", [("relu", "none"), ("relu", "relu6"), ("relu6", "relu"), *((a, a) for a in ACTS[3:])])
def test_dw_separable_train(acts, k, stride, device):
    for affine in (True, False):
        args = separable_case(k, affine=affine)
        for dtype in dtypes(device):
            y = compare(
                ops.dw_separable_train,
                reference.dw_separable_train,
                args,
                {"eps": 1e-3, "stride": stride, "mid_act": acts[0], "out_act": acts[1]},
                dtype,
                device,
                factor=10 if dtype in (torch.bfloat16, torch.float16) else 2,  # two normalisations in a row
            )
            assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_dw_separable_train_sizes_and_layouts(size, layout, device):
    compare(
        ops.dw_separable_train,
        reference.dw_separable_train,
        separable_case(5, size),
        {"eps": 1e-3, "stride": 2, "mid_act": "none", "out_act": "relu6"},
        torch.float64,  # with mid_act none dw_beta's gradient is 0, which float32 meets but for rounding
        device,
        layout,
        factor=100,
    )


def test_dw_separable_train_statistics_survive_a_large_mean(device):
    """A plain sum of squares would cancel; so would 1 / invstd^2 - eps where the variance is small."""
    x = torch.randn(4, 3, 8, 8, device=device, dtype=torch.float64) * 1e-3 + 1
    ones, zeros = torch.ones(3, device=device), torch.zeros(3, device=device)
    dw = torch.ones(3, 1, 1, 1, device=device)
    _, (mean, var), _ = ops.dw_separable_train(
        x.float(), dw, ones, zeros, torch.eye(3, device=device)[..., None, None], ones, zeros, eps=1e-3
    )
    torch.testing.assert_close(mean, x.mean((0, 2, 3)).float())
    torch.testing.assert_close(var, x.var((0, 2, 3), correction=0).float(), rtol=1e-3, atol=0)


def test_dw_separable_train_float32_batch_norm_beside_bfloat16(device):
    args = [a.detach().to(device, torch.bfloat16) for a in separable_case(3)]
    args = [a.float() if a.dim() == 1 else a for a in args]
    for a in args:
        a.requires_grad_()
    y, *_ = ops.dw_separable_train(*args, eps=1e-3)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(a.grad.dtype == a.dtype for a in args)


def test_dw_separable_train_keeps_x_and_two_outputs(device):
    """Nothing else of an activation's size lives until backward."""
    args = [a.detach().to(device, torch.float32).requires_grad_() for a in separable_case(3)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y, *_ = ops.dw_separable_train(*args, eps=1e-3, mid_act="hard_swish", out_act="relu")
    large = [t for t in kept if t.dim() == 4 and t.shape[0] == 2]
    assert sorted(t.shape[1] for t in large) == [6, 11, 11]
    assert not any(t.data_ptr() == y.data_ptr() for t in large)


def test_dw_separable_inference_has_no_gradient():
    args = [a.detach().float().requires_grad_() for a in separable_case(3)]
    y = ops.dw_separable(*args)
    with pytest.raises(RuntimeError, match=r"dw_separable is the inference form .* dw_separable_train"):
        y.sum().backward()
    y = ops.inverted_bottleneck(torch.randn(2, 4, 5, 5, requires_grad=True), *BOTTLENECK[1:])
    with pytest.raises(RuntimeError, match=r"inverted_bottleneck is the inference form"):
        y.sum().backward()


# --- inverted_bottleneck, batch_norm_act_train --------------------------------------------------------------


def inverted_bottleneck_case(k, residual, affine=True, channels=5, mid=11):
    x, _, _, _, expand, *vectors = separable_case(1, affine=affine, channels=channels, outputs=mid)
    _, *separable = separable_case(k, (1, 1, 1), affine, mid, channels if residual else 6)
    return [x, expand, *vectors, *separable]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", KERNELS)
@pytest.mark.parametrize("act", ACTS)
def test_inverted_bottleneck(act, k, stride, device):
    options = {"stride": stride, "act": act, "residual": stride == 1 and k > 1}
    args = [a.detach() for a in inverted_bottleneck_case(k, options["residual"])]
    for dtype in dtypes(device):
        compare(ops.inverted_bottleneck, reference.inverted_bottleneck, args, options, dtype, device)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", KERNELS)
@pytest.mark.parametrize("act", ACTS[1:])  # with none, gradients of inner betas are 0 but for rounding
def test_inverted_bottleneck_train(act, k, stride, device):
    options = {"eps": 1e-3, "stride": stride, "act": act, "residual": stride == 1 and k > 1}
    args = inverted_bottleneck_case(k, options["residual"], affine=k != 5)
    for dtype in dtypes(device):
        compare(
            ops.inverted_bottleneck_train,
            reference.inverted_bottleneck_train,
            args,
            options,
            dtype,
            device,
            factor=20 if dtype in (torch.bfloat16, torch.float16) else 2,  # three normalisations in a row
        )


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_batch_norm_act_train(act, affine, device):
    x, _, *vectors = separable_case(3, affine=affine)[:4]
    options = {"eps": 1e-3, "act": act}
    for dtype in dtypes(device):
        compare(ops.batch_norm_act_train, reference.batch_norm_act_train, [x, *vectors], options, dtype, device)


# --- weights that are part of larger ones -------------------------------------------------------------------


def within_a_larger_one(t: Tensor | None) -> Tensor | None:
    """The same values as the first channels and the centre of the kernel of a tensor that is NaN elsewhere."""
    if t is None:
        return None
    sizes = [size + (3, 2, 4, 4)[axis] * (size > 1 or axis > 1) for axis, size in enumerate(t.shape)]
    larger = torch.full(sizes, torch.nan, dtype=t.dtype)
    larger = larger.to(memory_format=torch.channels_last) if t.dim() == 4 else larger
    view = active.part(larger, active.box(larger.shape, t.shape))
    view.copy_(t.detach())
    return view.detach().requires_grad_(t.requires_grad)


def sliced_cases():
    """Operator, its arguments, options."""
    for conv in CONVS:
        for k in (1, 3, 5):
            args, run = conv_case(conv, k, (2, 6, 5), k == 5)
            yield run(ops.masked_conv2d), args, {"padding": k // 2}
    for k in (1, 3, 5):
        args = separable_case(k)
        yield ops.depthwise_conv2d, args[:2], {"stride": 2}
        yield ops.dw_separable, [a.detach() for a in args], {"mid_act": "swish"}
        yield ops.dw_separable_train, args, {"eps": 1e-3, "mid_act": "swish"}
        args = inverted_bottleneck_case(k, True)
        yield ops.inverted_bottleneck, [a.detach() for a in args], {"residual": True}
        yield ops.inverted_bottleneck_train, args, {"eps": 1e-3, "residual": True}


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_weights_that_are_part_of_larger_ones(form, dtype):
    """The same as with their copies; gradients have their sizes, and for backward they are kept as they are."""
    for op, args, options in sliced_cases():
        args = reference.to(args, dtype)
        views = [args[0], *map(within_a_larger_one, args[1:])]
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            got = op(*views, **options)
        want = op(*args, **options)
        got, want = (y[0] if isinstance(y, tuple) else y for y in (got, want))
        close(got, want, dtype, "output")
        if want.requires_grad:
            grad = torch.randn_like(want)
            pairs = (torch.autograd.grad(y, list(leaves(inputs)), grad) for y, inputs in ((got, views), (want, args)))
            for g, w in zip(*pairs, strict=True):
                close(g, w, dtype, "gradient")
            weights = [v for v in views[1:] if v is not None and v.dim() == 4]
            own = {v.untyped_storage().data_ptr() for v in weights}
            assert all(t.untyped_storage().data_ptr() in own for t in kept if t.shape in {v.shape for v in weights})


# --- all of them --------------------------------------------------------------------------------------------


def test_gradcheck(form):
    for conv in ("dense, masked", "grouped, masked", "depthwise, masked"):
        for coefficients in (False, True):
            args, run = conv_case(conv, 3, (2, 4, 3), coefficients, zeros=False)
            fn = run(ops.masked_conv2d)
            assert torch.autograd.gradcheck(
                lambda *a, fn=fn: fn(*a, stride=2, padding=1), args, fast_mode=True, raise_exception=True
            )
    xs = [torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    p = torch.tensor([0.2, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, *xs: ops.depth_mix(xs, p), [p, *xs])
    for act in ACTS:
        for affine in (True, False):
            args = separable_case(3, (2, 4, 3), affine, channels=3, outputs=2)
            assert torch.autograd.gradcheck(
                lambda *a, act=act: ops.dw_separable_train(*a, eps=0.1, mid_act=act, out_act=act)[0],
                args,
                fast_mode=True,
            )


def opcheck_cases(device):
    def t(*shape, grad=True, **kw):
        return torch.randn(*shape, device=device, requires_grad=grad, **kw)

    nhwc, nchw = t(2, 4, 5, 6).detach().to(memory_format=torch.channels_last), t(2, 4, 5, 6)
    x = nhwc.requires_grad_()
    dw, pw = t(4, 1, 3, 3), t(3, 4, 1, 1)
    c4, c3 = [t(4) for _ in range(2)], [t(3) for _ in range(2)]
    y = t(2, 3, 5, 6, grad=False)
    yield "masked_conv2d", (x, t(6, 8, 3, 3), None, 5, 2, 1, 1)
    yield "masked_conv2d", (nchw, t(6, 8, 3, 3), t(5), 5, 2, 1, 1)
    yield "masked_conv2d", (x, t(8, 1, 3, 3), t(4), 4, 1, 1, 8)
    yield (
        "masked_conv2d_backward",
        (y, x.detach(), t(6, 8, 3, 3, grad=False), t(3, grad=False), 1, 1, 1, [True] * 3),
    )
    yield "depth_mix", ([x, nchw], t(2))
    yield "depth_mix_backward", (y, [y, y + 1], t(2, grad=False))
    folded = [v.detach() for v in (nchw, dw, *c4, pw, *c3)]
    yield "dw_separable", (*folded, 1, "relu", "none")
    yield "dw_separable_train", (x, dw, *c4, 1e-3, pw, *c3, 1e-3, 1, "relu", "relu6")
    yield "dw_separable_train", (nchw, dw, None, None, 1e-3, pw, None, None, 1e-3, 2, "hard_swish", "none")
    block = [v.detach().to(device).requires_grad_() for v in BOTTLENECK]
    yield "inverted_bottleneck", (*[v.detach() for v in block], False, 1, "relu6")
    yield "inverted_bottleneck_train", (*block, 1e-3, False, 2, "hard_swish")
    yield "inverted_bottleneck_train", (*[v if v.dim() == 4 else None for v in block], 1e-3, False, 1, "relu6")
    block = [v.detach() for v in block]
    _, *outs = torch.ops.supernet.inverted_bottleneck_train(*block, 1e-3, False, 1, "relu")
    saved = [v for i in range(3) for v in (*block[3 * i + 1 : 3 * i + 4], *outs[3 + 2 * i : 5 + 2 * i])]
    g = torch.randn(2, 6, 5, 5, device=device)
    yield "inverted_bottleneck_backward", (g, block[0], *outs[:3], *saved, 1e-3, False, 1, "relu", True)
    out = torch.ops.supernet.dw_separable_train(x, dw, *c4, 1e-3, pw, *c3, 1e-3, 1, "relu", "none")
    _, dw_out, pw_out, *s = (o.detach() for o in out)
    x, dw, pw, *c = (v.detach() for v in (x, dw, pw, *c4, *c3))
    yield (
        "dw_separable_backward",
        (
            *(y, x, dw_out, pw_out, dw, *c[:2], *s[:2], 1e-3, pw, *c[2:], *s[2:], 1e-3),
            *(1, "relu", "none", True),
        ),
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_opcheck(device):
    for name, args in opcheck_cases(device):
        torch.library.opcheck(getattr(torch.ops.supernet, name).default, args)


def test_gradients_can_be_taken_once():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    weight = torch.randn(2, 2, 1, 1, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.masked_conv2d(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for supernet::masked_conv2d_backward is not implemented"):
        grad.sum().backward()


def test_empty_batch(device):
    x = torch.randn(0, 4, 5, 5, device=device, requires_grad=True)
    weight = torch.randn(6, 4, 3, 3, device=device, requires_grad=True)
    c = torch.rand(6, device=device, requires_grad=True)
    y = ops.masked_conv2d(x, weight, coefficients=c, stride=2, padding=1)
    assert y.shape == (0, 6, 3, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert weight.grad.eq(0).all()
    assert c.grad.eq(0).all()

    p = torch.rand(2, device=device, requires_grad=True)
    ops.depth_mix([x, x.detach()], p).sum().backward()
    assert p.grad.eq(0).all()

    dw, pw, ones = (torch.ones(s, device=device) for s in ((4, 1, 3, 3), (6, 4, 1, 1), 6))
    assert ops.dw_separable(x.detach(), dw, ones[:4], ones[:4], pw, ones, ones, stride=2).shape == (
        0,
        6,
        3,
        3,
    )
    empty = [x.detach(), *(v.to(device) for v in BOTTLENECK[1:])]
    assert ops.inverted_bottleneck(*empty, stride=2).shape == (0, 6, 3, 3)
    with pytest.raises(RuntimeError, match=r"more than one value per channel, x of shape \[0, 4, 5, 5\]"):
        ops.inverted_bottleneck_train(*empty, eps=1e-3)
    with pytest.raises(RuntimeError, match=r"more than one value per channel, x of shape \[0, 4, 5, 5\]"):
        ops.dw_separable_train(x, dw, None, None, pw, None, None, eps=1e-3)


def test_autocast(device):
    x = torch.randn(2, 11, 9, 7, device=device)
    args = [a.detach().to(device, torch.float32) for a in separable_case(3)]
    with torch.autocast(device, dtype=torch.bfloat16):
        assert ops.masked_conv2d(x, args[1], padding=1, groups=11).dtype == torch.bfloat16
        assert ops.dw_separable(*args).dtype == torch.bfloat16
        y, (mean, _), _ = ops.dw_separable_train(*args, eps=1e-3)
        assert (y.dtype, mean.dtype) == (torch.bfloat16, torch.float32)


def test_torch_compile_sees_one_operator():
    def fn(x, weight, c):
        return ops.masked_conv2d(x, weight, coefficients=c, padding=1).relu()

    args = torch.randn(2, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.rand(6)
    graph = torch.compile(fn, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(*args), fn(*args))


X, W = torch.zeros(2, 4, 5, 5), torch.zeros(16, 8, 3, 3)
DW, PW, V4, V6 = torch.zeros(4, 1, 3, 3), torch.zeros(6, 4, 1, 1), torch.ones(4), torch.ones(6)


# x and weight, scale, shift of expansion (to 8 channels), depthwise and projection (to 6)
BOTTLENECK = [X, torch.ones(8, 4, 1, 1), *[torch.ones(8)] * 2, torch.ones(8, 1, 3, 3), *[torch.ones(8)] * 2]
BOTTLENECK += [torch.ones(6, 8, 1, 1), V6, V6]


def bottleneck(change=None, train=False, **kw):
    """One of them changed: {position: tensor}."""
    args = [(change or {}).get(i, v) for i, v in enumerate(BOTTLENECK)]
    return ops.inverted_bottleneck_train(*args, eps=1e-3, **kw) if train else ops.inverted_bottleneck(*args, **kw)


def separable(x=X, dw=DW, dw_scale=V4, dw_shift=V4, pw=PW, pw_scale=V6, pw_shift=V6, **kw):
    return ops.dw_separable(x, dw, dw_scale, dw_shift, pw, pw_scale, pw_shift, **kw)


def separable_train(x=X, dw=DW, dw_gamma=V4, dw_beta=V4, pw=PW, pw_gamma=V6, pw_beta=V6, eps=1e-3, **kw):
    return ops.dw_separable_train(x, dw, dw_gamma, dw_beta, pw, pw_gamma, pw_beta, eps=eps, **kw)


def conv(x=X, weight=W, coefficients=None, out_channels=4, stride=1, padding=0, groups=1):
    return torch.ops.supernet.masked_conv2d(x, weight, coefficients, out_channels, stride, padding, groups)


def zeros(*shape):
    return torch.zeros(shape)


IMAGE, KERNEL = "should be a 4d tensor [N, C, H, W]", "should have a square kernel of 1, 3, 5 or 7"
DTYPES = "should be float32, bfloat16 or float64 (float16 on CUDA only)"
ACTS_ARE = "should be relu, relu6, hard_swish, swish or none"

# (operator, message, call)
REFUSALS = [
    (
        "masked_conv2d",
        "weight has 16 output channels, out_channels=24 asks for more",
        lambda: conv(out_channels=24),
    ),
    ("masked_conv2d", "out_channels should be at least 1, got 0", lambda: conv(out_channels=0)),
    ("masked_conv2d", "weight has 8 input channels, x brings 9", lambda: conv(zeros(2, 9, 5, 5))),
    ("masked_conv2d", f"x {IMAGE}, got 3d", lambda: conv(X[0])),
    ("masked_conv2d", "x should have channels and pixels, got shape [2, 0, 5, 5]", lambda: conv(X[:, :0])),
    (
        "masked_conv2d",
        "weight should be a 4d tensor [out, in / groups, k, k], got 5d",
        lambda: conv(X, W[None]),
    ),
    ("masked_conv2d", f"weight {KERNEL}, got 2x2", lambda: conv(X, W[..., :2, :2])),
    ("masked_conv2d", f"weight {KERNEL}, got 3x1", lambda: conv(X, W[..., :1])),
    ("masked_conv2d", f"weight {KERNEL}, got 9x9", lambda: conv(X, zeros(4, 4, 9, 9))),
    ("masked_conv2d", "weight is Double, the input is Float", lambda: conv(X, W.double())),
    ("masked_conv2d", f"x {DTYPES}, got Half on cpu", lambda: conv(X.half(), W.half())),
    ("masked_conv2d", f"x {DTYPES}, got Long on cpu", lambda: conv(X.long(), W.long())),
    ("masked_conv2d", "stride should be at least 1, got 0", lambda: conv(stride=0)),
    ("masked_conv2d", "padding should not be negative, got -1", lambda: conv(padding=-1)),
    (
        "masked_conv2d",
        "a 7x7 kernel does not fit an input of 5 pixels with padding 0",
        lambda: conv(X, zeros(4, 4, 7, 7)),
    ),
    ("masked_conv2d", "groups should be at least 1, got 0", lambda: conv(groups=0)),
    ("masked_conv2d", "weight has 16 output channels, which 3 groups do not divide", lambda: conv(groups=3)),
    (
        "masked_conv2d",
        "x brings 4 channels, which groups of 8 input channels do not divide",
        lambda: conv(groups=2),
    ),
    (
        "masked_conv2d",
        "weight has 8 input channels (2 groups of 4), x brings 12",
        lambda: conv(zeros(1, 12, 5, 5), zeros(8, 4, 3, 3), groups=2),
    ),
    (
        "masked_conv2d",
        "x brings 1 of 2 groups, so out_channels should be 4, got 3",
        lambda: conv(X, zeros(8, 4, 3, 3), out_channels=3, groups=2),
    ),
    ("masked_conv2d", "coefficients should have shape [4], got [6]", lambda: conv(coefficients=V6)),
    (
        "masked_conv2d",
        "coefficients should be of the input's type Float or float32, got Double",
        lambda: conv(coefficients=V4.double()),
    ),
    (
        "masked_conv2d_backward",
        "grad should have shape [2, 4, 3, 3], got [2, 4, 4, 3]",
        lambda: torch.ops.supernet.masked_conv2d_backward(zeros(2, 4, 4, 3), X, W, None, 1, 0, 1, [True] * 3),
    ),
    ("depth_mix", "xs should hold 1 to 32 tensors, got 0", lambda: ops.depth_mix([], V4[:0])),
    ("depth_mix", "xs should hold 1 to 32 tensors, got 33", lambda: ops.depth_mix([V4] * 33, torch.ones(33))),
    (
        "depth_mix",
        "xs[1] has shape [2, 4, 5, 4], xs[0] has [2, 4, 5, 5]",
        lambda: ops.depth_mix([X, X[..., :4]], V4[:2]),
    ),
    ("depth_mix", "xs[1] is Double, xs[0] is Float", lambda: ops.depth_mix([X, X.double()], V4[:2])),
    ("depth_mix", f"xs[0] {DTYPES}, got Half on cpu", lambda: ops.depth_mix([X.half()], V4[:1])),
    ("depth_mix", "p should have shape [2], got [3]", lambda: ops.depth_mix([X, X], V4[:3])),
    (
        "depth_mix",
        "p should be of the input's type Double, got Float",
        lambda: ops.depth_mix([X.double()], V4[:1]),
    ),
    (
        "depth_mix_backward",
        "grad should have shape [2, 4, 5, 5], got [4]",
        lambda: torch.ops.supernet.depth_mix_backward(V4, [X], V4[:1]),
    ),
    (
        "dw_separable",
        "dw_weight should have shape [4, 1, k, k] for 4 channels, got [3, 1, 3, 3]",
        lambda: separable(dw=DW[:3]),
    ),
    ("dw_separable", f"x {IMAGE}, got 3d", lambda: separable(x=X[0])),
    ("dw_separable", f"dw_weight {KERNEL}, got 2x2", lambda: separable(dw=DW[..., :2, :2])),
    (
        "dw_separable",
        "pw_weight should have shape [out, 4, 1, 1] for 4 channels, got [6, 3, 1, 1]",
        lambda: separable(pw=PW[:, :3]),
    ),
    ("dw_separable", "dw_scale should have shape [4], got [6]", lambda: separable(dw_scale=V6)),
    ("dw_separable", "pw_shift should have shape [6], got [4]", lambda: separable(pw_shift=V4)),
    ("dw_separable", f"mid_act {ACTS_ARE}, got 'gelu'", lambda: separable(mid_act="gelu")),
    ("dw_separable", "stride should be at least 1, got 0", lambda: separable(stride=0)),
    ("dw_separable_train", f"out_act {ACTS_ARE}, got 'elu'", lambda: separable_train(out_act="elu")),
    (
        "dw_separable_train",
        "dw_gamma and dw_beta should be given together or both be None",
        lambda: separable_train(dw_beta=None),
    ),
    ("dw_separable_train", "pw_gamma should have shape [6], got [4]", lambda: separable_train(pw_gamma=V4)),
    ("dw_separable_train", "eps should be positive, got 0", lambda: separable_train(eps=0.0)),
    (
        "dw_separable_train",
        "batch statistics need more than one value per channel, x of shape [1, 4, 1, 1] leaves 1",
        lambda: separable_train(x=X[:1, :, :1, :1]),
    ),
    (
        "dw_separable_train",
        "pw_weight is BFloat16, the input is Float",
        lambda: separable_train(pw=PW.bfloat16()),
    ),
    ("inverted_bottleneck", f"x {IMAGE}, got 3d", lambda: bottleneck({0: X[0]})),
    (
        "inverted_bottleneck",
        "expand_weight should have shape [mid, 4, 1, 1] for x with 4 channels, got [8, 3, 1, 1]",
        lambda: bottleneck({1: zeros(8, 3, 1, 1)}),
    ),
    ("inverted_bottleneck", "expand_scale should have shape [8], got [6]", lambda: bottleneck({2: V6})),
    (
        "inverted_bottleneck",
        "dw_weight should have shape [8, 1, k, k] for 8 channels, got [4, 1, 3, 3]",
        lambda: bottleneck({4: DW}),
    ),
    (
        "inverted_bottleneck",
        "a residual needs stride 1 and as many outputs as inputs, got stride 1 and 4 -> 6 channels",
        lambda: bottleneck(residual=True),
    ),
    ("inverted_bottleneck", f"act {ACTS_ARE}, got 'gelu'", lambda: bottleneck(act="gelu")),
    (
        "inverted_bottleneck",
        "pw_weight is Double, the input is Float",
        lambda: bottleneck({7: zeros(6, 8, 1, 1).double()}),
    ),
    (
        "inverted_bottleneck_train",
        "expand_gamma and expand_beta should be given together or both be None",
        lambda: bottleneck({2: None}, train=True),
    ),
    (
        "inverted_bottleneck_train",
        "batch statistics need more than one value per channel, x of shape [1, 4, 1, 1] leaves 1",
        lambda: bottleneck({0: X[:1, :, :1, :1]}, train=True),
    ),
]


@pytest.mark.parametrize(("op", "message", "call"), REFUSALS)
def test_refusals(op, message, call):
    with pytest.raises(RuntimeError) as caught:
        call()
    assert str(caught.value).splitlines()[0] == f"{op}: {message}"


def test_refuses_a_mix_of_devices(device):
    if device == "cpu":
        pytest.skip("needs two devices")
    with pytest.raises(RuntimeError, match="masked_conv2d: weight is on cpu, the input is on cuda:0"):
        ops.masked_conv2d(X.cuda(), W)
    with pytest.raises(RuntimeError, match=r"depth_mix: xs\[1\] is on cpu, xs\[0\] is on cuda:0"):
        ops.depth_mix([X.cuda(), X], V4[:2].cuda())


def test_the_build_tells_what_it_is():
    info = ops.build_info()
    assert info["torch"] == torch.__version__.split("+")[0]
    assert (info["cuda"] is None) == (not info["cuda_archs"])


def test_a_missing_extension_is_one_import_error():
    code = "import sys; sys.modules['supernet._C'] = None; import supernet.ops"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: supernet's compiled operators are missing")
    assert last.endswith("pip install --no-build-isolation -e .")
