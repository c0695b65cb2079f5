"""dw_separable's CUDA kernel on the CPU (tests/simt) against the reference in float64."""

import pytest
import reference
import torch
from simt.runner import Out, run, run_asan

ACTS = ("none", "relu", "relu6", "hard_swish", "swish")  # in the order of activation.h
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-6, "float16": 1.5e-3, "bfloat16": 1e-2}
# (N, C, H, W, O): one pixel, no whole vectors or chunks, several tiles and chunks of both, outputs for two blocks
SHAPES = ((1, 1, 1, 1, 1), (2, 9, 3, 5, 17), (1, 40, 9, 6, 24), (1, 8, 10, 19, 33), (1, 16, 4, 4, 136))


class Case:
    def __init__(self, dtype, shape, k, stride, acts=("relu6", "none"), tf32=False):
        torch.manual_seed(0)
        self.name, self.dtype = dtype, DTYPES[dtype]
        n, c, h, w, o = shape
        x, dw, pw = (
            torch.randn(s, dtype=torch.float64).to(self.dtype) for s in ((n, c, h, w), (c, 1, k, k), (o, c, 1, 1))
        )
        scales = [torch.rand(s) + 0.5 for s in (c, c, o, o)]
        scales[1] -= 1
        exact = [t.double() for t in (x, dw, *scales[:2], pw, *scales[2:])]
        self.y = reference.dw_separable(*exact, stride=stride, mid_act=acts[0], out_act=acts[1])
        out_h, out_w = self.y.shape[2:]
        self.arguments = {
            "x": x.permute(0, 2, 3, 1).contiguous(),
            "dw_weight": dw,
            "dw_scale": scales[0],
            "dw_shift": scales[1],
            "pw_weight": pw,
            "pw_scale": scales[2],
            "pw_shift": scales[3],
            "y": Out((n, out_h, out_w, o), self.dtype),
            "mid_act": ACTS.index(acts[0]),
            "out_act": ACTS.index(acts[1]),
            "tf32": tf32,
            "outputs": o,
            **{"batch": n, "channels": c, "height": h, "width": w, "out_height": out_h, "out_width": out_w},
            **{"kernel": k, "stride": stride},
        }

    def run(self, run=run, **kw):
        return run("dw_separable", f"fused_{self.name}", **self.arguments, **kw)

    def error(self, **kw):
        got = self.run(**kw)["y"].permute(0, 3, 1, 2).double()
        return (got - self.y).norm() / self.y.norm().clamp_min(1e-3)

    def check(self, **kw):
        error = self.error(**kw)
        assert error <= TOLERANCE[self.name], f"relative error {error:.1e}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dw_separable(dtype, k, stride):
    for shape in SHAPES:
        Case(dtype, shape, k, stride).check()


@pytest.mark.parametrize("acts", [(a, b) for a in ACTS for b in ACTS])
def test_activations(acts):
    Case("float32", (1, 5, 4, 3, 6), 3, 1, acts).check()


@pytest.mark.parametrize("shape", SHAPES)
def test_floats_on_tensor_cores(shape):
    """Products of numbers with 11 significant bits: off by less than 2^-10, and more than without."""
    assert 1e-6 < Case("float32", shape, 5, 2, tf32=True).error() < 2**-10


@pytest.mark.parametrize("dtype", DTYPES)
def test_devices_with_less_shared_memory(dtype):
    Case(dtype, (1, 40, 20, 40, 24), 7, 2).check(block_shared=64 << 10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_that_are_not_aligned(dtype):
    Case(dtype, (1, 24, 5, 6, 16), 3, 2).check(offset=1)


@pytest.mark.slow  # compiles for the sanitizer: `make test-kernels`
@pytest.mark.parametrize("dtype", DTYPES)
def test_under_address_sanitizer(dtype):
    Case(dtype, (1, 9, 5, 4, 18), 5, 2).run(run=run_asan)
