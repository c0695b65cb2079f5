"""depthwise_conv2d's CUDA kernels on the CPU (tests/simt) against PyTorch in float64."""

import pytest
import reference
import torch
import torch.nn.functional as F
from simt.runner import Out, Scratch, run, run_asan

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# L2 norm of the whole tensor, relative: outputs round once, sums are float32.
TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
ACTS = ("none", "relu", "relu6", "hard_swish", "swish")  # in the order of activation.h
EPS = 1e-3
# (N, C, H, W): one pixel, smaller than the kernel, C no multiple of a vector, several chunks, bands and tiles
SHAPES = ((1, 1, 1, 1), (2, 5, 2, 3), (1, 40, 9, 7), (1, 3, 5, 33), (1, 8, 37, 6))


def nhwc(t):
    return t.permute(0, 2, 3, 1).contiguous()


def nchw(t):
    return t.permute(0, 3, 1, 2)


class Case:
    """Random numbers rounded to the type, and what float64 makes of them."""

    def __init__(self, dtype, shape, k, stride):
        torch.manual_seed(0)
        self.dtype, self.name = DTYPES[dtype], dtype
        n, c, h, w = shape
        x = torch.randn(shape, dtype=torch.float64).to(self.dtype)
        weight = torch.randn(c, 1, k, k, dtype=torch.float64).to(self.dtype)
        exact = [t.double().requires_grad_() for t in (x, weight)]
        y = F.conv2d(*exact, None, stride, k // 2, 1, c)
        grad = torch.randn_like(y).to(self.dtype)
        self.y, (self.grad_x, self.grad_weight) = y.detach(), torch.autograd.grad(y, exact, grad.double())
        self.x, self.weight, self.grad = nhwc(x), weight, nhwc(grad)
        out_h, out_w = y.shape[2:]
        sizes = ("batch", "channels", "height", "width", "out_height", "out_width", "kernel", "stride")
        self.sizes = dict(zip(sizes, (n, c, h, w, out_h, out_w, k, stride), strict=True))
        self.parts = n * out_h * out_w  # no plan has more

    def forward(self, run=run, **kw):
        out = Out(self.grad.shape, self.dtype)
        return run("depthwise", f"forward_{self.name}", x=self.x, weight=self.weight, y=out, **self.sizes, **kw)

    def moments(self, **kw):
        c = self.x.shape[-1]
        arguments = {
            "x": self.x,
            "weight": self.weight,
            "y": Out(self.grad.shape, self.dtype),
            "partial": Scratch((self.parts, 3, c)),
            "out_mean": Out((c,)),
            "out_var": Out((c,)),
        }
        return run("depthwise", f"forward_moments_{self.name}", **arguments, **self.sizes, **kw)

    def input_gradient(self, run=run, **kw):
        out = Out(self.x.shape, self.dtype)
        arguments = {"grad": self.grad, "weight": self.weight, "grad_x": out}
        return run("depthwise", f"input_gradient_{self.name}", **arguments, **self.sizes, **kw)

    def weight_gradient(self, run=run, **kw):
        arguments = {
            "x": self.x,
            "grad": self.grad,
            "partial": Scratch((self.parts, *self.weight.shape)),
            "grad_weight": Out(self.weight.shape, self.dtype),
        }
        return run("depthwise", f"weight_gradient_{self.name}", **arguments, **self.sizes, **kw)

    def close(self, got, want, scale=None):
        error = (got.double() - want).norm() / (want if scale is None else scale).norm().clamp_min(1e-3)
        assert error <= TOLERANCE[self.name], f"relative error {error:.1e}"


class NormCase(Case):
    """act(norm(x)), rounded to the type as the kernels do it, instead of x; and its gradients down to x."""

    def __init__(self, dtype, shape, k, stride, act, affine=True):
        super().__init__(dtype, shape, k, stride)
        c = shape[1]
        gamma, beta = (torch.rand(c) + 0.5, torch.randn(c) + 0.5) if affine else (None, None)
        leaves = [t.double().requires_grad_() for t in (nchw(self.x), self.weight, gamma, beta) if t is not None]
        x, weight, *parameters = leaves
        z, (mean, var) = reference.batch_norm(x, *(parameters or (None, None)), EPS)
        z.retain_grad()
        a = reference.ACTIVATIONS[act](z)
        a = a + (a.detach().to(self.dtype).double() - a.detach())
        y = F.conv2d(a, weight, None, stride, k // 2, 1, c)
        y.backward(nchw(self.grad).double())
        self.y, self.a, self.grad_z = y.detach(), nhwc(a.detach().to(self.dtype)), z.grad
        self.grads = [t.grad for t in leaves]
        self.slope = (1 if gamma is None else gamma.double()) / (var + EPS).sqrt()
        values = {"mean": mean.float(), "var": var.float(), "gamma": gamma, "beta": beta}
        self.norm = {**values, "eps": EPS, "act": ACTS.index(act)}

    def forward(self, run=run, **kw):
        c = self.x.shape[-1]
        return run(
            "depthwise",
            f"norm_forward_{self.name}",
            x=self.x,
            **self.norm,
            weight=self.weight,
            y=Out(self.grad.shape, self.dtype),
            partial=Scratch((self.parts, 3, c)),
            out_mean=Out((c,)),
            out_var=Out((c,)),
            **self.sizes,
            **kw,
        )

    def input_gradient(self, run=run, **kw):
        c = self.x.shape[-1]
        return run(
            "depthwise",
            f"norm_input_gradient_{self.name}",
            grad=self.grad,
            weight=self.weight,
            x=self.x,
            **self.norm,
            grad_z=Out(self.x.shape, self.dtype),
            partial=Scratch((self.x[..., 0].numel(), 2, c)),
            sums=Scratch((2, c)),
            grad_x=Out(self.x.shape, self.dtype),
            grad_gamma=Out((c,)),
            grad_beta=Out((c,)),
            **self.sizes,
            **kw,
        )

    def weight_gradient(self, run=run, **kw):
        return run(
            "depthwise",
            f"norm_weight_gradient_{self.name}",
            x=self.x,
            **self.norm,
            grad=self.grad,
            partial=Scratch((self.parts, *self.weight.shape)),
            grad_weight=Out(self.weight.shape, self.dtype),
            **self.sizes,
            **kw,
        )

    def check(self, **kw):
        forward, back = self.forward(**kw), self.input_gradient(**kw)
        self.close(nchw(forward["y"]), self.y)
        self.close(forward["out_mean"], self.y.mean((0, 2, 3)), self.y.mean((0, 2, 3)).abs() + 1)
        self.close(forward["out_var"], self.y.var((0, 2, 3), correction=0), self.y.square().mean((0, 2, 3)))
        grad_x, grad_weight, *grads = self.grads
        self.close(self.weight_gradient(**kw)["grad_weight"], grad_weight)
        self.close(nchw(back["grad_z"]), self.grad_z)
        # A difference of terms of this size, and of almost nothing for few pixels.
        self.close(nchw(back["grad_x"]), grad_x, self.grad_z * self.slope[:, None, None])
        for got, want in zip((back["grad_gamma"], back["grad_beta"]), grads, strict=False):
            self.close(got, want, self.grad_z)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise(dtype, k, stride):
    for shape in SHAPES:
        case = Case(dtype, shape, k, stride)
        case.close(nchw(case.forward()["y"]), case.y)
        case.close(nchw(case.input_gradient()["grad_x"]), case.grad_x)
        case.close(case.weight_gradient()["grad_weight"], case.grad_weight)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_of_the_output(dtype, k, stride):
    case = Case(dtype, (2, 37, 9, 7), k, stride)
    got = case.moments()
    case.close(nchw(got["y"]), case.y)
    torch.testing.assert_close(got["out_mean"].double(), case.y.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["out_var"].double(), case.y.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)


def test_statistics_survive_a_large_mean():
    case = Case("float32", (2, 4, 9, 9), 3, 1)
    case.weight = torch.zeros_like(case.weight)
    case.weight[:, :, 1, 1] = 1
    case.x = case.x * 1e-2 + 100
    got = case.moments()
    torch.testing.assert_close(got["out_var"], case.x.double().var((0, 1, 2), correction=0).float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_behind_a_batch_norm(dtype, k, stride, act):
    """Every activation on an odd shape, every shape with one of them."""
    for i, shape in enumerate(SHAPES):
        if i == 2 or ACTS[i % len(ACTS)] == act:
            NormCase(dtype, shape, k, stride, act, affine=i != 3).check()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reading_through_a_batch_norm_changes_no_bit(dtype, act):
    case, plain = NormCase(dtype, (2, 19, 6, 5), 5, 1, act), Case(dtype, (2, 19, 6, 5), 5, 1)
    n, h, w, c = case.x.shape
    sizes = {"pixels": n * h * w, "channels": c}
    plain.x = run(
        "batch_norm_act", f"forward_{dtype}", x=case.x, **case.norm, y=Out(case.x.shape, case.dtype), **sizes
    )["y"]
    assert case.forward()["y"].equal(plain.forward()["y"])
    assert case.weight_gradient()["grad_weight"].equal(plain.weight_gradient()["grad_weight"])


@pytest.mark.parametrize("offset", [1, 3])
def test_buffers_that_are_not_aligned(offset):
    case = Case("bfloat16", (2, 40, 5, 6), 3, 2)
    case.close(nchw(case.forward(offset=offset)["y"]), case.y)
    case.close(nchw(case.input_gradient(offset=offset)["grad_x"]), case.grad_x)
    case.close(case.weight_gradient(offset=offset)["grad_weight"], case.grad_weight)
    NormCase("bfloat16", (2, 40, 5, 6), 3, 2, "relu6").check(offset=offset)


def test_channels_that_are_off_are_not_read():
    case = Case("float32", (1, 40, 5, 5), 3, 1)
    case.weight[:32] = 0  # the first block's
    case.x[..., :32] = float("nan")
    y = nchw(case.forward()["y"])
    assert y[:, :32].eq(0).all()
    case.close(y[:, 32:], case.y[:, 32:])


@pytest.mark.slow  # compiles for the sanitizer: `make test-kernels`
@pytest.mark.parametrize("k", [3, 5, 7])
def test_under_address_sanitizer(k):
    for case in (Case("float16", (1, 9, 5, 4), k, 2), NormCase("float16", (1, 9, 5, 4), k, 2, "relu")):
        for call in (case.forward, case.input_gradient, case.weight_gradient):
            call(run=run_asan)
