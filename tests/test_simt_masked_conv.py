"""masked_conv2d's CUDA kernels for the weight on the CPU (tests/simt) against autograd through the scaled weight."""

import pytest
import torch
from simt.runner import Out, run, run_asan

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
# (outputs, inputs, kernel, active outputs, active inputs)
SHAPES = ((12, 10, 3, 12, 10), (12, 10, 1, 5, 7), (3, 40, 5, 2, 33), (19, 1, 7, 11, 1), (1, 1, 1, 1, 1))


class Case:
    def __init__(self, dtype, shape):
        torch.manual_seed(0)
        self.name, self.dtype = dtype, DTYPES[dtype]
        self.acc = torch.float64 if dtype == "float64" else torch.float32
        outputs, inputs, k, self.active_outputs, self.active_inputs = shape
        self.weight = torch.randn(outputs, inputs, k, k, dtype=torch.float64).to(self.dtype)
        self.c = torch.rand(self.active_outputs, dtype=self.acc) + 0.25
        self.c[1::3] = 0
        grad = torch.randn(self.active_outputs, self.active_inputs, k, k, dtype=torch.float64).to(self.dtype)
        self.grad = grad.permute(0, 2, 3, 1).contiguous()  # channels_last, as cuDNN gives it
        weight, c = self.weight.double().requires_grad_(), self.c.double().requires_grad_()
        scaled = weight[: self.active_outputs, : self.active_inputs] * (c * (c != 0))[:, None, None, None]
        self.scaled = scaled.detach()
        self.grad_weight, self.grad_c = torch.autograd.grad(scaled, (weight, c), grad.double())
        names = ("outputs", "inputs", "kernel", "active_outputs", "active_inputs")
        self.sizes = dict(zip(names, shape, strict=True))

    def scale(self, run=run):
        out = Out(self.grad.shape, self.dtype)
        arguments = {"weight": self.weight, "coefficients": self.c, "scaled": out}
        return run("masked_conv", f"scale_{self.name}", **arguments, **self.sizes)

    def gradient(self, run=run, coefficients=True, weight_needed=True, coefficients_needed=True):
        return run(
            "masked_conv",
            f"gradient_{self.name}",
            scaled_grad=self.grad,
            weight=self.weight,
            coefficients=self.c if coefficients else None,
            grad_weight=Out(self.weight.shape, self.dtype) if weight_needed else None,
            grad_coefficients=Out(self.c.shape, self.acc) if coefficients_needed else None,
            **self.sizes,
        )

    def close(self, got, want, tolerance=None):
        error = (got.double() - want).norm() / want.norm().clamp_min(1e-6)
        assert error <= (tolerance or TOLERANCE[self.name]), f"relative error {error:.1e}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_conv(dtype, shape):
    case = Case(dtype, shape)
    case.close(case.scale()["scaled"].permute(0, 3, 1, 2), case.scaled)
    got = case.gradient()
    case.close(got["grad_weight"], case.grad_weight)
    case.close(got["grad_coefficients"], case.grad_c * (case.c != 0), min(TOLERANCE[dtype], 1e-6))
    assert got["grad_coefficients"][case.c == 0].eq(0).all()


def test_off_channels_whatever_the_weight_holds():
    case = Case("float32", SHAPES[0])
    case.weight[1] = float("inf")
    assert case.scale()["scaled"][1].eq(0).all()
    got = case.gradient()
    assert got["grad_weight"][1].eq(0).all()
    assert got["grad_coefficients"][1] == 0


def test_what_is_not_needed():
    case = Case("float32", SHAPES[1])
    case.close(case.gradient(coefficients_needed=False)["grad_weight"], case.grad_weight)
    case.close(case.gradient(weight_needed=False)["grad_coefficients"], case.grad_c * (case.c != 0))
    plain = case.gradient(coefficients=False, coefficients_needed=False)["grad_weight"]
    assert plain[: case.active_outputs, : case.active_inputs].equal(case.grad.permute(0, 3, 1, 2))
    assert plain[case.active_outputs :].eq(0).all()
    assert plain[:, case.active_inputs :].eq(0).all()


def test_under_address_sanitizer():
    case = Case("bfloat16", SHAPES[2])
    case.scale(run=run_asan)
    case.gradient(run=run_asan)
