"""The CUDA kernels on a GPU: depthwise and batch norm against float64 on the CPU, and what holds for all operators.

(tests/test_ops.py runs the others' matrix on both devices. Without a GPU tests/test_simt_*.py test the same kernels.)
"""

import dataclasses

import pytest
import reference
import torch
import torch.nn.functional as F
from int8_cases import conv, quantized, values

ops = pytest.importorskip("supernet.ops", reason="the extension is not built", exc_type=ImportError)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# (N, C, H, W): one pixel, tails, images smaller than the kernel, several bands, tiles and chunks, batch 1
SHAPES = ((1, 1, 1, 1), (2, 19, 9, 7), (3, 40, 14, 14), (2, 5, 3, 2), (1, 33, 57, 61), (64, 96, 7, 7))

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _device():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if ops.build_info()["cuda"] is None:
        pytest.skip("the extension was built without CUDA")


def on_gpu(*shape, dtype=torch.float32, grad=True):
    t = torch.randn(shape, dtype=torch.float64).to("cuda", dtype)
    if t.dim() == 4:
        t = t.contiguous(memory_format=torch.channels_last)
    return t.requires_grad_(grad)


def close(got, want, dtype, factor=1.0):
    error = (got.detach().double().cpu() - want).norm() / want.norm().clamp_min(1e-2)
    assert error <= TOLERANCE[dtype] * factor, f"relative error {error:.1e}"


