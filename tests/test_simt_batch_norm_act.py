"""batch_norm_act_train's CUDA kernels on the CPU (tests/simt) against PyTorch in float64."""

import pytest
import reference
import torch
import torch.nn.functional as F
from simt.runner import Out, Scratch, run, run_asan

ACTS = ("none", "relu", "relu6", "hard_swish", "swish")  # in the order of activation.h
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
# (pixels, channels): fewer pixels than threads, no whole vectors, several blocks along both
SHAPES = ((2, 1), (7, 3), (9, 24), (533, 5), (2100, 8), (70, 300))
EPS = 1e-3


class Case:
    """x [pixels, channels] and the like, rounded to the type, and what float64 makes of them."""

    def __init__(self, dtype, shape, act="none", affine=True):
        torch.manual_seed(0)
        self.name, self.dtype, self.act = dtype, DTYPES[dtype], act
        self.acc = torch.float64 if dtype == "float64" else torch.float32
        pixels, channels = shape
        self.x = (2 * torch.randn(shape, dtype=torch.float64) + 0.5).to(self.dtype)
        self.grad = torch.randn(shape, dtype=torch.float64).to(self.dtype)
        self.gamma, self.beta = None, None
        if affine:
            self.gamma = torch.rand(channels, dtype=self.acc) + 0.5
            self.beta = torch.randn(channels, dtype=self.acc)
        leaves = [t.double().requires_grad_() for t in (self.x, self.gamma, self.beta) if t is not None]
        y = reference.ACTIVATIONS[act](F.batch_norm(leaves[0], None, None, *leaves[1:], training=True, eps=EPS))
        self.y = y.detach()
        self.grads = torch.autograd.grad(y, leaves, self.grad.double())
        self.mean, self.var = self.x.double().mean(0), self.x.double().var(0, correction=0)
        self.sizes = {"pixels": pixels, "channels": channels}

    def call(self, function, run=run, **kw):
        return run("batch_norm_act", f"{function}_{self.name}", **kw)

    def statistics(self, **kw):
        pixels, channels = self.x.shape
        moments = Scratch((pixels, 3, channels), self.acc)  # no plan has more parts than pixels
        outs = {"mean": Out((channels,), self.acc), "var": Out((channels,), self.acc)}
        return self.call("statistics", x=self.x, moments=moments, **outs, **self.sizes, **kw)

    def norm(self):
        vectors = {"mean": self.mean.to(self.acc), "var": self.var.to(self.acc), "gamma": self.gamma, "beta": self.beta}
        return {**vectors, "eps": EPS, "act": ACTS.index(self.act)}

    def forward(self, **kw):
        return self.call("forward", x=self.x, **self.norm(), y=Out(self.x.shape, self.dtype), **self.sizes, **kw)

    def backward(self, **kw):
        pixels, channels = self.x.shape
        vector = Out((channels,), self.acc) if self.gamma is not None else None
        return self.call(
            "backward",
            grad=self.grad,
            x=self.x,
            **self.norm(),
            partial=Scratch((pixels, 2, channels), self.acc),
            sums=Scratch((2, channels), self.acc),
            grad_x=Out(self.x.shape, self.dtype),
            grad_gamma=vector,
            grad_beta=vector,
            **self.sizes,
            **kw,
        )

    def close(self, got, want, scale=None):
        error = (got.double() - want).norm() / max((want if scale is None else scale).norm(), 1e-2)
        assert error <= TOLERANCE[self.name], f"relative error {error:.1e}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics(dtype, shape):
    case = Case(dtype, shape)
    got = case.statistics()
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    torch.testing.assert_close(got["mean"].double(), case.mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got["var"].double(), case.var, rtol=tolerance, atol=tolerance)


def test_statistics_survive_a_large_mean():
    case = Case("float32", (600, 8))
    case.x = (case.x * 1e-2 + 300).float()
    torch.testing.assert_close(
        case.statistics()["var"].double(), case.x.double().var(0, correction=0), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_backward(dtype, act):
    for shape in SHAPES:
        for affine in (True, False):
            case = Case(dtype, shape, act, affine)
            case.close(case.forward()["y"], case.y)
            got = case.backward()
            # The gradient is a difference of terms of the gradient's size, and of almost nothing for two pixels.
            case.close(got["grad_x"], case.grads[0], case.grad.double())
            if affine:
                case.close(got["grad_gamma"], case.grads[1], case.grad.double())
                case.close(got["grad_beta"], case.grads[2], case.grad.double())


def test_buffers_that_are_not_aligned():
    case = Case("bfloat16", (70, 24), "relu")
    case.close(case.forward(offset=1)["y"], case.y)
    case.close(case.backward(offset=3)["grad_x"], case.grads[0])
    torch.testing.assert_close(case.statistics(offset=1)["var"].double(), case.var, rtol=1e-5, atol=0)


def test_under_address_sanitizer():
    case = Case("float16", (70, 21), "hard_swish")
    for call in (case.statistics, case.forward, case.backward):
        call(run=run_asan)
