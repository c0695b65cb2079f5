"""The int8 blocks' CUDA kernel on the CPU (tests/simt): the bits of plain integer arithmetic."""

from dataclasses import replace

import pytest
import reference
import torch
from int8_cases import conv, quantized, values
from simt.runner import Out, run, run_asan
from torch.nn import functional as F

# (N, inputs or None, C, H, W, O): one pixel, no whole chunks, several tiles, several chunks
SHAPES = ((1, None, 4, 1, 1, 4), (2, None, 36, 5, 7, 12), (1, 8, 12, 9, 6, 8), (1, 36, 40, 4, 19, 36))


def padded(weight, k):
    """Rows of a weight with zeros up to a multiple of k values, as bytes."""
    return F.pad(weight, [0, -weight.shape[-1] % k]).view(torch.uint8)


class Case:
    def __init__(self, shape, k, stride, dtype=torch.uint8, tables=False, residual=False, bias=None):
        generator = torch.Generator().manual_seed(k)
        n, inputs, c, h, w, o = shape
        x = values((n, inputs or c, h, w), dtype, generator)
        dw, pw = conv(c, 1, k, dtype, generator, tables), conv(o, c, 1, dtype, generator, tables and inputs is None)
        expand = conv(c, inputs, 1, dtype, generator, tables) if inputs else None
        if bias is not None:
            expand, dw, pw = (p and replace(p, bias=torch.full_like(p.bias, bias)) for p in (expand, dw, pw))
        added = quantized.QuantisedSum(0.75, 1.25, values((1,), dtype, generator).item()) if residual else None
        if expand:
            self.y = reference.inverted_bottleneck_int8(x, expand, dw, pw, residual=added, stride=stride)
        else:
            self.y = reference.dw_separable_int8(x, dw, pw, stride=stride)
        offset = 128 if dtype == torch.int8 else 0
        parts = {}
        for name, part in (("expand", expand), ("dw", dw), ("pw", pw)):
            last = name == "pw"
            if part is None:
                parts |= {f"{name}_{key}": None for key in ("weight", "bias", "scale", "table")}
                continue
            weight = part.weight[:, 0] if name == "dw" else part.weight[:, :, 0, 0]
            sums = part.weight.long().sum((1, 2, 3)) * (part.in_zero + offset)
            table = part.table
            if table is not None:
                table = table.view(torch.uint8) if last else table.view(torch.uint8) ^ offset
            parts |= {
                f"{name}_weight": padded(weight, 4 if name == "dw" else 32),
                f"{name}_bias": (part.bias - sums).int(),
                f"{name}_scale": part.scale,
                f"{name}_table": table,
            }
        self.dtype = dtype
        self.arguments = {
            "x": x.permute(0, 2, 3, 1).contiguous().view(torch.uint8),
            **parts,
            "y": Out((n, *self.y.shape[2:], o), torch.uint8),
            "x_zero": (expand or dw).in_zero + offset,
            "expand_zero": expand.zero + offset if expand else 0,
            **{"dw_in_zero": dw.in_zero + offset, "dw_zero": dw.zero + offset, "pw_zero": pw.zero + offset},
            "residual": residual,
            **{"x_factor": 0.75, "pw_factor": 1.25, "y_zero": (added.zero if added else 0) + offset},
            "flip": 0x80808080 if offset else 0,
            **{"inputs": inputs or 0, "outputs": o, "batch": n, "channels": c, "height": h, "width": w},
            **{"out_height": self.y.shape[2], "out_width": self.y.shape[3], "kernel": k, "stride": stride},
        }

    def check(self, run=run):
        got = run("int8_blocks", "int8_block", **self.arguments)
        if got is not None:
            assert got["y"].view(self.dtype).permute(0, 3, 1, 2).equal(self.y)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
def test_int8_blocks(k, stride):
    for shape in SHAPES:
        Case(shape, k, stride).check()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_tables_residuals_and_types(dtype):
    Case((1, None, 20, 5, 6, 24), 3, 1, dtype, tables=True).check()
    Case((1, 24, 20, 5, 6, 24), 3, 1, dtype, tables=True, residual=True).check()


@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_sums_beyond_32_bits_wrap_around(dtype, bias):
    Case((1, 24, 20, 5, 6, 24), 3, 1, dtype, bias=bias).check()


@pytest.mark.slow  # compiles for the sanitizer: `make test-kernels`
def test_under_address_sanitizer():
    Case((1, 12, 8, 5, 4, 20), 5, 2).check(run=run_asan)