def compare(fn, twin, inputs, dtype, factor=1.0):
    exact = [t.detach().double().cpu().requires_grad_() for t in inputs]
    got, want = fn(*inputs), twin(*exact)
    close(got, want.detach(), dtype)
    grad = torch.randn_like(want).to(dtype)
    gots = torch.autograd.grad(got, inputs, grad.cuda())
    wants = torch.autograd.grad(want, exact, grad.double())
    for g, w in zip(gots, wants, strict=True):
        close(g, w, dtype, factor)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise(dtype, k, stride):
    for shape in SHAPES:
        c = shape[1]
        inputs = on_gpu(*shape, dtype=dtype), on_gpu(c, 1, k, k, dtype=dtype)
        compare(
            lambda x, w: ops.depthwise_conv2d(x, w, stride=stride),
            lambda x, w, c=c: F.conv2d(x, w, None, stride, k // 2, 1, c),
            inputs,
            dtype,
        )


@pytest.mark.parametrize("act", ["none", "relu", "relu6", "hard_swish", "swish"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_act(dtype, act):
    acts = {"none": lambda z: z, "relu": F.relu, "relu6": F.relu6, "hard_swish": F.hardswish, "swish": F.silu}
    for shape in SHAPES[1:]:
        inputs = on_gpu(*shape, dtype=dtype), on_gpu(shape[1]), on_gpu(shape[1])
        compare(
            lambda *a: ops.batch_norm_act_train(*a, eps=1e-3, act=act)[0],
            lambda x, g, b: acts[act](F.batch_norm(x, None, None, g, b, training=True, eps=1e-3)),
            inputs,
            dtype,
            factor=5,  # relu's gradient jumps where rounding decides
        )


# (N, C, H, W, expanded, O): tails, several tiles, a residual, outputs of several blocks, x too wide for shared memory
BOTTLENECKS = (
    (1, 1, 1, 1, 1, 1),
    (2, 9, 3, 5, 37, 17),
    (2, 24, 28, 28, 144, 24),
    (1, 16, 7, 9, 40, 600),
    (1, 960, 5, 5, 20, 8),
)


def bottleneck(shape, k, dtype):
    n, i, h, w, c, o = shape
    images = (n, i, h, w), (c, i, 1, 1), (c, 1, k, k), (o, c, 1, 1)
    x, expand, dw, pw = (on_gpu(*s, dtype=dtype, grad=False) for s in images)
    a, b, d, e, f, g = (on_gpu(s, grad=False) for s in (c, c, c, c, o, o))
    return x, expand, a, b, dw, d, e, pw, f, g


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_inverted_bottleneck(dtype, k, stride):
    for shape in BOTTLENECKS:
        inputs = bottleneck(shape, k, dtype)
        options = {"stride": stride, "act": "hard_swish", "residual": stride == 1 and shape[1] == shape[-1]}
        want = reference.inverted_bottleneck(*(t.double().cpu() for t in inputs), **options)
        close(ops.inverted_bottleneck(*inputs, **options), want, dtype, factor=2)


@pytest.mark.parametrize("act", ["relu", "hard_swish", "swish"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_inverted_bottleneck_train(dtype, k, stride, act):
    for shape in BOTTLENECKS[1:3]:
        inputs = [t.requires_grad_() for t in bottleneck(shape, k, dtype)]
        options = {"eps": 1e-3, "stride": stride, "act": act, "residual": stride == 1 and shape[1] == shape[-1]}
        compare(
            lambda *a, o=options: ops.inverted_bottleneck_train(*a, **o)[0],
            lambda *a, o=options: reference.inverted_bottleneck_train(*a, **o)[0],
            inputs,
            dtype,
            factor=8,  # three batch norms, and relu's gradient jumps where rounding decides
        )


def steps(dtype=torch.float16):
    """Forward and backward of every operator, by name, each with a function of its first input."""
    c, o = 48, 24
    x, dw, pw = on_gpu(8, c, 14, 14, dtype=dtype), on_gpu(c, 1, 5, 5, dtype=dtype), on_gpu(o, c, 1, 1, dtype=dtype)
    dense, soft = on_gpu(32, 64, 3, 3, dtype=dtype), on_gpu(32)
    norms = [on_gpu(n) for n in (c, c, o, o)]
    p = on_gpu(2)

    def differentiated(fn, *parameters):
        def call(x):
            y = fn(x, *parameters)
            return [y, *torch.autograd.grad(y.float().square().sum(), [x, *parameters])]

        return call

    def separable_train(x, dw, a, b, pw, *pw_norm):
        return ops.dw_separable_train(x, dw, a, b, pw, *pw_norm, eps=1e-3, mid_act="relu6")[0]

    def bottleneck_train(x, *parameters):
        return ops.inverted_bottleneck_train(x, *parameters, eps=1e-3, residual=True)[0]

    def bottleneck_inference(x):
        return [ops.inverted_bottleneck(x.detach(), *(t.detach() for t in block), residual=True)]

    block = [t.requires_grad_() for t in bottleneck((8, c, 14, 14, 96, c), 5, dtype)[1:]]

    def inference(x):
        folded = [t.detach() for t in (dw, *norms[:2], pw, *norms[2:])]
        return [ops.dw_separable(x.detach(), *folded, mid_act="relu6")]

    return x, {
        "depthwise": differentiated(lambda x, w: ops.depthwise_conv2d(x, w, stride=2), dw),
        "norm": differentiated(lambda x, g, b: ops.batch_norm_act_train(x, g, b, eps=1e-3)[0], *norms[:2]),
        "masked": differentiated(lambda x, w, c: ops.masked_conv2d(x, w, coefficients=c, padding=1), dense, soft),
        "mixture": differentiated(lambda x, p: ops.depth_mix([x, 2 * x.detach()], p), p),
        "separable": differentiated(separable_train, dw, *norms[:2], pw, *norms[2:]),
        "inference": inference,
        "bottleneck": differentiated(bottleneck_train, *block),
        "bottleneck_inference": bottleneck_inference,
    }


OPERATORS = ("depthwise", "norm", "masked", "mixture", "separable", "inference", "bottleneck", "bottleneck_inference")
CUDNN = ("masked", "separable", "bottleneck")


@pytest.mark.parametrize("name", [n for n in OPERATORS if n not in CUDNN])
def test_the_same_bits_from_run_to_run(name):
    x, calls = steps()
    for a, b in zip(calls[name](x), calls[name](x), strict=True):
        assert a.equal(b)


@pytest.mark.parametrize("name", OPERATORS)
def test_captured_in_a_graph(name):
    """No synchronisation, no pageable copy, and the capturing stream is the one that is used."""
    x, calls = steps()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        calls[name](x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = calls[name](x)
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    for got, want in zip(captured, calls[name](x), strict=True):
        close(got, want.detach().double().cpu(), torch.float16)


@pytest.mark.parametrize("name", ["inference", "bottleneck_inference"])
def test_inference_is_one_launch(name):
    x, calls = steps()
    calls[name](x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        calls[name](x)
        torch.cuda.synchronize()
    kernels = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) == 1, kernels


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_int8_blocks(dtype, k, stride):
    """To the bit, with channels that are no whole words, too."""
    generator = torch.Generator().manual_seed(k)
    for n, c, h, w in SHAPES[:5]:
        convs = [conv(2 * c, c, 1, dtype, generator, True), conv(2 * c, 1, k, dtype, generator, True)]
        convs.append(conv(c, 2 * c, 1, dtype, generator))
        x = values((n, c, h, w), dtype, generator)
        residual = quantized.QuantisedSum(0.75, 1.25, 3) if stride == 1 else None
        moved = [dataclasses.replace(each, **on_device(each)) for each in convs]
        got = quantized.inverted_bottleneck(x.cuda(), *moved, residual=residual, stride=stride)
        assert got.cpu().equal(reference.inverted_bottleneck_int8(x, *convs, residual=residual, stride=stride))
        got = quantized.dw_separable(x.cuda().repeat(1, 2, 1, 1), *moved[1:], stride=stride)
        assert got.cpu().equal(reference.dw_separable_int8(x.repeat(1, 2, 1, 1), *convs[1:], stride=stride))


def on_device(each):
    return {key: t.cuda() for key, t in vars(each).items() if isinstance(t, torch.Tensor)}
