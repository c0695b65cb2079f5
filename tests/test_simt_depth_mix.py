"""depth_mix's CUDA kernels on the CPU (tests/simt) against the reference."""

import pytest
import reference
import torch
from simt.runner import Out, Scratch, run, run_asan

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
TILE_BYTES = 256 * 4 * 16  # of a block
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def arguments(n: int, depth: int, dtype: torch.dtype) -> dict:
    """Of the forward pass; p has a zero where it is long enough."""
    p = torch.rand(depth, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    p[1:2] = 0
    return {
        "xs": [torch.randn(n, dtype=torch.float64).to(dtype) for _ in range(depth)],
        "p": p,
        "y": Out((n,), dtype),
        "n": n,
        "depth": depth,
    }


def backward_arguments(n: int, depth: int, dtype: torch.dtype) -> dict:
    forward = arguments(n, depth, dtype)
    tiles = -(-n * dtype.itemsize // TILE_BYTES)
    return {
        "grad": torch.randn(n, dtype=torch.float64).to(dtype),
        "xs": forward["xs"],
        "p": forward["p"],
        "grad_xs": [Out((n,), dtype)] * depth,
        "grad_p": Out((depth,), forward["p"].dtype),
        "partial": Scratch((depth, tiles), forward["p"].dtype),
        "n": n,
        "depth": depth,
    }


def name(stem: str, dtype: torch.dtype) -> str:
    return f"{stem}_{str(dtype).removeprefix('torch.')}"


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """By the L2 norm, and no element far off."""
    actual, expected = actual.double(), expected.double()
    assert (actual - expected).norm() <= TOLERANCE[dtype] * expected.norm()
    torch.testing.assert_close(actual, expected, rtol=4 * TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


# One element; a vector and a bit; a tile, one less, one more; several tiles.
SIZES = pytest.mark.parametrize(
    ("n", "depth", "offset"), [(1, 1, 0), (37, 2, 1), (4096, 3, 0), (4095, 3, 0), (4097, 3, 3), (18001, 2, 0)]
)


@DTYPES
@SIZES
def test_forward(n, depth, offset, dtype):
    call = arguments(n, depth, dtype)
    y = run("depth_mix", name("depth_mix", dtype), offset=offset, **call)["y"]
    close(y, reference.depth_mix([x.double() for x in call["xs"]], call["p"].double()), dtype)


@DTYPES
@SIZES
def test_backward(n, depth, offset, dtype):
    call = backward_arguments(n, depth, dtype)
    xs = [x.double().requires_grad_() for x in call["xs"]]
    p = call["p"].double().requires_grad_()
    reference.depth_mix(xs, p).backward(call["grad"].double())
    out = run("depth_mix", name("depth_mix_backward", dtype), offset=offset, **call)
    for grad_x, x in zip(out["grad_xs"], xs, strict=True):
        close(grad_x, x.grad, dtype)
    # Sums of products in float, however the tensors are stored: as near as the largest term allows.
    scale = call["grad"].double().norm() * max(x.norm() for x in xs)
    torch.testing.assert_close(out["grad_p"].double(), p.grad, rtol=0, atol=1e-6 * scale.item())


def test_an_entry_that_is_off_is_not_read():
    """Not even infinity passes a weight of zero, forward or backward."""
    call = arguments(300, 2, torch.float32)
    call["xs"][1].fill_(torch.inf)
    assert run("depth_mix", "depth_mix_float32", **call)["y"].isfinite().all()
    call = backward_arguments(300, 2, torch.float32)
    call["grad"].fill_(torch.inf)
    assert (run("depth_mix", "depth_mix_backward_float32", **call)["grad_xs"][1] == 0).all()


def test_32_blocks():
    call = arguments(100, 32, torch.float32)
    y = run("depth_mix", "depth_mix_float32", **call)["y"]
    close(y, reference.depth_mix([x.double() for x in call["xs"]], call["p"].double()), torch.float32)


@pytest.mark.parametrize("offset", [0, 1])
def test_with_asan(offset):
    for dtype in (torch.float32, torch.bfloat16):
        run_asan("depth_mix", name("depth_mix", dtype), offset=offset, **arguments(4097, 3, dtype))
        run_asan("depth_mix", name("depth_mix_backward", dtype), offset=offset, **backward_arguments(4097, 3, dtype))
