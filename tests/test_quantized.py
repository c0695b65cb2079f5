"""Blocks on 8-bit values: every form gives the bits of plain integer arithmetic."""

import dataclasses
import math
import re

import pytest
import reference
import torch
from aten import forms_for_every_device
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from int8_cases import conv, quantized, values
from torch.nn import functional as F

from supernet.errors import UserError

Quantisation, QuantisedConv, QuantisedSum = quantized.Quantisation, quantized.QuantisedConv, quantized.QuantisedSum
several = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DTYPES = (torch.uint8, torch.int8)


@st.composite
def blocks(draw):
    """x, the convolutions and the options of a block: expanded, or not."""
    dtype, generator = draw(st.sampled_from(DTYPES)), torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 17)), draw(st.integers(1, 30))
    channels, outputs = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    k, stride = draw(st.sampled_from((1, 3, 5, 7))), draw(st.integers(1, 3))
    tables = [draw(st.booleans()) for _ in range(3)]
    inputs = draw(st.none() | st.integers(1, 70))
    options = {"stride": stride}
    if inputs is not None and draw(st.booleans()):
        outputs, options["stride"] = inputs, 1
        ratios = torch.rand(2, generator=generator) * 3
        options["residual"] = QuantisedSum(*ratios.tolist(), values((1,), dtype, generator).item())
    convs = [
        conv(channels, 1, k, dtype, generator, tables[0]),
        conv(outputs, channels, 1, dtype, generator, tables[1] and inputs is None),
    ]
    if inputs is not None:
        convs.insert(0, conv(channels, inputs, 1, dtype, generator, tables[2]))
    return values((n, inputs or channels, h, w), dtype, generator), convs, options


def forms(convs):
    names = ("dw_separable", "dw_separable_int8") if len(convs) == 2 else (
        "inverted_bottleneck", "inverted_bottleneck_int8")  # fmt: skip
    return getattr(quantized, names[0]), getattr(reference, names[1])


def agrees(case):
    x, convs, options = case
    form, twin = forms(convs)
    got = form(x, *convs, **options)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert got.dtype == x.dtype
    assert got.equal(twin(x, *convs, **options))


@several
@given(blocks())
def test_cpu(capability, case):
    agrees(case)


@several
@given(blocks())
def test_the_form_for_every_device(case):
    with forms_for_every_device():
        agrees(case)


