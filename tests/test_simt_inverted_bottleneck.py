"""inverted_bottleneck's CUDA kernel on the CPU (tests/simt) against the reference in float64."""

import pytest
import reference
import torch
from simt.runner import Failure, Out, count, run, run_asan

ACTS = ("none", "relu", "relu6", "hard_swish", "swish")  # in the order of activation.h
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1.5e-2}
# (N, C, H, W, expanded, O): one pixel, no whole vectors or chunks, several tiles of an image, outputs for two blocks
SHAPES = (
    (1, 1, 1, 1, 1, 1),
    (2, 9, 3, 5, 37, 17),
    (1, 24, 9, 6, 40, 24),
    (1, 8, 10, 19, 16, 33),
    (1, 16, 4, 4, 8, 136),
)


class Case:
    def __init__(self, dtype, shape, k, stride, act="relu6", residual=False, tf32=False):
        torch.manual_seed(0)
        self.name, self.dtype = dtype, DTYPES[dtype]
        n, i, h, w, c, o = shape
        shapes = ((n, i, h, w), (c, i, 1, 1), (c, 1, k, k), (o, c, 1, 1))
        x, expand, dw, pw = (torch.randn(s, dtype=torch.float64).to(self.dtype) for s in shapes)
        scales = [torch.rand(s) + 0.5 * (j % 2 == 0) for j, s in enumerate((c, c, c, c, o, o))]
        calls = (x, expand, *scales[:2], dw, *scales[2:4], pw, *scales[4:])
        options = {"stride": stride, "act": act, "residual": residual}
        self.y = reference.inverted_bottleneck(*[t.double() for t in calls], **options)
        out_h, out_w = self.y.shape[2:]
        names = ("x", "expand_weight", "expand_scale", "expand_shift", "dw_weight", "dw_scale", "dw_shift")
        names += ("pw_weight", "pw_scale", "pw_shift")
        self.arguments = {
            **dict(zip(names, calls, strict=True)),
            "x": x.permute(0, 2, 3, 1).contiguous(),
            "y": Out((n, out_h, out_w, o), self.dtype),
            "act": ACTS.index(act),
            "tf32": tf32,
            "residual": residual,
            "inputs": i,
            "outputs": o,
            **{"batch": n, "channels": c, "height": h, "width": w, "out_height": out_h, "out_width": out_w},
            **{"kernel": k, "stride": stride},
        }

    def run(self, run=run, **kw):
        return run("inverted_bottleneck", f"fused_{self.name}", **self.arguments, **kw)

    def error(self, **kw):
        got = self.run(**kw)["y"].permute(0, 3, 1, 2).double()
        return (got - self.y).norm() / self.y.norm().clamp_min(1e-3)

    def check(self, **kw):
        error = self.error(**kw)
        assert error <= TOLERANCE[self.name], f"relative error {error:.1e}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_inverted_bottleneck(dtype, k, stride):
    for shape in SHAPES:
        Case(dtype, shape, k, stride).check()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_and_residual(dtype, act):
    Case(dtype, (2, 12, 4, 3, 20, 12), 3, 1, act, residual=True).check()


@pytest.mark.parametrize("shape", SHAPES)
def test_floats_on_tensor_cores(shape):
    """Products of numbers with 11 significant bits: off by less than 2^-10, and more than without."""
    assert 1e-6 < Case("float32", shape, 5, 2, tf32=True).error() < 2**-10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_shared", [64 << 10, 113 << 10])
def test_several_tiles_of_a_wide_image(dtype, block_shared):
    """Narrow tiles with a halo on all sides: shared memory does not hold a row of 160 channels."""
    Case(dtype, (1, 160, 8, 40, 20, 16), 5, 1).check(block_shared=block_shared)


def test_an_image_too_wide_for_shared_memory_is_left_to_aten():
    with pytest.raises(Failure, match="elements of 'y' were not written"):
        Case("float32", (1, 1000, 3, 3, 8, 8), 3, 1).run()


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_that_are_not_aligned(dtype):
    Case(dtype, (1, 16, 5, 6, 24, 16), 3, 1, residual=True).check(offset=1)


@pytest.mark.parametrize("size", [7, 11, 14])
def test_blocks_follow_the_device_and_have_work(size):
    case = Case("float16", (1, 8, size, size, 16, 72), 3, 1)
    blocks = []
    for multiprocessors in (1, 20, 132):
        (launch,) = case.run(count, multiprocessors=multiprocessors).launches
        assert launch.idle == 0
        blocks.append(launch.blocks)
    assert blocks[0] < blocks[1] < blocks[2]


@pytest.mark.slow  # compiles for the sanitizer: `make test-kernels`
@pytest.mark.parametrize("dtype", DTYPES)
def test_under_address_sanitizer(dtype):
    Case(dtype, (1, 9, 5, 4, 18, 9), 5, 2).run(run=run_asan)
