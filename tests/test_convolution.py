"""Convolutions of every shape against float64, by modules and by operators: also where taps meet no pixel."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from aten import forms_for_every_device
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from supernet.convolution import Conv2d, conv2d

ops = pytest.importorskip("supernet.ops", reason="the extension is not built", exc_type=ImportError)

TESTS = Path(__file__).parent
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2}
FORMS = {
    "module": (conv2d, nullcontext),
    "operator": (ops.masked_conv2d, nullcontext),
    "operator, any device": (ops.masked_conv2d, forms_for_every_device),
}


@st.composite
def shapes(draw):
    """Of x and weight, stride, padding and groups."""
    depthwise = draw(st.booleans())
    groups = draw(st.integers(1, 20)) if depthwise else draw(st.sampled_from((1, 1, 2, 4)))
    inputs, outputs = (1, 1) if depthwise else (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    k = draw(st.sampled_from((1, 3, 5, 7)))
    padding = draw(st.one_of(st.just(k // 2), st.integers(0, 8)))
    height, width = draw(st.integers(1, 17)), draw(st.integers(1, 17))
    assume(min(height, width) + 2 * padding >= k)
    x, weight = (draw(st.integers(1, 3)), groups * inputs, height, width), (groups * outputs, inputs, k, k)
    return x, weight, draw(st.integers(1, 4)), padding, groups


def results(convolve, x, weight, grad, **window):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = convolve(x, weight, **window)
    grad = torch.randn_like(y) if grad is None else grad.to(y.dtype)
    return y, *torch.autograd.grad(y, (x, weight), grad), grad


def close(x, weight, dtype, convolve, **window):
    x, weight = x.to(dtype), weight.to(dtype)
    freed = [torch.full(weight.shape, torch.nan).to(dtype) for _ in range(8)]
    del freed  # what is left unwritten shows
    *got, grad = results(convolve, x, weight, None, **window)
    *want, _ = results(F.conv2d, x.double(), weight.double(), grad, **window)
    for what, a, b in zip(("output", "gradient of x", "gradient of weight"), got, want, strict=True):
        assert a.dtype == dtype
        error = ((a.double() - b).norm() / b.norm().clamp_min(0.1)).item()
        assert error <= TOLERANCE[dtype], f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(shapes())
def test_against_float64(form, dtype, shape):
    x, weight, stride, padding, groups = shape
    convolve, forms = FORMS[form]
    with forms():
        close(torch.randn(x), torch.randn(weight), dtype, convolve, stride=stride, padding=padding, groups=groups)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_where_onednn_is_wrong(form):
    convolve, forms = FORMS[form]
    with forms():
        for _ in range(20):
            x, weight = torch.randn(1, 12, 16, 1), torch.randn(20, 3, 3, 3)
            close(x, weight, torch.bfloat16, convolve, stride=3, padding=1, groups=4)
            x, weight = torch.randn(3, 2, 3, 1), torch.randn(2, 2, 7, 7)
            close(x, weight, torch.bfloat16, convolve, stride=2, padding=3)
            x, weight = torch.randn(1, 2, 5, 2).to(memory_format=torch.channels_last), torch.randn(2, 1, 5, 5)
            close(x, weight, torch.bfloat16, convolve, stride=4, padding=2, groups=2)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_few_channels_at_stride_2(form, groups):
    """Read alone, on sizes that the stride does not divide."""
    convolve, forms = FORMS[form]
    with forms():
        for dtype in TOLERANCE:
            x = torch.randn(2, 8, 15, 14).to(memory_format=torch.channels_last)
            close(x, torch.randn(6, 8 // groups, 1, 1), dtype, convolve, stride=2, padding=0, groups=groups)


BEYOND = """
import torch
from test_convolution import FORMS
for convolve, forms in FORMS.values():
    with forms():
        for _ in range(5):
            x = torch.randn(2, 8, 224, 224).contiguous(memory_format=torch.channels_last)
            w = torch.randn(48, 8, 1, 1, requires_grad=True)
            convolve(x, w, stride=2, padding=0).sum().backward()
            memory = [torch.randn(n) for n in (10, 1000, 100000)]
"""


def test_the_gradient_of_few_channels_at_stride_2_stays_within_its_memory():
    """PyTorch's does not: the process dies by a signal (docs/known_faults.md)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    done = subprocess.run([sys.executable, "-c", BEYOND], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_masked_weights_and_coefficients_where_taps_meet_no_pixel():
    """Groups and outputs that are off stay out; the coefficients' gradient reads the weight's."""
    for _ in range(20):
        x, weight, c = (torch.randn(s).bfloat16().requires_grad_() for s in ((1, 12, 16, 1), (40, 3, 3, 3), 20))
        y = ops.masked_conv2d(x, weight, coefficients=c, stride=3, padding=1, groups=8)
        grad = torch.randn_like(y)
        got = torch.autograd.grad(y, (x, weight, c), grad)
        x, weight, c = (t.detach().double().requires_grad_() for t in (x, weight, c))
        y = F.conv2d(x, weight[:20] * c.view(-1, 1, 1, 1), stride=3, padding=1, groups=4)
        for a, b in zip(got, torch.autograd.grad(y, (x, weight, c), grad.double()), strict=True):
            assert (a - b).norm() <= 2e-2 * b.norm()


@pytest.mark.parametrize("bias", [False, True])
def test_the_module_is_pytorchs(bias):
    own, theirs = Conv2d(4, 6, 3, 2, 1, groups=2, bias=bias), torch.nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=bias)
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(2, 4, 7, 5)
    assert torch.equal(own(x), theirs(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(own(x), theirs(x))
        small = own(x[..., :1, :1])
    assert small.dtype == torch.bfloat16
    torch.testing.assert_close(small.float(), theirs(x[..., :1, :1]), rtol=2e-2, atol=2e-2)
