"""Values and convolutions of 8 bits for the tests of every form."""

import pytest
import torch

quantized = pytest.importorskip("supernet.quantized", reason="the extension is not built", exc_type=ImportError)


def values(shape, dtype, generator):
    ends = torch.iinfo(dtype)
    return torch.randint(ends.min, ends.max + 1, shape, generator=generator).to(dtype)


def conv(outputs, inputs, k, dtype, generator, table=False):
    """Any weights, biases and zero points; scales that spread the sums over the values, some far beyond."""
    spread = 255 / (128 * 128 * (inputs * k * k) ** 0.5)
    scale = spread * 2 ** torch.empty(outputs).uniform_(-2, 3, generator=generator)
    scale[::7] *= 1e6
    zeros = values((2,), dtype, generator).tolist()
    return quantized.QuantisedConv(
        values((outputs, inputs, k, k), torch.int8, generator),
        torch.randint(-(2**14), 2**14, (outputs,), generator=generator, dtype=torch.int32),
        scale,
        *zeros,
        values((256,), dtype, generator) if table else None,
    )