def large(channels, outputs, k, stride, size, inputs=None, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(channels + k)
    convs = [conv(channels, 1, k, dtype, generator, k == 5), conv(outputs, channels, 1, dtype, generator)]
    if inputs is not None:
        convs.insert(0, conv(channels, inputs, 1, dtype, generator, k == 5))
    return values((2, inputs or channels, size, size), dtype, generator), convs, {"stride": stride}


def test_several_bands(capability):
    """Images of several bands, and bands of several images; widths of 7, 14 and 28."""
    for case in (
        large(130, 96, 5, 1, 28), large(96, 40, 3, 2, 57), large(40, 24, 7, 1, 7), large(72, 160, 3, 1, 14, 32),
        large(300, 24, 5, 1, 28, 24, torch.int8), large(48, 24, 7, 2, 56, 16),
    ):  # fmt: skip
        agrees(case)


def test_sums_that_a_saturating_product_would_clip(capability):
    """255 times 127, four times over: beyond 16 bits."""
    x = torch.full((1, 64, 3, 3), 255, dtype=torch.uint8)
    ones = [torch.full(shape, 127, dtype=torch.int8) for shape in ((64, 1, 3, 3), (8, 64, 1, 1))]
    convs = [
        QuantisedConv(w, torch.zeros(len(w), dtype=torch.int32), torch.full((len(w),), scale), 0, 0)
        for w, scale in zip(ones, (255 / (255 * 127 * 9), 255 / (255 * 127 * 64)), strict=True)
    ]
    assert quantized.dw_separable(x, *convs)[0, :, 1, 1].eq(255).all()
    agrees((x, convs, {}))


@pytest.mark.parametrize("end", [2**31 - 1, -(2**31)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_beyond_32_bits_wrap_around(dtype, end, capability):
    x, convs, options = large(48, 24, 3, 1, 9, 16, dtype)
    for i in range(3):
        ends = [*convs]
        ends[i] = dataclasses.replace(convs[i], bias=torch.full_like(convs[i].bias, end))
        agrees((x, ends, options))
        with forms_for_every_device():
            agrees((x, ends, options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_onnxruntime_gives_the_same_bits(dtype):
    """Of the graph that its static quantisation writes; but for sums, of 24 bits for it, in one step and few values.

    Halves, which it takes elsewhere than to even in int8, do not come up: scales are any.
    """
    pytest.importorskip("onnxruntime")
    from bench.int8_cases import qdq_session

    for k, stride, expanded in ((3, 1, False), (5, 2, True), (3, 1, True)):
        x, convs, _ = large(48, 24, k, stride, 15, 24 if expanded else None, dtype)
        convs = [
            dataclasses.replace(c, scale=torch.where(c.scale > 1, c.scale * 1e-6, c.scale), table=None) for c in convs
        ]
        (got,) = qdq_session(x, convs, stride).run(None, {"x": x.numpy()})
        assert torch.from_numpy(got).equal(forms(convs)[0](x, *convs, stride=stride))
    residual = QuantisedSum(0.6789, 1.2345, 9)
    (got,) = qdq_session(x, convs, 1, residual).run(None, {"x": x.numpy()})
    ours = quantized.inverted_bottleneck(x, *convs, residual=residual)
    different = (torch.from_numpy(got).int() - ours.int()).abs()
    assert different.max() <= 1
    assert different.float().mean() < 0.01


@pytest.mark.parametrize("end", [2**31 - 1, -(2**31)])
def test_sums_of_onnxruntime_wrap_around_too(end):
    """Those of uint8; with int8 it does not keep to integers for such a bias."""
    pytest.importorskip("onnxruntime")
    from bench.int8_cases import qdq_session

    x, convs, _ = large(48, 24, 3, 1, 15)
    convs = [dataclasses.replace(c, scale=c.scale.clamp_max(1), bias=torch.full_like(c.bias, end)) for c in convs]
    (got,) = qdq_session(x, convs, 1).run(None, {"x": x.numpy()})
    assert torch.from_numpy(got).equal(quantized.dw_separable(x, *convs))


def test_does_not_depend_on_the_threads():
    x, convs, options = large(70, 20, 5, 1, 41, 33)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(quantized.inverted_bottleneck(x, *convs, **options))
    finally:
        torch.set_num_threads(before)
    assert all(results[0].equal(other) for other in results[1:])


def test_an_empty_batch_and_other_layouts(capability):
    x, convs, options = large(20, 6, 3, 2, 9)
    assert quantized.dw_separable(x[:0], *convs, **options).shape == (0, 6, 5, 5)
    strided = torch.repeat_interleave(x, 2, dim=3)[..., ::2]
    assert quantized.dw_separable(strided, *convs, **options).equal(quantized.dw_separable(x, *convs, **options))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_opcheck():
    x, convs, _ = large(20, 6, 3, 2, 9)
    arguments = (x, *convs[0].arguments, *convs[1].arguments, 2)
    torch.library.opcheck(torch.ops.supernet.dw_separable_int8.default, arguments)


@pytest.mark.parametrize("act", ["relu6", "hard_swish", "none"])
@pytest.mark.parametrize("k", [3, 5])
def test_a_quantised_block_is_near_its_floats(act, k):
    """Within what rounding weights and activations to 8 bits leaves of the block in floats."""
    torch.manual_seed(0)
    x = torch.randn(2, 24, 14, 14)
    convs = [(torch.randn(72, 24, 1, 1) / 5, torch.randn(72)), (torch.randn(72, 1, k, k) / k, torch.randn(72))]
    projection = torch.randn(24, 72, 1, 1) / 8, torch.randn(24)
    activation = reference.ACTIVATIONS[act]

    def quantisation(t):
        low, high = min(t.min().item(), 0), max(t.max().item(), 0)
        return Quantisation((high - low) / 255, round(-255 * low / (high - low)))

    real, into, quantised = x, quantisation(x), []
    for (weight, bias), groups in zip(convs, (1, 72), strict=True):
        before = F.conv2d(real, weight, bias, padding=weight.shape[2] // 2, groups=groups)
        real = activation(before)
        out = quantisation(real if act == "relu6" else before)
        behind = quantisation(real)
        table = activation if act == "hard_swish" else None
        quantised.append(QuantisedConv.of(weight, bias, into, out, table, behind))
        into = behind
    projected = F.conv2d(real, *projection)
    quantised.append(QuantisedConv.of(*projection, into, quantisation(projected)))
    want = projected + x
    sums, inner, outer = quantisation(want), quantisation(projected), quantisation(x)
    residual = QuantisedSum(outer.scale / sums.scale, inner.scale / sums.scale, sums.zero)
    got = sums.dequantise(quantized.inverted_bottleneck(outer.quantise(x), *quantised, residual=residual))
    assert (got - want).norm() / want.norm() < 0.03


@pytest.mark.parametrize("weight", [0.0, 1e-40, 1e-6, 1.0])
@pytest.mark.parametrize("bias", [0.0, 1.0, -300.0])
def test_a_channel_of_small_weights_keeps_its_bias(weight, bias):
    """As batch norm leaves a channel that died: its output is its bias."""
    into, out = Quantisation(1e-4, 128), Quantisation(4.0, 128)
    weights = torch.tensor([weight, 1.0])[:, None, None, None].expand(2, 1, 3, 3)
    dw = QuantisedConv.of(weights, torch.tensor([bias, 0.0]), into, out)
    same = QuantisedConv.of(torch.eye(2)[:, :, None, None], torch.zeros(2), out, out)
    x = torch.rand(1, 2, 5, 5) / 100
    want = F.conv2d(x, weights, torch.tensor([bias, 0.0]), padding=1, groups=2)
    got = out.dequantise(quantized.dw_separable(into.quantise(x), dw, same))
    assert dw.bias.abs().max() <= 2**30
    torch.testing.assert_close(got, want, rtol=0, atol=out.scale / 2 + 0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 3), "a scale should be positive and finite, got 0.0"),
        ((-1.0, 3), "a scale should be positive and finite, got -1.0"),
        ((math.nan, 3), "a scale should be positive and finite, got nan"),
        ((math.inf, 3), "a scale should be positive and finite, got inf"),
        ((1.0, 300), "zero should be a value of torch.uint8, from 0 to 255, got 300"),
        ((1.0, 0.5), "zero should be a value of torch.uint8, from 0 to 255, got 0.5"),
        ((1.0, 200, torch.int8), "zero should be a value of torch.int8, from -128 to 127, got 200"),
        ((1.0, 3, torch.int32), "a quantisation should have values of uint8 or int8, got torch.int32"),
    ],
)
def test_quantisations_that_are_refused(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Quantisation(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": torch.zeros(3)}, "weight should be [out, in / groups, k, k] and bias [out], got [2, 1, 3, 3] and [3"),
        ({"weight": torch.zeros(2, 9)}, "and bias [out], got [2, 9] and [2]"),
        ({"bias": torch.tensor([0, math.inf])}, "weight and bias should be finite, got infinities or NaN"),
        ({"weight": torch.full((2, 1, 3, 3), math.nan)}, "weight and bias should be finite"),
        ({"out": Quantisation(1.0, 0, torch.int8)}, "of one type, got torch.uint8 and torch.int8"),
        ({"activated": Quantisation(1.0, 0, torch.int8)}, "of one type, got torch.uint8 and torch.int8"),
    ],
)
def test_convolutions_that_are_refused(change, message):
    into = Quantisation(1.0, 0)
    arguments = {"weight": torch.zeros(2, 1, 3, 3), "bias": torch.zeros(2), "into": into, "out": into} | change
    with pytest.raises(UserError, match=re.escape(message)):
        QuantisedConv.of(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 4, 5, 5)}, "dw_separable_int8: x should be uint8 or int8, got Float"),
        ({"dw_weight": torch.zeros(4, 1, 3, 3)}, "dw_separable_int8: dw_weight is Float, the input is Byte, beside"),
        ({"pw_scale": torch.ones(3)}, "dw_separable_int8: pw_scale should be Float of shape [6], got Float of shape"),
        ({"dw_zero": 256}, "dw_separable_int8: dw_zero should be a value of Byte, from 0 to 255, got 256"),
        ({"dw_table": torch.zeros(256)}, "dw_separable_int8: dw_table should be Byte of shape [256], got Float"),
    ],
)
def test_refusals(change, message):
    generator = torch.Generator().manual_seed(0)
    convs = conv(4, 1, 3, torch.uint8, generator), conv(6, 4, 1, torch.uint8, generator)
    operator = torch.ops.supernet.dw_separable_int8.default
    arguments = (values((1, 4, 5, 5), torch.uint8, generator), *convs[0].arguments, *convs[1].arguments, 1)
    named = dict(zip((a.name for a in operator._schema.arguments), arguments, strict=True)) | change
    with pytest.raises(RuntimeError) as caught:
        operator(*named.values())
    assert str(caught.value).startswith(message)


def test_the_projection_has_no_table():
    x, convs, _ = large(8, 8, 3, 1, 5, 8)
    table = values((256,), torch.uint8, torch.Generator())
    with pytest.raises(RuntimeError, match="the projection should have no activation, got a table"):
        quantized.inverted_bottleneck(x, *convs[:2], QuantisedConv(*convs[2].arguments[:5], table))
